"""TensorRT's log and errors in words that say what to do. The messages are TensorRT's own, recorded."""

from __future__ import annotations

import sys
import types

import pytest

from agesdk.backends.trt_library import LogKeeper, failure, import_library, is_harmless
from agesdk.errors import BackendError

GEMM = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] "
    "Cannot compile operation 'node_linear' for Turing (SM75): FP32 GEMM is not supported. In compileGraph "
    "at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
)
UINT8 = (
    "Invalid Node - node_permute\nITensor::getDimensions: Error Code 4: API Usage Error (node_permute: first "
    "input has type UInt8 but must have type Float, Half, BFloat16 or Bool. In checkType at x.cpp:456)\n"
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is "
    "insufficient for CUDA runtime version)"
)
CONCAT = (
    "ITensor::getDimensions: Error Code 4: API Usage Error (node_cat_7: IConcatenationLayer inputs must all "
    "be of the same type. In validate at concat.cpp:12)"
)
NO_DRIVER = (
    "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
    "cudaResources.cpp:25 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)


@pytest.mark.parametrize(
    ("message", "node", "why", "fix"),
    [
        (GEMM, "node_linear", "Turing", "--precision fp16"),
        (UINT8, "node_permute", "mixes types", "Export the bundle again"),
        (CONCAT, "node_cat_7", "mixes types", "Export the bundle again"),
        (NO_DRIVER, "", "no NVIDIA driver", "nvidia-smi"),
        (
            "In node 5 and operator: FooBar: no importer registered for op",
            "",
            "operator",
            "ONNX Runtime",
        ),
        ("Requested size was 8000000000 bytes: OutOfMemory", "", "memory", "--component"),
        (
            "The engine plan file is not compatible with this version",
            "",
            "release",
            "engines build",
        ),
        ("Could not find any implementation for node {ForeignNode[a...b]}", "a...b", "kernel", "precision"),
        ("something nobody has seen yet", "", "something nobody", "--verbose"),
    ],
)
def test_an_error_names_node_cause_and_advice(message, node, why, fix) -> None:
    error = failure("Compiling denoise failed", [message])
    assert error.what == ("Compiling denoise failed" + (f" at the node {node}" if node else ""))
    assert why in error.why
    assert fix in error.fix


def test_the_message_that_the_advice_is_about_is_quoted() -> None:
    error = failure("It failed", ["first line, of no use", GEMM])
    assert "FP32 GEMM is not supported" in error.why
    assert "of no use" not in error.why


def test_the_parsers_node_goes_before_one_found_in_the_text() -> None:
    assert "at the node conv_1" in failure("It failed", [GEMM], "conv_1").what


def test_no_message_at_all_is_still_an_error() -> None:
    assert "gave no reason" in failure("It failed", []).why


@pytest.mark.parametrize(
    "message",
    [
        "Skipping tactic 0x0000000000000000 due to exception Assertion failed",
        "Tactic Device request: 9000MB Available: 7000MB. Device memory is insufficient to use tactic. "
        "Tactic 12 is skipped",
        "ModelImporter.cpp:1071: Make sure input zone has Int64 binding.",
        "Node name: node_permute",
    ],
)
def test_what_is_no_failure_is_not_taken_for_one(message) -> None:
    assert is_harmless(message)


@pytest.mark.parametrize("message", [GEMM, UINT8, CONCAT, NO_DRIVER])
def test_failures_are_not_harmless(message) -> None:
    assert not is_harmless(message)


def test_the_log_keeps_errors_and_drops_skipped_tactics() -> None:
    library = import_library("tensorrt-rtx")
    log = LogKeeper(library)
    severity = library.api.ILogger.Severity
    log.sink.log(severity.ERROR, "Skipping tactic 3 due to insufficient memory")
    log.sink.log(severity.WARNING, "a warning")
    log.sink.log(severity.ERROR, GEMM)
    log.sink.log(severity.INTERNAL_ERROR, CONCAT)
    assert log.errors == [GEMM, CONCAT]
    log.clear()
    assert log.errors == []


def test_a_library_that_is_not_installed_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"TensorRT-RTX is not installed.*pip install tensorrt-rtx"):
        import_library("tensorrt-rtx")


def test_type_stubs_are_not_taken_for_tensorrt(monkeypatch) -> None:
    """`tensorrt-stubs` makes a folder `tensorrt` without code, which Python imports without a word."""
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(BackendError, match=r"only its type stubs.*JetPack"):
        import_library("tensorrt")


def test_a_tensorrt_too_old_is_told(monkeypatch) -> None:
    old = types.ModuleType("tensorrt")
    old.Runtime, old.__version__ = object, "8.6.1"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(BackendError, match=r"too old.*8\.6\.1"):
        import_library("tensorrt")
