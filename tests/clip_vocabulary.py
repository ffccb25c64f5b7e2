"""CLIP's published byte-pair vocabulary, from the package that ships it; the package is never imported."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def clip_vocabulary_file() -> Path:
    """``bpe_simple_vocab_16e6.txt.gz``; the test is skipped where no package brings it."""
    spec = importlib.util.find_spec("clip")
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz" if spec and spec.origin else None
    if path is None or not path.is_file():
        pytest.skip("NOT TESTED with CLIP's vocabulary: pip install openai-clip==1.0.1 brings it")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path
