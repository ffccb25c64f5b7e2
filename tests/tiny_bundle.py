"""A minimal valid bundle, written in milliseconds: one graph that adds a weight kept as external data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agesdk.bundle import (
    Component,
    LearnedCondition,
    Manifest,
    SchedulerSettings,
    TensorSpec,
    ZoneAgingDefaults,
    ZoneAgingSettings,
    write_manifest,
)

GRAPH, DATA = "components/add/model.onnx", "components/add/model.onnx.data"


def manifest() -> Manifest:
    """The manifest without its files."""
    axes = ("batch", 4)
    component = Component(
        name="add",
        precision="fp32",
        files=(GRAPH, DATA),
        inputs=(TensorSpec("x", "float32", axes),),
        outputs=(TensorSpec("y", "float32", axes),),
        profile={"batch": (1, 1, 8)},
    )
    settings = ZoneAgingSettings(
        mode="plain",
        latent_channels=4,
        scheduler=SchedulerSettings(),
        defaults=ZoneAgingDefaults(steps=8, strength=0.5),
        condition=LearnedCondition(zones=("forehead", "glabella")),
        zones=("forehead", "glabella"),
        calibration={"forehead": ((0.0, 0.1), (1.0, 0.9))},
    )
    return Manifest("zone-aging", "tiny", "0.1", {"add": component}, settings, {"note": "for tests"})


def save_graph(folder: Path, location: str = "model.onnx.data") -> None:
    """The graph and its weights; ``location`` is what the graph says about where they are."""
    path = folder / GRAPH
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(1, 4), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "add", values[:1], values[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    if location != "model.onnx.data":
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        path.write_bytes(model.SerializeToString())


def save(folder: Path) -> Path:
    """Write the bundle and return its folder."""
    save_graph(folder)
    x = np.ones((2, 4), np.float32)
    (folder / "golden").mkdir()
    np.savez(folder / "golden/add.npz", **{"input.x": x, "output.y": x + np.arange(4, dtype=np.float32)})
    write_manifest(folder, manifest())
    return folder
