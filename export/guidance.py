"""The graph that mixes the two halves of classifier-free guidance on the device, beside any denoiser.

``python -m export.guidance`` writes ``agesdk/data/guidance.onnx``, which is installed with the runtime.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

PATH = Path(__file__).parents[1] / "agesdk/data/guidance.onnx"


def guidance_graph() -> onnx.ModelProto:
    """``halves`` float32 [2 B, C, h, w], ``scale`` float32 [1] to ``guided`` float32 [2 B, C, h, w], as
    `agesdk.backends.base.mix_guidance`.
    """
    axes = ["batch", "channels", "height", "width"]
    nodes = [
        helper.make_node("Split", ["halves"], ["null", "conditioned"], axis=0, num_outputs=2),
        helper.make_node("Sub", ["conditioned", "null"], ["difference"]),
        helper.make_node("Mul", ["difference", "scale"], ["change"]),
        helper.make_node("Add", ["null", "change"], ["mixed"]),
        helper.make_node("Concat", ["mixed", "mixed"], ["guided"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "guidance",
        [
            helper.make_tensor_value_info("halves", TensorProto.FLOAT, axes),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("guided", TensorProto.FLOAT, axes)],
    )
    # The oldest opset with Split's num_outputs, so that the ONNX Runtime of every JetPack takes it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    PATH.write_bytes(guidance_graph().SerializeToString())
