import cv2
import numpy as np
import pytest

from agesdk.faces.frames import Source, cut, frame_step, make_frame, to_image


def test_a_frame_over_the_picture_itself_gives_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frame = make_frame(np.array([31.5, 31.5]), 64.0, 64)
    assert np.array_equal(cut(image, frame, 64), image)
    assert np.array_equal(
        cut(image, make_frame(np.array([31.5, 31.5]), 64.0, 64, mirrored=True), 64), image[:, ::-1]
    )


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.3])
@pytest.mark.parametrize("step", [0.5, 1.0, 3.7, 20.0])
def test_pixel_positions_follow_the_frame(step: float, angle: float) -> None:
    """A ramp sampled anywhere is the ramp's value there, whatever the scale: no shift by half a pixel."""
    height, width = 1500, 1800
    ramp = (
        np.arange(width, dtype=np.float64)[None] * 0.05 + np.arange(height, dtype=np.float64)[:, None] * 0.03
    )
    image = np.repeat(np.rint(ramp)[..., None], 3, axis=2).astype(np.uint8)
    frame = make_frame(np.array([900.3, 740.8]), step * 32, 32, angle)
    y, x = np.mgrid[:32, :32]
    expected = to_image(frame, np.stack([x, y], axis=-1).astype(np.float64)) @ [0.05, 0.03]
    difference = cut(image, frame, 32)[..., 0] - expected
    assert frame_step(frame) == pytest.approx(step)
    assert np.abs(difference).max() <= 1.0
    assert abs(difference.mean()) < 0.1


def test_large_steps_average_instead_of_skipping_pixels() -> None:
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = cut(
        np.repeat(board[..., None], 3, axis=2), make_frame(np.array([400.0, 400.0]), 640.0, 64, 0.2), 64
    )
    assert np.abs(crop.astype(int) - 127).max() <= 12


def test_outside_the_picture_is_black_and_a_frame_beyond_it_is_empty() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    crop = cut(image, make_frame(np.array([0.0, 20.0]), 40.0, 40), 40)
    assert crop[20, 5].tolist() == [0, 0, 0] and crop[20, 30].tolist() == [200, 200, 200]
    assert not cut(image, make_frame(np.array([500.0, 20.0]), 40.0, 40), 40).any()


def test_the_crop_of_a_large_area_equals_opencv_area_resize() -> None:
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (600, 600, 3), dtype=np.uint8), (0, 0), 6)
    crop = cut(image, make_frame(np.array([299.5, 299.5]), 600.0, 100), 100)
    reference = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(crop[2:-2, 2:-2].astype(int) - reference[2:-2, 2:-2]).max() <= 6


@pytest.mark.parametrize("side", [3000.0, 1200.0, 150.0])
def test_a_source_cuts_what_the_picture_itself_gives(side: float) -> None:
    """Large frames come from a reduced copy; it must not shift or blur them."""
    rng = np.random.default_rng(4)
    image = cv2.resize(
        rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), (4003, 3001), interpolation=cv2.INTER_CUBIC
    )
    frame = make_frame(np.array([2100.0, 1500.0]), side, 128, 0.3)
    difference = Source(image).cut(frame, 128).astype(int) - cut(image, frame, 128)
    assert np.abs(difference).mean() < 2.0 and abs(difference.mean()) < 0.2


def test_the_same_frame_gives_the_same_pixels_whatever_was_cut_before() -> None:
    image = np.random.default_rng(3).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    far, near = (make_frame(np.array([500.0, 300.0]), side, 64, 0.2) for side in (900.0, 300.0))
    source = Source(image)
    source.cut(near, 64)
    assert np.array_equal(source.cut(far, 64), Source(image).cut(far, 64))


def test_no_row_of_a_thin_picture_is_dropped() -> None:
    image = np.zeros((63, 4096, 3), np.uint8)
    image[-1] = 200
    frame = make_frame(np.array([2000.0, 31.0]), 4000.0, 128)
    assert np.array_equal(Source(image).cut(frame, 128), cut(image, frame, 128))
