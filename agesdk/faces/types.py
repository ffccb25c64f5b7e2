"""The vocabulary of face analysis: `Face` and `Pose`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANDMARKS = 468
"""Points of the dense mesh, numbered as in MediaPipe FaceMesh."""


@dataclass(frozen=True)
class Pose:
    """Where the head turns to, in degrees; all zero for a face that looks into the camera.

    Attributes
    ----------
    yaw:
        Positive when the nose points to the right of the picture.
    pitch:
        Positive when the face looks up.
    roll:
        Positive when the head is turned clockwise as a viewer sees it.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a picture. Pixel centres lie at whole numbers; "left" is the viewer's left.

    Attributes
    ----------
    bbox:
        (x0, y0, x1, y1) around the landmarks, pixels; may reach beyond the picture.
    score:
        Confidence of the detector, 0..1.
    presence:
        Confidence of the landmark model that its crop shows a face, 0..1.
    landmarks:
        float32 [468, 3]: x and y in pixels of the picture, z in the same scale, smaller towards the camera.
    pose:
        Yaw, pitch and roll in degrees.
    size:
        The larger side of the upright box around the landmarks, pixels: about the distance from the
        forehead's hairline to the chin. It does not depend on roll.
    keypoints:
        float32 [5, 2], pixels: left eye, right eye, nose tip, left and right mouth corner.
    """

    bbox: tuple[float, float, float, float]
    score: float
    presence: float
    landmarks: np.ndarray
    pose: Pose
    size: float
    keypoints: np.ndarray

    def __post_init__(self) -> None:
        for name, array, shape in (
            ("landmarks", self.landmarks, (LANDMARKS, 3)),
            ("keypoints", self.keypoints, (5, 2)),
        ):
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"{name} is {array.dtype} {list(array.shape)}, expected float32 {list(shape)}."
                )
            array.setflags(write=False)
