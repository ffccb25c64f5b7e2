"""`agesdk.faces.smoothing` beside OpenCV's Gaussian at full resolution."""

import cv2
import numpy as np
import pytest

from agesdk.faces.smoothing import smooth


@pytest.mark.parametrize("sigma", [5.0, 7.0, 10.0, 14.0])
def test_a_wide_blur_is_that_of_a_gaussian(portrait: np.ndarray, sigma: float) -> None:
    crop = np.ascontiguousarray(portrait[60:188, 150:278])
    exact = cv2.GaussianBlur(crop.astype(np.float32), (0, 0), sigma)
    difference = smooth(crop, sigma) - exact
    assert np.abs(difference).mean() < 0.6
    margin = round(2 * sigma)  # nearer to the edge the two reflect it differently
    inner = slice(margin, -margin)
    assert np.abs(difference[inner, inner]).max() < 3.0
    assert np.abs(difference[inner, inner]).mean() < 0.3
    assert abs(float(difference.mean())) < 0.1


@pytest.mark.parametrize("sigma, shape", [(2.0, (128, 128)), (7.0, (127, 93, 3))])
def test_narrow_blurs_and_odd_sizes_are_made_at_full_resolution(sigma: float, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.array_equal(smooth(image, sigma), cv2.GaussianBlur(image, (0, 0), sigma))


def test_no_blur_is_a_copy() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(smooth(image, 0.0), image) and smooth(image, 0.0).dtype == np.float32


def test_an_even_picture_stays_as_it_is() -> None:
    assert np.allclose(smooth(np.full((64, 64, 3), 87, np.uint8), 10.0), 87.0, atol=1e-3)
