"""Targets and profiles of the command line."""

from __future__ import annotations

import pytest

from agesdk.errors import UsageError
from agesdk.manifest import Component, TensorSpec
from engines.targets import Target, check_axes, parse_profile, parse_target, profiles_for

COMPONENT = Component(
    "denoise",
    "fp32",
    ("components/denoise/model.onnx",),
    (TensorSpec("x", "float32", ("batch", "tokens", 4)),),
    (TensorSpec("y", "float32", ("batch",)),),
    {"batch": (1, 4, 12), "tokens": (2, 2, 77)},
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("rtx:89", Target("tensorrt-rtx", ("8.9",))),
        ("rtx:120", Target("tensorrt-rtx", ("12.0",))),
        ("rtx:89,86", Target("tensorrt-rtx", ("8.6", "8.9"))),
        ("rtx:75,80,86,89,120,121", Target("tensorrt-rtx", ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"))),
        ("rtx:89,89", Target("tensorrt-rtx", ("8.9",))),
        ("local", Target(None)),
        ("local:tensorrt", Target("tensorrt")),
        ("local:tensorrt-rtx", Target("tensorrt-rtx")),
    ],
)
def test_targets(text, target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rtx", "rtx:89"),
        ("rtx:", "rtx:89"),
        ("cuda:89", "rtx:89"),
        ("rtx:90", '"75".*"121"'),
        ("rtx:8.9", '"89"'),
        ("rtx:89,", '""'),
        ("local:trt", "tensorrt-rtx"),
    ],
)
def test_unknown_targets_are_told(text, told) -> None:
    with pytest.raises(UsageError, match=told):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batch", "AXIS=MIN:BEST:MAX"),
        ("batch=1:2", "AXIS=MIN:BEST:MAX"),
        ("batch=1:2:3:4", "AXIS=MIN:BEST:MAX"),
        ("batch=a:b:c", "AXIS=MIN:BEST:MAX"),
        ("batch=0:1:2", "order"),
        ("batch=3:2:4", "order"),
        ("batch=1:5:4", "order"),
        ("batch=1:1:1,batch=1:2:2", "twice"),
        ("", "AXIS=MIN:BEST:MAX"),
    ],
)
def test_profiles_that_are_none_are_told(text, told) -> None:
    with pytest.raises(UsageError, match=told):
        parse_profile(text)


def test_the_manifests_profile_is_the_default() -> None:
    assert profiles_for(COMPONENT, []) == (COMPONENT.profile,)


def test_profiles_replace_the_axes_they_name() -> None:
    made = profiles_for(
        COMPONENT, [parse_profile("batch=1:6:12"), parse_profile("batch=1:1:1,tokens=77:77:77")]
    )
    assert made == (
        {"batch": (1, 6, 12), "tokens": (2, 2, 77)},
        {"batch": (1, 1, 1), "tokens": (77, 77, 77)},
    )


def test_equal_profiles_are_built_once() -> None:
    """Two that differ in an axis of another component only are the same for this one."""
    assert len(profiles_for(COMPONENT, [{"height": (1, 2, 3)}, {"width": (1, 2, 3)}])) == 1


@pytest.mark.parametrize("text", ["batch=1:6:13", "tokens=1:2:77"])
def test_sizes_that_the_graph_was_not_exported_for_are_refused(text) -> None:
    with pytest.raises(UsageError, match=r"exported for .*batch=1:4:12,tokens=2:2:77"):
        profiles_for(COMPONENT, [parse_profile(text)])


def test_an_axis_that_no_component_has_is_told() -> None:
    check_axes([COMPONENT], [{"batch": (1, 1, 1)}])
    with pytest.raises(UsageError, match=r'"bach".*Did you mean "batch"'):
        check_axes([COMPONENT], [{"bach": (1, 1, 1)}])
