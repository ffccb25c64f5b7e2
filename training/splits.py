"""Which face belongs to training, validation and test, decided by its name alone."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Literal

Split = Literal["train", "val", "test"]

TEST_SHARE = 0.06
VALIDATION_SHARE = 0.03


def person_of(file: str) -> str:
    """The person behind a file name: pictures of one person (neutral and smiling) share a split."""
    stem = PurePosixPath(file).stem
    match = re.fullmatch(r"(london)_(\d+).*", stem)
    return f"{match[1]}_{match[2]}" if match else stem


def split_of(file: str) -> Split:
    """Stable under adding or removing other files: the SHA-256 of the person's name, read as a fraction of
    one.
    """
    digest = hashlib.sha256(person_of(file).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "val" if share < TEST_SHARE + VALIDATION_SHARE else "train"
