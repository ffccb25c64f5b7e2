"""What ONNX Runtime says, turned into advice: real messages where any machine provokes them, recorded ones
of ONNX Runtime 1.31 and 1.32 where it takes a GPU's packages."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.backends.ort_errors import explain

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FLOAT = onnx.TensorProto.FLOAT


def save(path, nodes=None, opset=18, ir=9, domain="", external=False):
    """A graph y = f(x), by default x + w."""
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, FLOAT, ["batch", 4]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def failure(path, feeds=None):
    """The real error of opening, or of running, a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
    return caught.value


def test_missing_weights(tmp_path):
    path = save(tmp_path / "m.onnx", external=True)
    (tmp_path / "weights").unlink()
    advice = explain(failure(path))
    assert "weights are missing" in advice.why and "Copy the bundle" in advice.fix


def test_weights_that_are_cut_short(tmp_path):
    path = save(tmp_path / "m.onnx", external=True)
    (tmp_path / "weights").write_bytes(b"abc")
    assert "cut short" in explain(failure(path)).why


@pytest.mark.parametrize(
    ("options", "why", "fix"),
    [
        ({"opset": 99}, "opset 99", "--upgrade onnxruntime"),
        ({"ir": 99}, "IR version 99", "--upgrade onnxruntime"),
        ({"nodes": [("Frobnicate", ["x"], ["y"], {})]}, "operator Frobnicate", "--upgrade"),
        (
            {"nodes": [("Frobnicate", ["x"], ["y"], {"domain": "acme"})], "domain": "acme"},
            "operator acme:Frobnicate",
            "--upgrade",
        ),
        (
            {
                "nodes": [
                    ("Cast", ["x"], ["h"], {"to": onnx.TensorProto.BFLOAT16}),
                    ("Erf", ["h"], ["i"], {}),
                    ("Cast", ["i"], ["y"], {"to": FLOAT}),
                ]
            },
            "operator Erf",
            "another precision",
        ),
    ],
)
def test_graphs_this_runtime_does_not_take(options, why, fix, tmp_path):
    if "nodes" in options:
        options = {**options, "nodes": [onnx.helper.make_node(*n[:3], **n[3]) for n in options["nodes"]]}
    advice = explain(failure(save(tmp_path / "m.onnx", **options)))
    assert why in advice.why and fix in advice.fix


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_file_that_is_no_graph(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    assert "not an ONNX graph" in explain(failure(tmp_path / "m.onnx")).why


def test_out_of_memory(tmp_path):
    helper = onnx.helper
    huge = onnx.numpy_helper.from_array(np.array([2**22, 2**22, 4], np.int64))
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=huge),
        helper.make_node("Expand", ["x", "shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    advice = explain(failure(save(tmp_path / "m.onnx", nodes), {"x": np.ones((1, 4), np.float32)}))
    assert "not enough memory" in advice.why and "half-precision" in advice.fix


@pytest.mark.parametrize(
    ("message", "why", "fix"),
    [
        # Of the loader, with onnxruntime-gpu 1.31.1: without CUDA, without a driver, without TensorRT.
        (
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            "CUDA library libcublasLt.so.13 was",
            "onnxruntime-gpu[cuda,cudnn]",
        ),
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            "driver is not installed: libcuda.so.1 was",
            "nvidia-smi",
        ),
        (
            "libnvinfer.so.10: cannot open shared object file: No such file or directory",
            "TensorRT library libnvinfer.so.10 was",
            "TensorRT version",
        ),
        (
            "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void "
            "onnxruntime::python::RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const "
            "onnxruntime::ProviderOptions&) Please install TensorRT libraries as mentioned in the GPU "
            "requirements page",
            "TensorRT libraries",
            "provider='cuda'",
        ),
        # Of the plugin package 0.5.0 without a driver.
        (
            "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /x/"
            "libonnxruntime_providers_nv_tensorrt_rtx.so with error: libcuda.so.1: cannot open shared object "
            "file: No such file or directory",
            "driver is not installed",
            "nvidia-smi",
        ),
        # As public issues of ONNX Runtime quote them.
        (
            'LoadLibrary failed with error 126 "" when trying to load "C:\\onnxruntime_providers_cuda.dll"',
            "library it depends on",
            "CUDA and cuDNN",
        ),
        (
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0",
            "older than the CUDA",
            "update NVIDIA's driver",
        ),
        ("CUDA failure 100: no CUDA-capable device is detected", "finds no GPU", "--gpus all"),
        (
            "cudaErrorNoKernelImageForDevice:no kernel image is available",
            "not compiled for this GPU",
            "Jetson",
        ),
    ],
)
def test_messages_of_gpu_packages(message, why, fix):
    advice = explain(message)
    assert why in advice.why and fix in advice.fix


def test_an_unknown_message_is_kept_and_no_repair_is_invented():
    advice = explain("[ONNXRuntimeError] : 1 : FAIL : /a/b.cc:12 something\n new happened")
    assert (advice.why, advice.fix) == ("something new happened", "")
    assert len(explain("x" * 10_000).why) < 500
