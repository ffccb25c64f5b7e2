"""What a TensorRT engine decides before it touches the GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agesdk.backends.trt_plan import axis_sizes, choose_profile, plan_buffers, profile_shapes, widest
from agesdk.errors import BackendError
from agesdk.manifest import TensorSpec

SAMPLE = TensorSpec("sample", "float32", ("batch", 4, "height", "width"))
TIMESTEP = TensorSpec("timestep", "float32", ("batch",))
IMAGE = TensorSpec("image", "uint8", ("batch", 128, 128, 3))


def test_the_sizes_of_axes_are_read_from_the_feeds() -> None:
    shapes = {"sample": (3, 4, 16, 24), "timestep": (3,)}
    assert axis_sizes((SAMPLE, TIMESTEP), shapes) == {"batch": 3, "height": 16, "width": 24}
    assert axis_sizes((TensorSpec("x", "int64", (2, 3)),), {"x": (2, 3)}) == {}


ONE, WAVE, LARGE = {"batch": (1, 1, 1)}, {"batch": (1, 4, 12)}, {"batch": (8, 24, 24)}


@pytest.mark.parametrize(
    ("profiles", "batch", "chosen"),
    [
        ((WAVE,), 1, 0),
        ((WAVE, ONE), 1, 1),
        ((ONE, WAVE), 1, 0),
        ((ONE, WAVE, LARGE), 2, 1),
        ((ONE, WAVE, LARGE), 8, 1),
        ((ONE, WAVE, LARGE), 11, 2),
        ((WAVE, WAVE), 4, 0),
    ],
)
def test_the_profile_whose_best_size_is_nearest_is_chosen(profiles, batch, chosen) -> None:
    assert choose_profile("denoise", profiles, {"batch": batch}) == chosen


def test_all_axes_must_fit_a_profile() -> None:
    profiles = ({"batch": (1, 1, 4), "tokens": (2, 2, 2)}, {"batch": (1, 1, 4), "tokens": (77, 77, 77)})
    assert choose_profile("denoise", profiles, {"batch": 4, "tokens": 77}) == 1
    assert choose_profile("clip", ({},), {}) == 0
    with pytest.raises(
        BackendError, match=r'"denoise" was not built for batch 4, tokens 3.*tokens=2:2:2 and'
    ):
        choose_profile("denoise", profiles, {"batch": 4, "tokens": 3})


def test_the_engine_allows_what_its_profiles_allow_together() -> None:
    assert widest((WAVE, LARGE)) == {"batch": (1, 4, 24)}
    assert widest((LARGE,)) == LARGE


def test_a_profile_gives_the_shapes_of_an_input() -> None:
    profile = {"batch": (1, 4, 12), "height": (16, 16, 128), "width": (16, 32, 128)}
    assert profile_shapes(SAMPLE, profile) == ((1, 4, 16, 16), (4, 4, 16, 32), (12, 4, 128, 128))
    assert profile_shapes(IMAGE, {"batch": (1, 4, 12)})[2] == (12, 128, 128, 3)


def test_tensors_lie_one_after_the_other_at_aligned_offsets() -> None:
    plan = plan_buffers(
        (TIMESTEP, IMAGE, SAMPLE), {"timestep": (3,), "image": (3, 128, 128, 3), "sample": (3, 4, 16, 16)}
    )
    assert [(r.offset, r.size) for r in plan.regions.values()] == [(0, 12), (256, 147456), (147712, 12288)]
    assert plan.total == 147712 + 12288


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]),
            st.lists(st.integers(1, 9), max_size=4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_two_tensors_overlap(tensors) -> None:
    specs = [TensorSpec(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(tensors)]
    plan = plan_buffers(specs, {spec.name: spec.shape for spec in specs})
    end = 0
    for region in plan.regions.values():
        assert region.offset % 256 == 0
        assert region.offset >= end
        end = region.offset + region.size
    assert plan.total >= end


@pytest.mark.parametrize("shape", [(3, 128, 128, -1), (3, 128, 128), (0, 128, 128, 3)])
def test_a_shape_that_tensorrt_could_not_infer_is_told(shape) -> None:
    with pytest.raises(BackendError, match=r'"image" has the shape .*batch, 128, 128, 3'):
        plan_buffers((IMAGE,), {"image": shape})
