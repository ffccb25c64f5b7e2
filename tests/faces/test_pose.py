import numpy as np
import pytest

from agesdk.bundle import Bundle
from agesdk.faces.pose import head_pose, pose_of_rotation, rigid_fit

NOSE_TIP, FOREHEAD, CHIN = 4, 10, 152


@pytest.fixture(scope="module")
def shape() -> dict[str, np.ndarray]:
    return Bundle.open(None, kind="face-analysis").table("face_shape")


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rz(roll) Ry(yaw) Rx(pitch) written out, degrees; x right, y down, z away from the camera."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (-50, 10, 0), (20, -25, 45), (-15, 35, -80), (70, 5, 170)]
)
def test_a_mean_face_turned_by_known_angles_gives_those_angles(
    shape: dict[str, np.ndarray], angles: tuple[float, float, float]
) -> None:
    mesh = 137.0 * shape["mean_face"] @ turned(*angles).T + [900.0, -30.0, 5.0]
    pose = head_pose(mesh, shape["mean_face"])
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx(angles, abs=1e-3)


def test_signs_are_those_a_viewer_sees(shape: dict[str, np.ndarray]) -> None:
    mean = shape["mean_face"]
    right = mean @ turned(20, 0, 0).T
    assert right[NOSE_TIP, 0] > mean[NOSE_TIP, 0] and head_pose(right, mean).yaw > 0
    up = mean @ turned(0, 20, 0).T
    assert up[NOSE_TIP, 1] < mean[NOSE_TIP, 1] and head_pose(up, mean).pitch > 0
    clockwise = mean @ turned(0, 0, 20).T
    assert clockwise[FOREHEAD, 0] > clockwise[CHIN, 0] and head_pose(clockwise, mean).roll > 0


def test_roll_of_the_picture_leaves_yaw_and_pitch() -> None:
    before = pose_of_rotation(turned(25, -10, 0))
    after = pose_of_rotation(turned(0, 0, 33) @ turned(25, -10, 0))
    assert (after.yaw, after.pitch, after.roll - before.roll) == pytest.approx((25, -10, 33))


def test_mean_face_is_symmetric_and_mirror_pairs_every_point_once(shape: dict[str, np.ndarray]) -> None:
    mean, mirror = shape["mean_face"], shape["mirror"]
    assert np.array_equal(mirror[mirror], np.arange(468))
    assert np.allclose(mean[mirror], mean * [-1, 1, 1], atol=1e-6)
    # Known pairs of FaceMesh: eye corners, mouth corners, nostrils, cheeks; then points of the middle line.
    assert [mirror[i] for i in (33, 133, 61, 98, 205)] == [263, 362, 291, 327, 425]
    assert [mirror[i] for i in (10, 4, 152, 0, 17)] == [10, 4, 152, 0, 17]


def test_rigid_fit_recovers_a_similarity_and_never_mirrors() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(20, 3))
    rotation = turned(40, 20, -70)
    scale, found, shift = rigid_fit(points, 2.5 * points @ rotation.T + [1.0, -2.0, 3.0])
    assert scale == pytest.approx(2.5)
    assert np.allclose(found, rotation) and np.allclose(shift, [1.0, -2.0, 3.0])
    assert np.linalg.det(rigid_fit(points, points * [-1, 1, 1])[1]) == pytest.approx(1.0)
