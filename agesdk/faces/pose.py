"""Head pose: the rotation that lays a mean face, measured looking into the camera, onto a mesh."""

from __future__ import annotations

import math

import numpy as np

from agesdk.faces.types import Pose


def rigid_fit(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, rotation R [d, d] and shift t [d] that minimise ‖s R source + t − target‖².

    The closed form of Umeyama ("Least-squares estimation of transformation parameters between two point
    patterns", 1991). source, target: float [N, d].
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    signs = np.ones(len(singular))
    signs[-1] = np.sign(np.linalg.det(u @ vt)) or 1.0
    rotation = (u * signs) @ vt
    scale = float((singular * signs).sum() / max((a**2).sum(), 1e-300))
    return scale, rotation, target_mean - scale * rotation @ source_mean


def head_pose(landmarks: np.ndarray, mean_face: np.ndarray) -> Pose:
    """Pose of a mesh against the mean face, both float [468, 3]; x right, y down, z away from the camera."""
    _, rotation, _ = rigid_fit(mean_face, landmarks)
    return pose_of_rotation(rotation)


def pose_of_rotation(rotation: np.ndarray) -> Pose:
    """The angles of R = Rz(roll) Ry(yaw) Rx(pitch), float [3, 3]: turning the picture changes roll alone."""
    r = np.asarray(rotation, np.float64)
    return Pose(
        yaw=math.degrees(math.atan2(r[2, 0], math.hypot(r[0, 0], r[1, 0]))),
        pitch=math.degrees(math.atan2(-r[2, 1], r[2, 2])),
        roll=math.degrees(math.atan2(r[1, 0], r[0, 0])),
    )
