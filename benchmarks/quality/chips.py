"""Face chips: the aligned squares that dlib's face networks were trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agesdk.faces.mesh import EYE_CORNERS, NOSE_BASE

# Outer and inner corner of the left eye, of the right eye, and the base of the nose (left and right are the
# person's). Mesh index of each, and its place in dlib's mean face (`get_face_chip_details`, five-point case),
# where the unit square is the chip without padding.
_MESH_INDICES = (*reversed(EYE_CORNERS[1]), *EYE_CORNERS[0], NOSE_BASE)
_MEAN_FACE = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)


def chip_transform(landmarks: NDArray[np.floating], size: int, padding: float) -> NDArray[np.float64]:
    """The similarity that takes chip pixels to image pixels.

    Parameters
    ----------
    landmarks:
        float [468, 2 or 3], FaceMesh points in image pixels.
    size:
        Side of the chip in pixels.
    padding:
        Margin around the mean face, as a share of its side on each side.

    Returns
    -------
    float64 [2, 3]
    """
    chip = (padding + _MEAN_FACE) / (2 * padding + 1) * size
    return similarity(chip, np.asarray(landmarks, np.float64)[list(_MESH_INDICES), :2])


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares similarity (rotation, uniform scale, shift; no reflection) that takes `source` [N, 2] to
    `target` [N, 2].

    With points as complex numbers it is the linear regression ``target = a * source + b``, which has this
    closed form.
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
