"""Bundles: what is written can be opened, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agesdk.bundle import (
    SCHEMA_VERSION,
    Bundle,
    Component,
    LearnedCondition,
    TensorSpec,
    TextCondition,
    ZoneAgingSettings,
    manifest_from_json,
    manifest_to_json,
    write_manifest,
)
from agesdk.errors import BundleError
from tests import tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.save(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_a_written_bundle_opens_and_its_graph_gives_the_golden_output(folder: Path) -> None:
    bundle = Bundle.open(folder, kind="zone-aging")
    session = onnxruntime.InferenceSession(str(bundle.component_path("add")))
    golden = bundle.golden("add")
    np.testing.assert_array_equal(session.run(None, {"x": golden["input.x"]})[0], golden["output.y"])


def test_the_manifest_survives_a_round_trip(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    assert dataclasses.replace(manifest, files=()) == tiny_bundle.manifest()
    assert isinstance(manifest.settings, ZoneAgingSettings)
    assert [entry.path for entry in manifest.files] == [tiny_bundle.GRAPH, tiny_bundle.DATA, "golden/add.npz"]


def test_writing_a_manifest_again_does_not_list_the_manifest(folder: Path) -> None:
    assert len(write_manifest(folder, tiny_bundle.manifest()).files) == 3
    assert Bundle.open(folder).unlisted_files() == []


def test_unlisted_files_are_told_and_can_not_be_asked_for(tmp_path: Path) -> None:
    folder = tiny_bundle.save(tmp_path)
    (folder / "stray.npz").write_bytes(b"x")
    bundle = Bundle.open(folder)
    assert bundle.unlisted_files() == ["stray.npz"]
    with pytest.raises(BundleError, match="does not list"):
        bundle.file_path("stray.npz")


def test_an_unknown_component_is_told_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"no component 'unet': its components: add"):
        Bundle.open(folder).component("unet")


def test_a_bundle_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="of the kind zone-aging"):
        Bundle.open(folder, kind="face-analysis")


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_path_that_is_no_bundle_is_told_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / name)


REMOVE = object()
CASES: list[tuple[str, object, str]] = [
    ("schema", SCHEMA_VERSION + 1, "Upgrade agesdk"),
    ("schema", "1", "schema is not an integer"),
    ("schema", REMOVE, "schema is missing"),
    ("kind", "zone-agin", 'kind is "zone-agin", expected one of zone-aging'),
    ("kind", "face-analysis", "face_analysis is missing"),
    ("name", REMOVE, "name is missing"),
    ("name", "a/b", "name is 'a/b'"),
    ("nmae", "x", "Did you mean 'name'"),
    ("settings", {}, "stand under 'zone_aging'"),
    ("files", [], "files is missing or empty"),
    ("files.0.size", -1, r"files\[0\].size is -1"),
    ("files.0.size", True, r"files\[0\].size is true"),
    ("files.0.sha256", "0" * 63, r"files\[0\].sha256 is not 64"),
    ("files.0.path", "/etc/passwd", r"files\[0\].path is '/etc/passwd', not a plain relative path"),
    ("files.1.path", tiny_bundle.GRAPH.upper(), r"files\[1\].path lists .* twice"),
    ("components", [], "components is an array, expected an object"),
    ("components.add.files", ["a.bin"], r"components.add.files\[0\] is 'a.bin', expected an .onnx"),
    ("components.add.files", ["a.onnx"], r"components.add.files\[0\] is 'a.onnx', not in files"),
    ("components.add.inputs.0.dtype", "float31", r"components.add.inputs\[0\].dtype is \"float31\""),
    ("components.add.inputs.0.shape.1", 0, r"components.add.inputs\[0\].shape\[1\] is 0"),
    ("components.add.inputs.0.shape.1", 1.5, r"components.add.inputs\[0\].shape\[1\] is a number"),
    ("components.add.inputs.0.shape.0", "b h", r"shape\[0\] is 'b h', not a symbol"),
    ("components.add.precision", "fp33", 'components.add.precision is "fp33"'),
    ("components.add.profile", {}, "components.add.profile.batch is missing"),
    ("components.add.profile.batch", [2, 1, 8], "1 <= min <= opt <= max"),
    ("components.add.profile.batch", [1, 8], "profile.batch has 2 entries, expected 3"),
    ("components.add.profile.width", [1, 1, 8], "profile.width is not an axis"),
    ("components.add.name", "add", "components.add.name is not a known key"),
    ("zone_aging.mode", "both", 'zone_aging.mode is "both"'),
    ("zone_aging.crop_size", 130, "zone_aging.crop_size is 130, not a multiple of 8"),
    ("zone_aging.blur_sigma", -1, "zone_aging.blur_sigma is -1"),
    ("zone_aging.condition.type", "magic", 'zone_aging.condition.type is "magic"'),
    ("zone_aging.condition", None, "zone_aging.condition is null, expected an object"),
    ("zone_aging.condition.zones", ["glabella"], "zone_aging.condition.zones lacks the zone 'forehead'"),
    ("zone_aging.zones", ["forehead", "forehead"], "zone_aging.zones names an entry twice"),
    ("zone_aging.defaults.strength", 0, "zone_aging.defaults.strength is 0"),
    ("zone_aging.defaults.steps", 8.0, "zone_aging.defaults.steps is 8.0"),
    ("zone_aging.scheduler.sampler", "heun", "zone_aging.scheduler.sampler"),
    ("zone_aging.scheduler.beta_end", 0.0001, "zone_aging.scheduler.beta_end"),
    ("zone_aging.calibration.forehead", [[0, 0]], "zone_aging.calibration.forehead needs at least two"),
    ("zone_aging.calibration.forehead", [[0, 1], [1, 0]], "is not increasing"),
    ("zone_aging.calibration.chin", [[0, 0], [1, 1]], "zone_aging.calibration.chin is not one of"),
    ("zone_aging.source_calibration", {"forehead": []}, "source_calibration.forehead holds no curve"),
    (
        "zone_aging.source_calibration",
        {"forehead": [{"score": 0.5, "curve": [[0, 0], [1, 1]]}] * 2},
        "source_calibration.forehead does not rise in score",
    ),
    (
        "zone_aging.source_calibration",
        {"forehead": [{"score": 0.5, "curve": [[0, 0], [1, 1e308]]}]},
        r"source_calibration.forehead\[0\].curve is 1e\+308",
    ),
    (
        "zone_aging.source_calibration",
        {"forehead": [{"score": 1.5, "curve": [[0, 0], [1, 1]]}]},
        r"source_calibration.forehead\[0\].score is 1.5",
    ),
    (
        "zone_aging.source_calibration",
        {"chin": [{"score": 0.5, "curve": [[0, 0], [1, 1]]}]},
        "source_calibration.chin is not one of",
    ),
    (
        "zone_aging.refiner",
        {"component": "refiner_denoise", "strength": 0.1, "steps": 4},
        "refiner.component is 'refiner_denoise', not a component",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), CASES, ids=[f"{path}-{index}" for index, (path, _, _) in enumerate(CASES)]
)
def test_every_fault_of_a_manifest_is_told_with_its_place(
    document: dict[str, Any], path: str, value: object, message: str
) -> None:
    broken = json.loads(json.dumps(document))
    *parents, last = path.split(".")
    target = broken
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if value is REMOVE:
        del target[last]
    elif isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    with pytest.raises(BundleError, match=message):
        manifest_from_json(json.dumps(broken))


def test_conditions_are_told_apart_by_their_type(document: dict[str, Any]) -> None:
    text = json.loads(json.dumps(document))
    text["zone_aging"]["condition"] = {"type": "text", "templates": {"full": "a {zone}", "zone": "b"}}
    settings = manifest_from_json(json.dumps(text)).settings
    assert isinstance(settings, ZoneAgingSettings)
    assert settings.condition == TextCondition({"full": "a {zone}", "zone": "b"})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(value=_JSON, data=st.data())
def test_any_value_anywhere_gives_a_manifest_or_a_bundle_error(
    document: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    mutated = json.loads(json.dumps(document))
    target: Any = mutated
    while True:
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        child = target[key]
        if not isinstance(child, (dict, list)) or not child or data.draw(st.booleans()):
            target[key] = value
            break
        target = child
    try:
        manifest = manifest_from_json(json.dumps(mutated))
    except BundleError:
        return
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


@given(text=st.text())
def test_any_text_gives_a_bundle_error(text: str) -> None:
    with pytest.raises(BundleError):
        manifest_from_json(text)


_IDENTIFIERS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@given(
    axes=st.lists(_IDENTIFIERS | st.integers(1, 2**31 - 1), max_size=5),
    low=st.integers(1, 8),
    best=st.integers(8, 16),
    zones=st.lists(_IDENTIFIERS, min_size=1, max_size=8, unique=True),
)
def test_any_valid_manifest_survives_a_round_trip(
    document: dict[str, Any], axes: list[int | str], low: int, best: int, zones: list[str]
) -> None:
    manifest = manifest_from_json(json.dumps(document))
    tensor = TensorSpec("x", "float16", tuple(axes))
    profile = {axis: (low, best, 2 * best) for axis in axes if isinstance(axis, str)}
    component = Component("add", "fp16", (tiny_bundle.GRAPH,), (tensor,), (tensor,), profile)
    assert isinstance(manifest.settings, ZoneAgingSettings)
    settings = dataclasses.replace(
        manifest.settings, zones=tuple(zones), condition=LearnedCondition(tuple(zones)), calibration={}
    )
    changed = dataclasses.replace(manifest, components={"add": component}, settings=settings)
    assert manifest_from_json(manifest_to_json(changed)) == changed
