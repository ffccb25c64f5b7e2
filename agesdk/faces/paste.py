"""Putting a changed crop back into the picture it was taken from, so that no seam shows.

What is added is a difference, at the crop's scale: ``picture + mask * warp(result - reference)``. With the
source crop as the reference this is a feathered blend that keeps whatever the crop was too coarse to hold;
with the autoencoder's round trip of the source as the reference (residual paste) it also keeps what the
autoencoder loses. Pixels where the mask is zero are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from agesdk.faces.frames import frame_step
from agesdk.faces.smoothing import smooth
from agesdk.manifest import WIDEST_SIGMA

FINEST_SHARE = 0.8
"""Share of the detail below the autoencoder's reach that a full drop of the score takes away; pores stay."""

FULL_RISE = 0.25
"""Rise of a score from which on a change is pasted as one that only adds: `change_share`, `detail_width`."""

SMOOTH, WRINKLED = 0.35, 0.6
"""The score up to which `detail_width` counts skin as smooth, and that from which on nothing does; what
`change_share` keeps back falls all the way from 0 to WRINKLED."""

_HUE_FLOOR = 4.0
"""Levels squared: hues that differ by less are rounding, not colour."""

_STRIP_ROWS = 512
"""Rows of the picture worked on at a time: memory stays small for faces of thousands of pixels."""


def matched_change(result: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``result - reference`` with the drift of its colour taken out, float32 [S, S, 3] in levels.

    The drift is the low-frequency colour difference where nothing may change (mask near 0: the crop's rim,
    eyes, lips, hair), carried smoothly into the rest by a normalised convolution, as in membrane cloning. It
    is what would show as a tinted patch.

    Parameters
    ----------
    result, reference:
        uint8 [S, S, 3].
    mask:
        float32 [S, S] in 0..1: how much each pixel may change.
    """
    size = result.shape[0]
    difference: np.ndarray = result.astype(np.float32) - reference
    weight = (1.0 - mask) ** 2
    # The drift is smooth: a quarter of the resolution holds it.
    small = (max(8, size // 4),) * 2
    coarse = cv2.resize(
        np.dstack([difference * weight[..., None], weight]), small, interpolation=cv2.INTER_AREA
    )
    spread = cv2.GaussianBlur(coarse, (0, 0), small[0] / 4, borderType=cv2.BORDER_REFLECT_101)
    drift = spread[..., :3] / np.maximum(spread[..., 3:], 1e-3)
    difference -= cv2.resize(drift, (size, size), interpolation=cv2.INTER_LINEAR)
    return difference


def confine_to_detail(
    difference: np.ndarray, source: np.ndarray, mask: np.ndarray, sigma: float, chroma: float
) -> np.ndarray:
    """What of a change is wrinkle: fine, and of lightness rather than hue; float32 [S, S, 3] in levels.

    Parameters
    ----------
    difference:
        float32 [S, S, 3] in levels.
    source:
        uint8 [S, S, 3], the crop the change is for.
    mask:
        float32 [S, S] in 0..1, where the change is wanted; shading is averaged inside it only.
    sigma:
        Crop pixels. What a Gaussian of this width leaves of the change is taken out: a model that is given
        the blurred source has no say in its shading (compare ILVR, Choi et al. 2021, eq. 4). 0 leaves all in.
    chroma:
        Share in 0..1 of the change of hue that stays. The rest becomes a change of lightness at the source's
        own colour, so that a line on dark skin is dark skin in shadow, not grey.
    """
    if sigma > 0.0:
        coarse = smooth(difference * mask[..., None], sigma)
        coarse /= np.maximum(smooth(mask, sigma), 1e-3)[..., None]
        difference = np.subtract(difference, coarse, out=coarse)
    if chroma < 1.0:
        colour = smooth(source, 6.0)
        grey = np.maximum(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), 8.0)
        hue = _hue(difference, colour, grey)
        agreement = np.einsum("ijk,ijk->ij", hue, _hue(source - colour, colour, grey))
        share = cv2.GaussianBlur((agreement < -_HUE_FLOOR).astype(np.float32), (0, 0), 1.0)
        hue *= ((1.0 - chroma) * (1.0 - share))[..., None]
        difference = difference - hue
    return difference


def _hue(change: np.ndarray, colour: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """A change less its change of lightness at the given colour of the given lightness, float32 [S, S, 3] in
    levels.
    """
    shade = cv2.cvtColor(change, cv2.COLOR_RGB2GRAY) / grey
    return np.asarray(change - shade[..., None] * colour)


def change_share(
    before: float, target: float, amplitude: float, smooth_skin_amplitude: float | None = None
) -> np.float32:
    """Share of a change that is pasted: all of it where the score falls, ``amplitude`` of it where it rises.

    Guidance makes added lines deeper than skin has them, and on smooth skin they look drawn: there less is
    pasted. Between falling and rising the share is linear up to a rise of `FULL_RISE`, so that a target just
    above the present score does not look different from one just below.

    Parameters
    ----------
    before, target:
        Scores in 0..1.
    amplitude:
        0..1.
    smooth_skin_amplitude:
        0..1, the amplitude on skin of score 0; from there to `WRINKLED` it is linear. None: the same
        everywhere.
    """
    if smooth_skin_amplitude is not None:
        wrinkled = min(before / WRINKLED, 1.0)
        amplitude = smooth_skin_amplitude + wrinkled * (amplitude - smooth_skin_amplitude)
    return np.float32(1.0 - (1.0 - amplitude) * _rise(before, target))


def detail_width(
    before: float,
    target: float,
    sigma: float,
    rise_sigma: float | None,
    smooth_skin_rise_sigma: float | None = None,
) -> float:
    """Width for `confine_to_detail`, in crop pixels: ``sigma`` where the score falls, ``rise_sigma`` where it
    rises.

    Taking a fold away means taking its shading away. Deepening wrinkles deepens some of it, but smooth skin
    gets lines only: shading added to skin that has none changes whose face it is. Between a fall and a rise
    of `FULL_RISE`, and between skin of the scores `SMOOTH` and `WRINKLED`, the inverse of the width is
    linear; a width beyond `WIDEST_SIGMA` is 0.

    Parameters
    ----------
    before, target:
        Scores in 0..1.
    sigma, rise_sigma:
        Crop pixels, up to `WIDEST_SIGMA`; 0: no limit. ``rise_sigma`` None: ``sigma`` for both.
    smooth_skin_rise_sigma:
        ``rise_sigma`` on smooth skin. None: the same.
    """
    added = _inverse(sigma if rise_sigma is None else rise_sigma)
    if smooth_skin_rise_sigma is not None:
        wrinkled = min(max((before - SMOOTH) / (WRINKLED - SMOOTH), 0.0), 1.0)
        added = wrinkled * added + (1.0 - wrinkled) * _inverse(smooth_skin_rise_sigma)
    rise = _rise(before, target)
    width = _inverse((1.0 - rise) * _inverse(sigma) + rise * added)
    return width if width <= WIDEST_SIGMA else 0.0


def _rise(before: float, target: float) -> float:
    """How far a change is one that only adds, 0..1."""
    return min(max(target - before, 0.0) / FULL_RISE, 1.0)


def _inverse(width: float) -> float:
    """1 / width, where 0 stands for infinity."""
    return 1.0 / width if width > 0.0 else 0.0


def finest_detail(source: np.ndarray, round_trip: np.ndarray, drop: float) -> np.ndarray:
    """What to add so that smoothed skin is smooth down to what the autoencoder can not hold.

    A residual paste keeps all that the autoencoder loses, the finest wrinkles among it. This takes a share
    of that remainder away, which grows with how much younger the zone becomes. float32 [S, S, 3] in levels.

    Parameters
    ----------
    source, round_trip:
        uint8 [S, S, 3], a crop, and what the autoencoder makes of it.
    drop:
        Score before less target, in -1..1; nothing is taken away at 0 and below.
    """
    share = np.float32(FINEST_SHARE * min(max(drop, 0.0), 1.0))
    return np.asarray(share * (round_trip.astype(np.float32) - source))


def missing_grain(result: np.ndarray, reference: np.ndarray, mask: np.ndarray, seed: int) -> np.ndarray:
    """Grain that the reference has inside the mask and the result lacks, float32 [S, S, 3] in levels.

    White noise, the same in all channels, of the standard deviation that is missing; all zero where none is.
    An autoencoder smooths grain away, and a patch without it shows in a grainy photograph.
    """
    missing = grain_level(reference, mask) ** 2 - grain_level(result, mask) ** 2
    shape = result.shape[:2]
    if missing <= 0.0:
        return np.zeros((*shape, 3), np.float32)
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.repeat(noise[..., None] * np.float32(math.sqrt(missing)), 3, axis=2)


def grain_level(crop: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the grain in levels: Immerkær's operator (1996), by its median, inside the mask.

    The operator cancels planes and straight edges; the median leaves out what it can not cancel, such as
    wrinkles.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    inside = np.abs(cv2.filter2D(grey, -1, kernel, borderType=cv2.BORDER_REFLECT_101))[mask > 0.5]
    # The operator's gain on white noise is 6; a normal deviate's median magnitude is 0.6745.
    return float(np.median(inside)) / (6.0 * 0.6745) if inside.size else 0.0


def add_change(picture: np.ndarray, difference: np.ndarray, mask: np.ndarray, transform: np.ndarray) -> None:
    """Add ``mask * difference``, both warped to the picture's scale, to the picture, in place.

    Parameters
    ----------
    picture:
        uint8 [H, W, 3]. Only pixels under the mask are read and written.
    difference:
        float32 [S, S, 3] in levels.
    mask:
        float32 [S, S] in 0..1, 0 on the crop's rim.
    transform:
        float64 [2, 3], crop pixels to image pixels.
    """
    step = frame_step(transform)
    if step < 1.0:  # the picture is coarser than the crop: average before sampling
        sigma = 0.5 * math.sqrt(1.0 / step**2 - 1.0)
        difference = cv2.GaussianBlur(difference, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    for window, local, mask_here in _strips(mask, transform, picture.shape):
        # Cubic overshoot must not reach beyond the mask, so the two are warped apart.
        size = mask_here.shape[::-1]
        change_here = cv2.warpAffine(
            difference, local, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        change_here *= mask_here[..., None]
        change_here += picture[window]
        np.clip(np.rint(change_here, out=change_here), 0.0, 255.0, out=change_here)
        picture[window] = change_here


def restore(picture: np.ndarray, source: np.ndarray, mask: np.ndarray, transform: np.ndarray) -> None:
    """Blend the source back into the picture made of it, in place: the source's pixels where the warped mask
    is 1, the picture's where it is 0.

    picture, source: uint8 [H, W, 3]; mask and transform as of `add_change`.
    """
    for window, _, mask_here in _strips(mask, transform, picture.shape):
        there = picture[window].astype(np.float32)
        picture[window] = np.rint(there + mask_here[..., None] * (source[window] - there))


def _strips(
    mask: np.ndarray, transform: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """The part of a picture under a crop's mask, strip by strip: its window (rows, columns), the map from
    crop pixels to the window's, float64 [2, 3], and the mask warped to it, float32 [rows, columns].
    """
    region = _region(mask, transform, shape)
    if region is None:
        return
    x0, y0, x1, y1 = region
    for top in range(y0, y1, _STRIP_ROWS):
        bottom = min(y1, top + _STRIP_ROWS)
        local = transform.copy()
        local[:, 2] -= (x0, top)
        size = (x1 - x0, bottom - top)
        warped = cv2.warpAffine(mask, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        yield (slice(top, bottom), slice(x0, x1)), local, warped


def _region(
    mask: np.ndarray, transform: np.ndarray, shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) of the picture that the mask's pixels above 0 may fall on; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    left, right, top, bottom = columns[0] - 1, columns[-1] + 1, rows[0] - 1, rows[-1] + 1
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    corners = corners @ transform[:, :2].T + transform[:, 2]
    x0, y0 = (max(0, math.floor(v)) for v in corners.min(axis=0))
    x1, y1 = (min(n, math.ceil(v) + 1) for v, n in zip(corners.max(axis=0), (shape[1], shape[0])))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
