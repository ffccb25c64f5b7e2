import cv2
import numpy as np
import pytest

from agesdk.faces import Face
from agesdk.faces.align import aligned, ffhq_transform, five_points


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:, :2].T + transform[:, 2]


def test_ffhq_square_follows_the_formula_of_its_paper(face: Face) -> None:
    left, right = face.keypoints[:2].astype(np.float64)
    mouth = face.landmarks[[61, 291], :2].astype(np.float64).mean(axis=0)
    eyes = (left + right) / 2
    down = mouth - eyes
    x = (right - left) - np.array([-down[1], down[0]])
    x *= max(2.0 * np.hypot(*(right - left)), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    corners = np.stack([centre - x - y, centre + x - y, centre + x + y, centre - x + y])
    mine = apply(
        ffhq_transform(face.landmarks, 256), np.array([[0, 0], [256, 0], [256, 256], [0, 256]]) - 0.5
    )
    assert np.allclose(mine, corners, atol=1e-6)


def test_aligned_pictures_of_turned_portraits_are_the_same(portrait: np.ndarray, face: Face) -> None:
    turn = cv2.getRotationMatrix2D((220, 125), 30, 1.0)
    rotated = cv2.warpAffine(portrait, turn, (512, 512), flags=cv2.INTER_CUBIC)
    moved = apply(turn, face.landmarks[:, :2].astype(np.float64))
    plain = aligned(portrait, ffhq_transform(face.landmarks, 128), 128).astype(float)
    again = aligned(rotated, ffhq_transform(moved, 128), 128).astype(float)
    middle = np.s_[30:100, 30:100]
    assert np.abs(plain[middle] - again[middle]).mean() < 2.0


@pytest.mark.parametrize("name, index", [("left eye", 0), ("right eye", 1)])
def test_five_points_lie_in_the_eyes(face: Face, name: str, index: int) -> None:
    corners = face.landmarks[[(33, 133), (362, 263)][index], :2]
    width = np.linalg.norm(corners[1] - corners[0])
    assert np.linalg.norm(five_points(face.landmarks)[index] - corners.mean(axis=0)) < 0.2 * width, name
