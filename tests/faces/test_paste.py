"""Pasting: where nothing may change nothing does, and where it may, no seam, tint or loss of detail shows."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from agesdk.faces.frames import extract_crop
from agesdk.faces.paste import (
    FINEST_SHARE,
    add_change,
    change_share,
    confine_to_detail,
    detail_width,
    finest_detail,
    grain_level,
    matched_change,
    missing_grain,
    restore,
)
from agesdk.faces.zones import ZONES, feather_mask

SIZE = 128
MASK = feather_mask(ZONES[0], SIZE)


def picture(height=700, width=900, seed=0):
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(
        rng.uniform(60, 200, (7, 9, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(smooth + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def frame(step: float, angle: float = 0.0, mirrored: bool = False, centre=(450.0, 350.0)) -> np.ndarray:
    columns = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        columns[:, 0] *= -1
    return np.column_stack([columns, np.array(centre) - columns @ np.full(2, (SIZE - 1) / 2)])


FRAMES = [
    frame(1.0),
    frame(0.3, 0.4),
    frame(4.3, -0.7, True),
    frame(2.0, 0.2, centre=(20.0, 690.0)),
    frame(0.7, centre=(899.0, 5.0)),
]


@pytest.mark.parametrize("transform", FRAMES)
def test_pixels_outside_the_mask_are_not_touched(transform):
    source = picture()
    changed = source.copy()
    add_change(changed, np.full((SIZE, SIZE, 3), 40.0, np.float32), MASK, transform)
    height, width = source.shape[:2]
    support = cv2.warpAffine(
        (MASK > 0).astype(np.float32), transform, (width, height), flags=cv2.INTER_LINEAR
    )
    touched = (changed != source).any(axis=2)
    assert touched.any()
    assert not touched[support == 0.0].any()


@pytest.mark.parametrize("transform", FRAMES)
def test_an_unchanged_crop_changes_nothing(transform):
    source = picture()
    crop = extract_crop(source, transform, SIZE)
    pasted = source.copy()
    add_change(pasted, matched_change(crop, crop, MASK), MASK, transform)
    np.testing.assert_array_equal(pasted, source)


@pytest.mark.parametrize("transform", FRAMES)
def test_a_restored_source_is_identical_inside_and_fades_to_the_rim(transform):
    source = picture()
    changed = 255 - source
    restored = changed.copy()
    restore(restored, source, MASK, transform)
    height, width = source.shape[:2]
    share = cv2.warpAffine(MASK, transform, (width, height), flags=cv2.INTER_LINEAR)
    assert (share == 1.0).any()
    np.testing.assert_array_equal(restored[share == 1.0], source[share == 1.0])
    np.testing.assert_array_equal(restored[share == 0.0], changed[share == 0.0])
    blend = changed + share[..., None] * (source.astype(np.float64) - changed)
    assert np.abs(restored - blend).max() <= 0.51


def test_strips_give_what_one_piece_gives(monkeypatch):
    from agesdk.faces import paste

    difference = np.random.default_rng(1).normal(0, 20, (SIZE, SIZE, 3)).astype(np.float32)
    results = []
    for rows in (64, 10_000):
        monkeypatch.setattr(paste, "_STRIP_ROWS", rows)
        pasted = picture()
        add_change(pasted, difference, MASK, frame(4.3, 0.5))
        results.append(pasted)
    # The warp rounds coordinates to a fraction of a pixel, from where a strip begins.
    assert np.abs(results[0].astype(int) - results[1]).max() <= 2


def test_a_blend_at_the_crops_scale_is_the_feathered_mixture():
    source = picture()
    transform = np.array([[1.0, 0.0, 300.0], [0.0, 1.0, 200.0]])
    crop = source[200:328, 300:428]
    result = np.clip(crop.astype(int) + np.random.default_rng(2).integers(-9, 10, crop.shape), 0, 255).astype(
        np.uint8
    )
    pasted = source.copy()
    add_change(pasted, result.astype(np.float32) - crop, MASK, transform)
    wanted = MASK[..., None] * result + (1.0 - MASK[..., None]) * crop
    assert np.abs(pasted[200:328, 300:428] - wanted).max() <= 0.51


def test_a_tint_of_the_whole_result_does_not_show():
    crop = extract_crop(picture(), frame(1.0), SIZE)
    tinted = np.clip(crop + np.array([12, -9, 5]), 0, 255).astype(np.uint8)
    assert np.abs(MASK[..., None] * matched_change(tinted, crop, MASK)).max() <= 1.5


def test_a_line_inside_survives_the_colour_match():
    crop = extract_crop(picture(), frame(1.0), SIZE)
    wrinkled = crop.copy()
    wrinkled[62:65, 30:98] = np.clip(wrinkled[62:65, 30:98].astype(int) - 40, 0, 255)
    line = matched_change(wrinkled, crop, MASK)[63, 40:88]
    assert np.median(line) == pytest.approx(-40.0, abs=2.0)


def test_detail_of_a_large_picture_is_kept():
    """A crop of 128 pixels holds none of the grain of a picture four times as fine; the paste keeps it."""
    source = picture()
    transform = frame(4.0)
    crop = extract_crop(source, transform, SIZE)
    brighter = np.clip(crop.astype(int) + 20, 0, 255).astype(np.uint8)
    pasted = source.copy()
    add_change(pasted, brighter.astype(np.float32) - crop, MASK, transform)
    inside = np.s_[330:370, 430:470]
    before, after = (
        image[inside].astype(float) - cv2.blur(image[inside], (9, 9)) for image in (source, pasted)
    )
    assert after.std() == pytest.approx(before.std(), rel=0.02)
    assert (pasted[inside].astype(int) - source[inside]).mean() == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_grain_is_measured_and_replaced(sigma):
    rng = np.random.default_rng(3)
    smooth = np.repeat(np.linspace(80, 170, SIZE)[None, :, None], SIZE, 0).repeat(3, 2)
    smooth[60:63] -= 30  # a wrinkle is not grain
    grainy = np.clip(smooth + rng.normal(0, sigma, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    clean = smooth.astype(np.uint8)
    assert grain_level(grainy, MASK) == pytest.approx(sigma, rel=0.15)
    grain = missing_grain(clean, grainy, MASK, seed=1)
    assert grain.std() == pytest.approx(sigma, rel=0.2)
    np.testing.assert_array_equal(grain, missing_grain(clean, grainy, MASK, seed=1))
    assert not missing_grain(grainy, clean, MASK, seed=1).any()


def test_an_empty_mask_or_a_zone_outside_is_nothing():
    source = picture()
    pasted = source.copy()
    difference = np.full((SIZE, SIZE, 3), 9.0, np.float32)
    add_change(pasted, difference, np.zeros_like(MASK), frame(1.0))
    add_change(pasted, difference, MASK, frame(1.0, centre=(-500.0, 100.0)))
    np.testing.assert_array_equal(pasted, source)
    assert grain_level(source[:SIZE, :SIZE], np.zeros_like(MASK)) == 0.0


def test_confined_to_detail_keeps_lines_and_leaves_shading_and_hue():
    """A line of one hue becomes a darker line of the skin's own colour; a broad shade goes."""
    source = np.full((SIZE, SIZE, 3), (180, 130, 100), np.uint8)
    broad = np.zeros((SIZE, SIZE, 3), np.float32) - 15.0
    line = np.zeros_like(broad)
    line[63:65] = (0.0, -40.0, 0.0)
    kept = confine_to_detail(broad + line, source, MASK, sigma=8.0, chroma=0.0)
    assert np.abs(kept[:40, 50:78]).max() <= 2.0
    at_line = kept[63, 64]
    np.testing.assert_allclose(at_line / at_line[0], np.array([180, 130, 100]) / 180, atol=0.02)
    luma = np.array([0.299, 0.587, 0.114])
    assert at_line @ luma == pytest.approx(line[63, 64] @ luma, rel=0.15)
    np.testing.assert_array_equal(confine_to_detail(line, source, MASK, 0.0, 1.0), line)


def test_confining_takes_out_shading_and_keeps_a_fine_line() -> None:
    """A constant shift is shading and goes; what is left of a one-pixel line is most of it."""
    source, mask = np.full((128, 128, 3), 120, np.uint8), np.ones((128, 128), np.float32)
    shift = np.full((128, 128, 3), 12.0, np.float32)
    assert np.abs(confine_to_detail(shift, source, mask, 6.0, 1.0)).max() < 1e-3
    line = np.zeros_like(shift)
    line[64] = -20.0
    kept = confine_to_detail(line, source, mask, 6.0, 1.0)[64, 64, 0]
    # A Gaussian of deviation 6 leaves 1 / (6 sqrt(2 pi)) of a line on it.
    assert kept == pytest.approx(-20.0 * (1.0 - 1.0 / (6.0 * np.sqrt(2.0 * np.pi))), abs=0.1)


def test_confining_turns_hue_into_shade_unless_it_takes_a_hue_away() -> None:
    mask = np.ones((128, 128), np.float32)
    plain = np.full((128, 128, 3), (160, 120, 100), np.uint8)
    red = np.zeros((128, 128, 3), np.float32)
    red[60:68, 60:68, 0] = 20.0
    spread = confine_to_detail(red, plain, mask, 0.0, 0.0)[64, 64]
    assert spread[1] > 0.0 and spread[0] / spread[1] == pytest.approx(160 / 120, rel=1e-3)
    spotted = plain.copy()
    spotted[60:68, 60:68, 0] += 40
    assert confine_to_detail(-red, spotted, mask, 0.0, 0.0)[64, 64, 0] == pytest.approx(-20.0, abs=0.5)


def test_finest_detail_is_taken_only_where_a_zone_becomes_younger() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(100, 140, (32, 32, 3), dtype=np.uint8)
    smooth = np.full_like(source, 120)
    assert not finest_detail(source, smooth, -0.5).any()
    taken = finest_detail(source, smooth, 0.5)
    assert np.allclose(taken, 0.5 * FINEST_SHARE * (120.0 - source), atol=1e-4)


def test_the_share_of_a_change_is_whole_downwards_and_smaller_on_smooth_skin_upwards() -> None:
    assert change_share(0.8, 0.1, 0.7) == change_share(0.4, 0.4, 0.7) == 1.0
    assert change_share(0.6, 0.95, 0.7, 0.1) == pytest.approx(0.7)
    assert change_share(0.0, 0.95, 0.9) == pytest.approx(0.9)
    assert change_share(0.0, 0.95, 0.9, 0.4) == pytest.approx(0.4)
    assert change_share(0.3, 0.95, 0.9, 0.4) == pytest.approx(0.65)
    assert change_share(0.9, 0.95, 1.0, 0.0) == change_share(0.1, 0.1, 0.0, 0.0) == 1.0
    shares = [change_share(0.3, target, 0.7, 0.4) for target in np.linspace(0.3, 1.0, 15)]
    assert all(b <= a for a, b in itertools.pairwise(shares)) and shares[0] == 1.0


def test_what_only_adds_is_confined_to_finer_detail_than_what_takes_away() -> None:
    assert detail_width(0.8, 0.1, 10.0, 4.0) == detail_width(0.4, 0.4, 10.0, 4.0) == pytest.approx(10.0)
    assert detail_width(0.4, 0.65, 10.0, 4.0) == pytest.approx(4.0)
    assert detail_width(0.4, 0.525, 10.0, 4.0) == pytest.approx(2.0 / (1.0 / 10.0 + 1.0 / 4.0))
    assert detail_width(0.1, 0.9, 10.0, None) == 10.0
    # 0 is no limit, at either end.
    assert detail_width(0.1, 0.9, 10.0, 0.0) == 0.0 and detail_width(0.9, 0.1, 0.0, 4.0) == 0.0
    assert detail_width(0.4, 0.525, 0.0, 4.0) == pytest.approx(8.0)
    # Smooth skin has a width of its own.
    assert detail_width(0.35, 0.9, 10.0, 5.0, 2.5) == pytest.approx(2.5)
    assert detail_width(0.6, 0.9, 10.0, 5.0, 2.5) == pytest.approx(5.0)
    assert detail_width(0.475, 0.9, 10.0, 5.0, 2.5) == pytest.approx(2.0 / (1.0 / 5.0 + 1.0 / 2.5))
    assert detail_width(0.1, 0.9, 10.0, None, 2.5) == pytest.approx(2.5)
    # A width without bound would take seconds to blur by.
    assert detail_width(0.4, 0.4 + 1e-6, 0.0, 4.0) == 0.0
