"""The dense mesh: 468 points of a face, by a network that sees one upright face at a time.

The network is MediaPipe's FaceMesh ("Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs",
Kartynnik et al. 2019). It is most exact when the face fills its crop as in training, so the mesh is found in
passes: the first crop comes from the detector, the next from the mesh before. The last pass also sees the
mirrored crop, and the two meshes are averaged, which halves the jitter and makes the mesh of a mirrored
picture the mirrored mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agesdk.backends import Engine
from agesdk.faces.frames import Source, frame_step, make_frame, to_image
from agesdk.faces.mesh import eye_angle
from agesdk.faces.types import LANDMARKS

INPUT_SIZE = 192
# The crop's side in sides of the box around the face, as in the network's training.
MARGIN = 1.5
_BATCH = 16
# What the first pass gives less presence than this is no face, and is not looked at again.
_HOPELESS = 0.1


@dataclass(frozen=True, eq=False)
class Region:
    """The square in which the mesh is looked for: centre float64 [2] and side in image pixels, clockwise
    angle in radians."""

    centre: np.ndarray
    side: float
    angle: float


@dataclass(frozen=True, eq=False)
class Mesh:
    """landmarks: float64 [468, 3], image pixels; presence: 0..1."""

    landmarks: np.ndarray
    presence: float


class LandmarkModel:
    """Mesh finder over an engine with input ``image`` uint8 [batch, 192, 192, 3] RGB and outputs
    ``landmarks`` float32 [batch, 468, 3] in input pixels and ``presence`` float32 [batch] (logits).

    Parameters
    ----------
    mirror:
        int [468]: for each point, the number of its mirror image.
    """

    def __init__(self, engine: Engine, mirror: np.ndarray) -> None:
        self._engine = engine
        self._mirror = np.asarray(mirror, np.int64)

    def find(self, source: Source, regions: Sequence[Region], passes: int = 3) -> list[Mesh]:
        """The mesh in each region, refined from pass to pass.

        Parameters
        ----------
        source:
            The picture, uint8 [H, W, 3] RGB.
        passes:
            Crops per face in all, the mirrored one of the last pass not counted.
        """
        meshes = self._run(source, regions, mirrored=passes == 1)
        for number in range(1, passes):
            good = [i for i, mesh in enumerate(meshes) if mesh.presence >= _HOPELESS]
            again = [face_region(meshes[i].landmarks) for i in good]
            for i, mesh in zip(good, self._run(source, again, mirrored=number == passes - 1)):
                meshes[i] = mesh
        return meshes

    def _run(self, source: Source, regions: Sequence[Region], mirrored: bool) -> list[Mesh]:
        flips = (False, True) if mirrored else (False,)
        frames = [make_frame(r.centre, r.side, INPUT_SIZE, r.angle, flip) for r in regions for flip in flips]
        meshes: list[Mesh] = []
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            outputs = self._engine.run(
                {"image": np.stack([source.cut(frame, INPUT_SIZE) for frame in batch])}
            )
            points = self._engine.to_host(outputs["landmarks"])
            presence = self._engine.to_host(outputs["presence"])
            meshes += [self._mesh(*item) for item in zip(batch, points, presence)]
        if not mirrored:
            return meshes
        return [
            Mesh(
                (plain.landmarks + flipped.landmarks[self._mirror]) / 2,
                (plain.presence + flipped.presence) / 2,
            )
            for plain, flipped in zip(meshes[::2], meshes[1::2])
        ]

    def _mesh(self, frame: np.ndarray, points: np.ndarray, presence: np.ndarray) -> Mesh:
        points = points.astype(np.float64).reshape(LANDMARKS, 3)
        # The network counts from pixel edges, frames from pixel centres.
        flat = to_image(frame, points[:, :2] - 0.5)
        probability = 1.0 / (1.0 + np.exp(-np.clip(float(presence), -80.0, 80.0)))
        return Mesh(np.column_stack([flat, points[:, 2] * frame_step(frame)]), float(probability))


def upright_box(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box around the mesh whose sides follow the line through the eyes: centre [2] and sides [2]."""
    angle = eye_angle(landmarks)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    upright = np.asarray(landmarks, np.float64)[:, :2] @ axes.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    return axes.T @ ((low + high) / 2), high - low


def face_region(landmarks: np.ndarray) -> Region:
    """Where to look for a face whose mesh is roughly known."""
    centre, sides = upright_box(landmarks)
    return Region(centre, float(MARGIN * sides.max()), eye_angle(landmarks))
