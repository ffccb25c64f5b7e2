"""Resizing against Pillow and torch themselves: not a level apart, in any pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agesdk.resample import Taps, centred_square, pillow_taps, resize, torch_taps

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIDES = st.integers(1, 150)


@settings(max_examples=60)
@given(SIDES, SIDES, st.sampled_from(sorted(FILTERS)), st.integers(0, 2**32 - 1))
def test_pillow_bit_for_bit(side: int, new_side: int, kind: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(image).resize((new_side, new_side), FILTERS[kind]))
    np.testing.assert_array_equal(resize(image, new_side, kind), wanted)


@pytest.mark.parametrize("size, target", [(512, 224), (300, 224), (100, 224), (513, 112)])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_torch_bit_for_bit(size: int, target: int, kind: str) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(batch, size=(target, target), mode=kind, antialias=True)
    taps = torch_taps(size, target, kind)
    np.testing.assert_array_equal(two_passes(image, taps), wanted[0].permute(1, 2, 0).numpy())


def two_passes(image: np.ndarray, taps: Taps) -> np.ndarray:
    """The definition of `Taps`, in whole numbers, columns first."""
    matrix = taps.matrix(image.shape[0])
    for axis in (1, 0):
        sums = np.moveaxis(np.tensordot(matrix, image.astype(np.int64), ([1], [axis])), 0, axis)
        image = np.clip((sums + (1 << (taps.bits - 1))) >> taps.bits, 0, 255)
    return image


@pytest.mark.parametrize(
    "taps, size", [(pillow_taps(512, 112, "bilinear"), 512), (torch_taps(512, 224, "bicubic"), 512)]
)
def test_graph_gives_the_same_whole_numbers(taps: Taps, size: int) -> None:
    """The exported form, in float32 with weights split in two, against whole-number arithmetic."""
    torch = pytest.importorskip("torch")
    from export.cradle2cane.graphs import Resize

    image = np.random.default_rng(2).integers(0, 256, (size, size, 3), dtype=np.uint8)
    image[:64] = np.random.default_rng(3).choice([0, 255], (64, size, 3))
    levels = Resize(taps, size)(torch.from_numpy(image)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(levels, two_passes(image, taps))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (7, 4), (6, 6)])
def test_square_is_centred_as_published(shape: tuple[int, int]) -> None:
    """The left and upper margin is the floor of half the difference."""
    height, width = shape
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    side = min(shape)
    left, top = (width - side) // 2, (height - side) // 2
    wanted = np.asarray(Image.fromarray(image).crop((left, top, left + side, top + side)))
    np.testing.assert_array_equal(centred_square(image), wanted)
