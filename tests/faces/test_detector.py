import numpy as np
import pytest

from agesdk.faces.detector import (
    INPUT_SIZE,
    Detections,
    FaceDetector,
    box_overlap,
    make_anchors,
    weighted_nms,
)
from agesdk.faces.frames import Source


class OneAnswer:
    """An engine that gives the same boxes and scores for every window, and counts the windows."""

    inputs = outputs = ()
    name = "face_detector"

    def __init__(self, boxes: np.ndarray, scores: np.ndarray) -> None:
        self.boxes, self.scores, self.windows = boxes, scores, 0

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = len(feeds["image"])
        self.windows += batch
        return {"boxes": np.stack([self.boxes] * batch), "scores": np.stack([self.scores] * batch)}

    def to_host(self, tensor: np.ndarray) -> np.ndarray:
        return tensor


def answer(anchor: int, dx: float, dy: float, side: float, logit: float = 4.0) -> OneAnswer:
    boxes, scores = np.zeros((896, 16), np.float32), np.full(896, -100, np.float32)
    boxes[anchor, :4] = dx, dy, side, side
    boxes[anchor, 4:8] = -10, -5, 10, -5
    scores[anchor] = logit
    return OneAnswer(boxes, scores)


def test_anchors_are_those_of_the_paper() -> None:
    """Section 3.3: 2 anchors in each cell of 16 × 16 and 6 in each of 8 × 8, at the cells' centres."""
    anchors = make_anchors()
    assert anchors.shape == (896, 2)
    assert anchors[:3].tolist() == [[1 / 32, 1 / 32], [1 / 32, 1 / 32], [3 / 32, 1 / 32]]
    assert anchors[512].tolist() == [1 / 16, 1 / 16] and anchors[-1].tolist() == [15 / 16, 15 / 16]
    assert np.allclose(anchors.mean(axis=0), 0.5)


def test_decoding_maps_a_box_to_the_picture() -> None:
    """Anchor 0 (centre 4, 4 of 128) moved by (60, 44) is at pixel edge (64, 48), times 5 in 640 pixels."""
    detector = FaceDetector(answer(0, 60, 44, 32))
    complete_from, found = next(iter(detector.levels(Source(np.zeros((640, 640, 3), np.uint8)), 1e9)))
    assert complete_from < 640 / 5
    assert found.centre.tolist() == [[pytest.approx(64 * 5 - 0.5), pytest.approx(48 * 5 - 0.5)]]
    assert found.side.tolist() == [pytest.approx(160)]
    assert found.score.tolist() == [pytest.approx(1 / (1 + np.exp(-4)))]
    assert found.keypoints[0, 0].tolist() == [
        pytest.approx((4 - 10) * 5 - 0.5),
        pytest.approx((4 - 5) * 5 - 0.5),
    ]
    assert found.angle.tolist() == [0.0]


def test_turned_windows_give_the_angle_back() -> None:
    found = FaceDetector(answer(0, 60, 60, 32)).turned(Source(np.zeros((640, 640, 3), np.uint8)))
    assert np.allclose(found.centre, 319.5)
    single = FaceDetector(answer(0, 60, 30, 32)).turned(Source(np.zeros((640, 640, 3), np.uint8)))
    assert sorted(np.round(np.degrees(single.angle)).tolist()) in ([-180, -90, 90], [-90, 90, 180])


def test_faces_cut_by_an_inner_edge_of_a_window_are_left_to_its_neighbour() -> None:
    engine = answer(0, -2, 60, 40)
    (_, first), (_, second) = FaceDetector(engine).levels(
        Source(np.zeros((640, 640, 3), np.uint8)), 640 * 0.19 / 2
    )
    assert len(first) == 1  # beyond the window lies no picture
    assert len(second) and np.all(second.centre[:, 0] < 20)  # only windows at the picture's left edge keep it


@pytest.mark.parametrize("width, height", [(8, 8), (640, 480), (4000, 300), (1, 900)])
def test_windows_reach_every_pixel_at_every_level(width: int, height: int) -> None:
    from agesdk.faces.detector import _windows

    for window in (max(width, height), max(width, height) / 2, max(width, height) / 3.3):
        seen = np.zeros((height, width), bool)
        for (x, y), side, _ in _windows(width, height, window):
            x0, y0 = (max(0, int(np.floor(v - side / 2 + 0.5))) for v in (x, y))
            seen[y0 : int(np.ceil(y + side / 2 + 0.5)), x0 : int(np.ceil(x + side / 2 + 0.5))] = True
        assert seen.all()


def test_number_of_windows_stays_bounded() -> None:
    engine = answer(0, 60, 60, 32, logit=-50)
    for _ in FaceDetector(engine).levels(Source(np.zeros((900, 1200, 3), np.uint8)), 36):
        pass
    assert engine.windows < 200


def detections(boxes: list[tuple[float, float, float, float]]) -> Detections:
    rows = np.array(boxes)
    keypoints = np.repeat(rows[:, None, :2], 6, axis=1)
    return Detections(rows[:, :2], rows[:, 2], rows[:, 3], keypoints)


def test_overlap_of_squares_in_closed_form() -> None:
    d = detections([(0, 0, 2, 1), (1, 0, 2, 1), (5, 5, 2, 1)])
    assert np.allclose(box_overlap(d.centre, d.side), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])


def test_weighted_nms_averages_by_score_and_keeps_the_best_score() -> None:
    merged = weighted_nms(detections([(100, 100, 50, 0.6), (104, 100, 50, 0.9), (300, 100, 40, 0.7)]), 0.3)
    assert merged.score.tolist() == [0.9, 0.7]
    assert merged.centre[0].tolist() == [pytest.approx((100 * 0.6 + 104 * 0.9) / 1.5), pytest.approx(100)]
    assert merged.centre[1].tolist() == [300, 100]
    assert np.allclose(merged.keypoints[0], merged.centre[0])


def test_nothing_above_the_threshold_gives_nothing() -> None:
    detector = FaceDetector(answer(0, 60, 60, 32, -1.0))
    _, found = next(iter(detector.levels(Source(np.zeros((INPUT_SIZE, 90, 3), np.uint8)), 20)))
    assert len(found) == 0 and len(weighted_nms(found, 0.3)) == 0
