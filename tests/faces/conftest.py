"""What the face tests share: the packaged portrait and the embedded analyzer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import agesdk
from agesdk.faces import Face, FaceAnalyzer
from agesdk.imaging import read_image


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """NASA's portrait of Eileen Collins, uint8 [512, 512, 3]; her face is about 107 pixels high."""
    return read_image(Path(agesdk.__file__).parent / "data" / "astronaut.jpg")


@pytest.fixture(scope="session")
def analyzer() -> FaceAnalyzer:
    return FaceAnalyzer.load(threads=1)


@pytest.fixture(scope="session")
def face(analyzer: FaceAnalyzer, portrait: np.ndarray) -> Face:
    (found,) = analyzer.detect(portrait)
    return found
