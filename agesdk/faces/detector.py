"""Finding faces: BlazeFace over a pyramid of square windows.

BlazeFace ("BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", Bazarevsky et al. 2019) sees 128
× 128 pixels and finds faces of about a sixth to more than the whole of its window, upright or turned by 60°
either way. One window over the whole picture finds a portrait; levels of smaller windows, each at least half
as wide as those before, find smaller faces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agesdk.backends import Engine
from agesdk.faces.frames import Source, frame_step, make_frame, to_image

INPUT_SIZE = 128
# (cells per side, anchors per cell) of the two feature maps, strides 8 and 16 ("BlazeFace", section 3.3).
_ANCHOR_GRIDS = ((16, 2), (8, 6))
_KEYPOINTS = 6

# A face is found for certain from this share of its window's side on; smaller ones need a smaller window.
_SMALLEST_SHARE = 0.19
# Windows of one level overlap by this share of their side: the largest face the level above may miss fits in.
_OVERLAP = 0.4
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Detections:
    """Faces as the detector sees them, N of them, sorted by score.

    Attributes
    ----------
    centre: float64 [N, 2], image pixels.
    side: float64 [N], side of the square box, image pixels.
    score: float64 [N], 0..1.
    keypoints: float64 [N, 6, 2], image pixels: left eye, right eye, nose tip, mouth, left ear, right ear.
    """

    centre: np.ndarray
    side: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    @property
    def angle(self) -> np.ndarray:
        """Clockwise turn of the line through the eyes, radians, float64 [N]."""
        across = self.keypoints[:, 1] - self.keypoints[:, 0]
        return np.asarray(np.arctan2(across[:, 1], across[:, 0]))

    def take(self, which: np.ndarray) -> Detections:
        return Detections(self.centre[which], self.side[which], self.score[which], self.keypoints[which])


_NONE = Detections(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros((0, _KEYPOINTS, 2)))


class FaceDetector:
    """Detector over an engine with input ``image`` uint8 [batch, 128, 128, 3] RGB and outputs ``boxes``
    float32 [batch, 896, 16], ``scores`` float32 [batch, 896] (logits).

    Parameters
    ----------
    threshold:
        Least score of a detection, 0..1.
    overlap_threshold:
        Detections whose boxes overlap by more (intersection over union) are one face.
    """

    def __init__(self, engine: Engine, threshold: float = 0.5, overlap_threshold: float = 0.3) -> None:
        self._engine = engine
        odds = threshold / (1.0 - threshold) if threshold < 1.0 else math.inf
        self._least_logit = math.log(odds) if odds > 0.0 else -math.inf
        self._overlap_threshold = overlap_threshold
        self._anchors = make_anchors()

    def levels(self, source: Source, smallest: float) -> Iterator[tuple[float, Detections]]:
        """Detections of each level, from the whole picture to windows that show faces of ``smallest`` pixels.

        Each comes with the size from which on it shows every face, pixels. Windows are cut as the levels are
        asked for.
        """
        whole = float(max(source.height, source.width))
        steps = max(0, math.ceil(math.log2(_SMALLEST_SHARE * whole / smallest)))
        for window in np.geomspace(whole, max(smallest / _SMALLEST_SHARE, whole / 2**steps), steps + 1):
            squares = list(_windows(source.width, source.height, float(window)))
            yield _SMALLEST_SHARE * float(window), self._detect(source, squares)

    def turned(self, source: Source) -> Detections:
        """Detections in the picture turned by quarters: for one that was stored on its side."""
        centre = np.array([source.width - 1, source.height - 1]) / 2
        window = float(max(source.height, source.width))
        return self._detect(source, [(centre, window, quarter * math.pi / 2) for quarter in (1, 2, 3)])

    def _detect(self, source: Source, squares: list[tuple[np.ndarray, float, float]]) -> Detections:
        """Run the network over squares (centre, side, angle) of the picture."""
        found: list[Detections] = []
        for start in range(0, len(squares), _BATCH):
            batch = squares[start : start + _BATCH]
            frames = [make_frame(centre, side, INPUT_SIZE, angle) for centre, side, angle in batch]
            outputs = self._engine.run(
                {"image": np.stack([source.cut(frame, INPUT_SIZE) for frame in frames])}
            )
            boxes = self._engine.to_host(outputs["boxes"])
            scores = self._engine.to_host(outputs["scores"])
            for frame, box, score in zip(frames, boxes, scores):
                found.append(self._decode(frame, box, score, (source.width, source.height)))
        return weighted_nms(_concatenate(found), self._overlap_threshold)

    def _decode(
        self, frame: np.ndarray, boxes: np.ndarray, logits: np.ndarray, size: tuple[int, int]
    ) -> Detections:
        """Candidates of one window above the threshold, in image pixels."""
        keep = np.flatnonzero(logits >= self._least_logit)
        if not len(keep):
            return _NONE
        score = 1.0 / (1.0 + np.exp(-np.clip(logits[keep].astype(np.float64), -80.0, 80.0)))
        raw = boxes[keep].astype(np.float64)
        anchors = self._anchors[keep]
        centre = raw[:, :2] + anchors * INPUT_SIZE
        side = raw[:, 2:4].max(axis=1)
        keypoints = raw[:, 4:].reshape(-1, _KEYPOINTS, 2) + anchors[:, None] * INPUT_SIZE
        whole = ~_cut_off(frame, centre, side, size)
        # The network counts from pixel edges, frames from pixel centres.
        return Detections(
            to_image(frame, centre[whole] - 0.5),
            side[whole] * frame_step(frame),
            score[whole],
            to_image(frame, keypoints[whole] - 0.5),
        )


def make_anchors() -> np.ndarray:
    """Anchor centres as fractions of the input, float64 [896, 2], in the network's order."""
    grids = []
    for cells, count in _ANCHOR_GRIDS:
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells, count, axis=0))
    return np.concatenate(grids)


def box_overlap(centre: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of squares, float64 [N, N]; centre [N, 2], side [N]."""
    low, high = centre - side[:, None] / 2, centre + side[:, None] / 2
    shared = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    intersection = np.prod(np.maximum(shared, 0.0), axis=-1)
    area = side**2
    return np.asarray(intersection / np.maximum(area[:, None] + area[None] - intersection, 1e-12))


def weighted_nms(detections: Detections, overlap_threshold: float) -> Detections:
    """Merge overlapping detections into their score-weighted mean (BlazeFace, section 3.4); sorted by score.

    The best remaining detection gathers all those that overlap it by more than the threshold.
    """
    order = np.argsort(-detections.score, kind="stable")
    d = detections.take(order)
    overlap = box_overlap(d.centre, d.side)
    free = np.ones(len(d), bool)
    groups = []
    for best in range(len(d)):
        if free[best]:
            members = free & (overlap[best] > overlap_threshold)
            members[best] = True
            free &= ~members
            groups.append(np.where(members, d.score, 0.0) / d.score[members].sum())
    if not groups:
        return d
    weights = np.stack(groups)
    firsts = np.array([np.flatnonzero(group)[0] for group in groups])
    return Detections(
        weights @ d.centre, weights @ d.side, d.score[firsts], np.tensordot(weights, d.keypoints, axes=1)
    )


def _concatenate(parts: list[Detections]) -> Detections:
    return Detections(
        np.concatenate([part.centre for part in parts]),
        np.concatenate([part.side for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.keypoints for part in parts]),
    )


def _windows(width: int, height: int, window: float) -> Iterator[tuple[np.ndarray, float, float]]:
    """Upright squares of side ``window`` that cover the picture, as (centre, side, angle)."""

    def centres(length: int) -> np.ndarray:
        if window >= length:
            return np.array([(length - 1) / 2])
        count = math.ceil((length - window) / (window * (1 - _OVERLAP))) + 1
        return np.linspace(window / 2, length - window / 2, count) - 0.5

    for y in centres(height):
        for x in centres(width):
            yield np.array([x, y]), window, 0.0


def _cut_off(frame: np.ndarray, centre: np.ndarray, side: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which boxes (frame pixels) cross an edge of their window beyond which the picture goes on, bool [N].

    The neighbouring window, or the level above, shows such a face whole.
    """
    middle = (INPUT_SIZE - 1) / 2
    edges = np.array([[-0.5, middle], [middle, -0.5], [INPUT_SIZE - 0.5, middle], [middle, INPUT_SIZE - 0.5]])
    inside = to_image(frame, edges)
    margin = 0.01 * frame_step(frame) * INPUT_SIZE
    goes_on = np.all((inside > margin) & (inside < np.array(size) - 1 - margin), axis=1)
    beyond = np.column_stack([centre - side[:, None] / 2 < 0, centre + side[:, None] / 2 > INPUT_SIZE])
    return np.asarray(np.any(beyond & goes_on, axis=1))
