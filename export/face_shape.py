"""The mean face and the mirror table of the dense mesh, measured on many portraits.

``python -m export.face_shape LANDMARKS.npz export/face_shape.npz`` writes the table that ``python -m export
face-analysis`` puts into the bundle. LANDMARKS.npz holds ``landmarks``, float [N, 468, 3], meshes of N
portraits whose subjects mostly look into the camera: the median pitch of the portraits is taken as no pitch.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

from agesdk.faces.pose import pose_of_rotation, rigid_fit

logger = logging.getLogger(__name__)

TABLE = Path(__file__).with_name("face_shape.npz")
_MIRROR = np.array([-1.0, 1.0, 1.0])


def measure_face_shape(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean face and the mirror table of N ≥ 2 meshes.

    landmarks: float [N, 468, 3].

    Returns
    -------
    mean_face:
        float64 [468, 3], symmetric in x, centred, of unit root mean square radius; x right, y down, z away.
    mirror:
        int64 [468]: the number of each point's mirror image.

    Raises
    ------
    ValueError
        The mean is too lopsided to pair its points.
    """
    mean = _procrustes_mean(landmarks)
    mirror = _mirror_table(mean)
    normal = np.linalg.svd(mean - mean[mirror], full_matrices=False)[2][0]
    normal *= np.sign(normal[0])
    down = np.array([0.0, 1.0, 0.0]) - normal * normal[1]
    down /= np.linalg.norm(down)
    upright = mean @ np.stack([normal, down, np.cross(normal, down)]).T
    symmetric = (upright + upright[mirror] * _MIRROR) / 2
    pitches = [pose_of_rotation(rigid_fit(symmetric, mesh)[1]).pitch for mesh in landmarks]
    pitch = np.radians(np.median(pitches))
    level = symmetric @ np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    return level / np.sqrt((level**2).sum(axis=1).mean()), mirror


def _procrustes_mean(landmarks: np.ndarray) -> np.ndarray:
    """Generalised Procrustes mean: every mesh is laid onto the mean of the round before."""
    mean = _normalised(np.asarray(landmarks[0], np.float64))
    for _ in range(5):
        total = np.zeros_like(mean)
        for mesh in landmarks:
            scale, rotation, shift = rigid_fit(mesh, mean)
            total += scale * mesh @ rotation.T + shift
        mean = _normalised(total)
    return mean


def _normalised(mesh: np.ndarray) -> np.ndarray:
    centred = mesh - mesh.mean(axis=0)
    return np.asarray(centred / np.sqrt((centred**2).sum(axis=1).mean()))


def _mirror_table(mean: np.ndarray) -> np.ndarray:
    """Pairs by nearest neighbour of the mirrored mean, laid onto the mean again after each round."""
    mirrored = mean * _MIRROR
    mirror = np.arange(len(mean))
    for _ in range(20):
        mirror = ((mirrored[:, None] - mean[None]) ** 2).sum(axis=-1).argmin(axis=1)
        scale, rotation, shift = rigid_fit(mirrored, mean[mirror])
        mirrored = scale * mirrored @ rotation.T + shift
    if not np.array_equal(mirror[mirror], np.arange(len(mean))):
        raise ValueError("The mean face is not symmetric enough to pair its points: give more portraits.")
    return mirror


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the mean face and the mirror table.")
    parser.add_argument("landmarks", type=Path, help=".npz with landmarks, float [N, 468, 3]")
    parser.add_argument("output", type=Path, help="where to write the table (.npz)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with np.load(arguments.landmarks, allow_pickle=False) as arrays:
        landmarks = arrays["landmarks"]
    mean_face, mirror = measure_face_shape(landmarks)
    np.savez_compressed(
        arguments.output, mean_face=mean_face.astype(np.float32), mirror=mirror.astype(np.int16)
    )
    logger.info("wrote %s from %d meshes", arguments.output, len(landmarks))


if __name__ == "__main__":
    main()
