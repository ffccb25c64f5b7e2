"""A zone-aging bundle that runs in milliseconds and whose effect is known in closed form.

The "autoencoder" averages blocks of 8×8 pixels, the "denoiser" takes the condition score for the noise, and
the "score" of a crop is its mean brightness. It ages nobody, but everything around the networks runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

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
from agesdk.faces.zones import ZONE_KINDS

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
_IMAGE = TensorSpec("image", "uint8", ("batch", 128, 128, 3))
_ZONE = TensorSpec("zone", "int64", ("batch",))
_SCORE = TensorSpec("score", "float32", ("batch",))
_CONDITION = TensorSpec("encoder_hidden_states", "float32", ("batch", 1, 1))


def _latent(name: str) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", 3, 16, 16))


def save(folder: Path) -> Path:
    """Write the bundle and return its folder."""
    node = helper.make_node
    pieces = [
        _component(
            folder,
            "vae_encoder",
            [_IMAGE],
            [_latent("mean"), _latent("std")],
            [
                node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
                node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
                node("AveragePool", ["planes"], ["blocks"], kernel_shape=[8, 8], strides=[8, 8]),
                node("Div", ["blocks", "half_range"], ["scaled"]),
                node("Sub", ["scaled", "one"], ["mean"]),
                node("Mul", ["mean", "zero"], ["std"]),
            ],
        ),
        _component(
            folder,
            "vae_decoder",
            [_latent("latents")],
            [_IMAGE],
            [
                node("Resize", ["latents", "", "scales"], ["large"], mode="linear"),
                node("Add", ["large", "one"], ["shifted"]),
                node("Mul", ["shifted", "half_range"], ["real"]),
                node("Clip", ["real", "zero", "white"], ["clipped"]),
                node("Round", ["clipped"], ["whole"]),
                node("Cast", ["whole"], ["bytes"], to=TensorProto.UINT8),
                node("Transpose", ["bytes"], ["image"], perm=[0, 2, 3, 1]),
            ],
        ),
        _component(
            folder,
            "condition_encoder",
            [_ZONE, _SCORE],
            [_CONDITION],
            [
                node("Cast", ["zone"], ["real_zone"], to=TensorProto.FLOAT),
                node("Mul", ["real_zone", "zero"], ["nothing"]),
                node("Add", ["score", "nothing"], ["sum"]),
                node("Reshape", ["sum", "condition_shape"], ["encoder_hidden_states"]),
            ],
        ),
        _component(
            folder,
            "denoise",
            [
                _latent("sample"),
                _latent("noise"),
                TensorSpec("timestep", "float32", ("batch",)),
                _CONDITION,
                TensorSpec("coeffs", "float32", ("batch", 4)),
            ],
            [_latent("next_sample")],
            [
                node("Split", ["coeffs"], ["c_in", "c_sample", "c_out", "c_noise"], axis=1, num_outputs=4),
                *_spread("c_in", "c_sample", "c_out", "c_noise", "timestep", "encoder_hidden_states"),
                node("Mul", ["c_in_4", "timestep_4"], ["unused"]),
                node("Mul", ["unused", "zero"], ["nothing"]),
                node("Add", ["encoder_hidden_states_4", "nothing"], ["model"]),
                node("Mul", ["c_sample_4", "sample"], ["kept"]),
                node("Mul", ["c_out_4", "model"], ["moved"]),
                node("Mul", ["c_noise_4", "noise"], ["fresh"]),
                node("Sum", ["kept", "moved", "fresh"], ["next_sample"]),
            ],
        ),
        _component(
            folder,
            "score_net",
            [_latent("latents"), _ZONE],
            [_SCORE],
            [
                node("ReduceMean", ["latents", "planes"], ["brightness"], keepdims=0),
                node("Add", ["brightness", "one"], ["shifted"]),
                node("Mul", ["shifted", "half"], ["unit"]),
                node("Cast", ["zone"], ["real_zone"], to=TensorProto.FLOAT),
                node("Mul", ["real_zone", "zero"], ["nothing"]),
                node("Add", ["unit", "nothing"], ["score"]),
            ],
        ),
    ]
    settings = ZoneAgingSettings(
        mode="plain",
        paste="residual",
        latent_channels=3,
        scheduler=SchedulerSettings(),
        defaults=ZoneAgingDefaults(steps=4, strength=0.5),
        condition=LearnedCondition(zones=ZONE_KINDS),
        zones=ZONE_KINDS,
    )
    components = {component.name: component for component in pieces}
    write_manifest(folder, Manifest("zone-aging", "tiny-zones", "0.1", components, settings))
    return folder


_CONSTANTS = {
    "zero": np.float32(0),
    "half": np.float32(0.5),
    "one": np.float32(1),
    "half_range": np.float32(127.5),
    "white": np.float32(255),
    "scales": np.array([1, 1, 8, 8], np.float32),
    "condition_shape": np.array([-1, 1, 1], np.int64),
    "spread": np.array([-1, 1, 1, 1], np.int64),
    "planes": np.array([1, 2, 3], np.int64),
}


def _spread(*names: str) -> list[NodeProto]:
    return [helper.make_node("Reshape", [name, "spread"], [f"{name}_4"]) for name in names]


def _component(
    folder: Path,
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    nodes: Sequence[NodeProto],
) -> Component:
    used = {value for node in nodes for value in node.input}
    made = {value for node in nodes for value in node.output}
    constants = [
        numpy_helper.from_array(np.asarray(value), key)
        for key, value in _CONSTANTS.items()
        if key in used - made
    ]
    graph = helper.make_graph(list(nodes), name, _values(inputs), _values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    relative = f"components/{name}/model.onnx"
    (folder / relative).parent.mkdir(parents=True)
    (folder / relative).write_bytes(model.SerializeToString())
    return Component(name, "fp32", (relative,), tuple(inputs), tuple(outputs), {"batch": (1, 4, 24)})


def _values(tensors: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape)) for spec in tensors
    ]
