"""`FaceAnalyzer`: a picture in, its faces out; and `select_face`, which says why a face can not be used."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence

import numpy as np

from agesdk.backends import Engine, load_engine
from agesdk.bundle import Bundle, FaceAnalysisSettings
from agesdk.errors import BundleError, FaceError, ImageError
from agesdk.faces.align import five_points
from agesdk.faces.detector import Detections, FaceDetector
from agesdk.faces.frames import Source
from agesdk.faces.landmarks import MARGIN, LandmarkModel, Mesh, Region, face_region, upright_box
from agesdk.faces.pose import head_pose
from agesdk.faces.types import Face

_log = logging.getLogger(__name__)

MIN_SIZE = 48.0
"""Smallest face that is analysed for certain, in pixels of `Face.size`; below it the mesh is a guess."""

MAX_YAW = 50.0
"""Largest yaw in degrees at which both halves of the face show enough skin."""

# Smaller faces than MIN_SIZE are looked for too, so that the answer is "too small" and not "no face".
_SEARCH_MARGIN = 0.75
CERTAIN = 0.8
"""Score from which on a face is taken for one without doubt. Upright faces reach 0.9; an upside-down one can
pass for an upright one, and folds of cloth for a face, but their scores stay below."""

SURE_MESH = 0.99
"""Presence that the mesh needs where the score is not certain. Right meshes have 0.998, even of small and
turned faces; those found in the mouth of a face thrown back, or on a face upside down, mostly less."""

# Beside the largest face, all faces of at least this share of its size are looked for.
_COMPANION = 0.4
# A face that is small in its window is placed badly and scores less than in the windows of the next level.
_CLEARLY_BETTER = 0.05
# Two meshes are the same face when more than this share of the smaller one's box lies in the other's.
_SAME_FACE = 0.6


class FaceAnalyzer:
    """Finds faces, their dense landmarks and their pose; made by `FaceAnalyzer.load`.

    Safe to use from several threads at once if its backend is (ONNX Runtime is).
    """

    def __init__(
        self,
        detector: FaceDetector,
        landmark_model: LandmarkModel,
        mean_face: np.ndarray,
        threshold: float = 0.5,
    ) -> None:
        self._detector = detector
        self._landmark_model = landmark_model
        self._mean_face = mean_face
        self._threshold = threshold

    @classmethod
    def load(
        cls,
        bundle: Bundle | str | os.PathLike[str] | None = None,
        backend: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
    ) -> FaceAnalyzer:
        """Open a face-analysis bundle.

        Parameters
        ----------
        bundle:
            A bundle or its folder; None opens the embedded one.
        backend, provider, threads:
            As for `agesdk.backends.load_engine`.

        Raises
        ------
        BundleError, BackendError, UsageError
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, kind="face-analysis")
        load = functools.partial(load_engine, backend=backend, provider=provider, threads=threads)
        return cls.from_engines(bundle, load)

    @classmethod
    def from_engines(cls, bundle: Bundle, load: Callable[[Bundle, str], Engine]) -> FaceAnalyzer:
        """Over the engines that ``load`` opens by component name."""
        settings = bundle.settings
        if not isinstance(settings, FaceAnalysisSettings):
            raise BundleError(
                f"{bundle.path} is not a face-analysis bundle.", f"its kind is {bundle.manifest.kind}"
            )
        shape = bundle.table("face_shape")
        return cls(
            FaceDetector(
                load(bundle, "face_detector"), settings.detector_threshold, settings.overlap_threshold
            ),
            LandmarkModel(load(bundle, "face_landmarks"), shape["mirror"]),
            shape["mean_face"],
            settings.landmark_threshold,
        )

    def detect(self, image: np.ndarray, min_size: float = MIN_SIZE, thorough: bool = False) -> list[Face]:
        """The faces of a picture, largest first; an empty list if there are none.

        Windows shrink until a face is found and every other one of at least 0.4 times its size would have
        been. Faces turned in the picture by up to 60° are found as they are; when none is certain, the
        picture is tried on its sides and upside down. A face whose score is below `CERTAIN` and whose mesh is
        not sure either (`SURE_MESH`) is none.

        Parameters
        ----------
        image:
            uint8 [H, W, 3] RGB. It is read in place: no full-size copy is made.
        min_size:
            Smallest face worth looking for, pixels. Smaller ones may still be returned.
        thorough:
            Look for faces of ``min_size`` beside large ones too: in a picture of 12 megapixels this takes
            some 1,200 windows (about 2 ms each on one CPU core) instead of ten.

        Raises
        ------
        ImageError
            Not a uint8 picture with three channels.
        """
        _check_image(image)
        source = Source(image)
        faces: list[Face] = []
        for complete_from, detections in self._detector.levels(source, _SEARCH_MARGIN * min_size):
            faces = _distinct(faces + self._analyse(source, _news(detections, faces)))
            _log.debug(
                "faces from %.0f px: %d detections, %d faces", complete_from, len(detections), len(faces)
            )
            if not thorough and faces and complete_from <= _COMPANION * max(face.size for face in faces):
                break
        if all(face.score < CERTAIN for face in faces):
            turned = self._analyse(source, self._detector.turned(source))
            certain = [face for face in turned if face.score >= CERTAIN]
            faces = _distinct(faces + (certain if faces else turned))
        return sorted(faces, key=lambda face: -face.size)

    def refine(self, image: np.ndarray, landmarks: np.ndarray, score: float = 1.0) -> Face | None:
        """The face whose mesh, float [468, 2 or 3], is roughly known from elsewhere (the frame before, an
        edited picture); None if there is no face."""
        _check_image(image)
        mesh = self._landmark_model.find(Source(image), [face_region(landmarks)])[0]
        return self._face(mesh, score) if mesh.presence >= self._threshold else None

    def _analyse(self, source: Source, detections: Detections) -> list[Face]:
        regions = [
            Region(centre, MARGIN * float(side), float(angle))
            for centre, side, angle in zip(detections.centre, detections.side, detections.angle)
        ]
        if not regions:
            return []
        meshes = self._landmark_model.find(source, regions)
        return [
            self._face(mesh, float(score))
            for mesh, score in zip(meshes, detections.score)
            if mesh.presence >= (self._threshold if score >= CERTAIN else max(self._threshold, SURE_MESH))
        ]

    def _face(self, mesh: Mesh, score: float) -> Face:
        low, high = mesh.landmarks[:, :2].min(axis=0), mesh.landmarks[:, :2].max(axis=0)
        return Face(
            bbox=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
            score=score,
            presence=mesh.presence,
            landmarks=mesh.landmarks.astype(np.float32),
            pose=head_pose(mesh.landmarks, self._mean_face),
            size=float(upright_box(mesh.landmarks)[1].max()),
            keypoints=five_points(mesh.landmarks),
        )


def select_face(
    faces: Sequence[Face], index: int | None = None, min_size: float = MIN_SIZE, max_yaw: float = MAX_YAW
) -> Face:
    """The face to work on.

    Parameters
    ----------
    faces:
        As `FaceAnalyzer.detect` returns them, largest first.
    index:
        Which one; None takes the largest of those that are certain and within the limits, or, if none is,
        the largest of all (and logs it when there are several).
    min_size, max_yaw:
        Limits in pixels of `Face.size` and in degrees.

    Raises
    ------
    FaceError
        No face, no such index, a face too small or turned away; ``measured`` has ``size`` or ``yaw``.
    """
    if not faces:
        raise FaceError(
            "The picture shows no face.",
            fix=f"Use a picture in which a face of at least {min_size:.0f} pixels looks towards the camera.",
        )
    if index is not None and (not isinstance(index, (int, np.integer)) or not 0 <= index < len(faces)):
        raise FaceError(
            f"There is no face {index!r}.",
            f"{len(faces)} {'face was' if len(faces) == 1 else 'faces were'} found.",
            f"Give an index from 0 (the largest) to {len(faces) - 1}.",
        )
    if index is None:
        good = (
            face.score >= CERTAIN and face.size >= min_size and abs(face.pose.yaw) <= max_yaw
            for face in faces
        )
        index = next((i for i, usable in enumerate(good) if usable), 0)
        if len(faces) > 1:
            _log.info(
                "the picture shows %d faces, 0 to %d; face %d is taken", len(faces), len(faces) - 1, index
            )
    face = faces[index]
    if face.size < min_size:
        raise FaceError(
            f"The face is {face.size:.0f} pixels high.",
            f"at least {min_size:.0f} are needed",
            "Use a picture of higher resolution.",
            {"size": face.size},
        )
    if abs(face.pose.yaw) > max_yaw:
        raise FaceError(
            f"The face is turned away by {abs(face.pose.yaw):.0f}°.",
            f"up to {max_yaw:.0f}° can be used",
            "Use a picture in which both eyes show.",
            {"yaw": face.pose.yaw},
        )
    return face


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(
            f"The picture is {got}.", "uint8 [H, W, 3] RGB is expected.", "Read it with agesdk.imaging."
        )
    if min(image.shape[:2]) == 0:
        raise ImageError(f"The picture is empty: {image.shape[1]} × {image.shape[0]} pixels.")


def _overlap(a: Face, b: Face) -> float:
    """Shared area of two faces' boxes as a share of the smaller box."""
    low = np.maximum(a.bbox[:2], b.bbox[:2])
    high = np.minimum(a.bbox[2:], b.bbox[2:])
    shared = float(np.prod(np.maximum(high - low, 0.0)))
    smaller = min((f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]) for f in (a, b))
    return shared / max(smaller, 1e-12)


def _distinct(faces: list[Face]) -> list[Face]:
    """One face where several meshes lie on it: the one with the highest score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face, other) <= _SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _news(detections: Detections, faces: Sequence[Face]) -> Detections:
    """Detections that lie in no face found before, or see such a face clearly better than before."""

    def is_news(centre: np.ndarray, side: float, score: float) -> bool:
        inside = [f for f in faces if np.all(centre >= f.bbox[:2]) and np.all(centre <= f.bbox[2:])]
        return all(side > 0.5 * face.size and score > face.score + _CLEARLY_BETTER for face in inside)

    news = [is_news(*item) for item in zip(detections.centre, detections.side, detections.score)]
    return detections.take(np.array(news, bool))
