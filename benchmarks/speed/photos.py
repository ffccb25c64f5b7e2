"""The picture that is aged where none is given: the packaged portrait, at the size that is asked for."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

PORTRAIT = "data/astronaut.jpg"
_FACE_ROWS = 320
"""The upper left square of the packaged portrait (512 pixels), which the face fills well."""


def portrait(megapixels: float) -> np.ndarray:
    """The packaged portrait enlarged, uint8 [H, W, 3] RGB."""
    import cv2

    from agesdk.imaging import read_image

    square = read_image(files("agesdk").joinpath(PORTRAIT).read_bytes())[:_FACE_ROWS, :_FACE_ROWS]
    side = round((1e6 * megapixels) ** 0.5)
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_CUBIC))
