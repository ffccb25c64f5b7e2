"""What is installed, and what of it works when it is tried."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import agesdk
from agesdk.bundle import Bundle
from agesdk.doctor.findings import Finding
from agesdk.errors import AgeSDKError

PACKAGES = (
    "agesdk",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "tokenizers",
)
EMBEDDED_BUNDLES = ("face-analysis", "zone-aging")
PROBE_SECONDS = 180.0
"""For one probe. TensorRT compiles the small graph first, and CUDA starts slowly from a slow disk."""


@dataclass(frozen=True)
class Trial:
    """A probe that was run: what it said where it works, else why it does not."""

    name: str
    works: bool
    detail: str
    finding: Finding | None = None


@dataclass(frozen=True)
class BundleState:
    """An embedded bundle after verification."""

    kind: str
    name: str
    version: str
    megabytes: float
    finding: Finding | None = None


def installed_packages() -> dict[str, str]:
    """Version by name of what matters here and is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found.setdefault("agesdk", agesdk.__version__)
    return found


def attempt(name: str, seconds: float = PROBE_SECONDS, module: str = "agesdk.doctor.probe") -> Trial:
    """Run a probe of `agesdk.doctor.probe` in a process of its own."""
    root = str(Path(agesdk.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, name],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(
            name, f"{name} did not answer", f"it was ended after {seconds:.0f} s", "Restart, and try again"
        )
    except OSError as error:
        return _failed(name, f"{name} can not be tried", str(error), "")
    if done.returncode != 0:
        return _failed(
            name,
            f"{name} crashed",
            f"the process ended with {_ending(done.returncode)}: {_last_line(done.stderr)}",
            "Install versions that belong together: the driver, CUDA, TensorRT and ONNX Runtime",
        )
    result = json.loads(_last_line(done.stdout))
    if "detail" in result:
        return Trial(name, True, result["detail"])
    return _failed(name, result["what"], result["why"], result["fix"])


def verify_bundle(kind: str) -> BundleState:
    """Check every file of an embedded bundle."""
    try:
        bundle = Bundle.open(None, kind)
    except AgeSDKError as error:
        finding = Finding("problem", error.what, error.why, error.fix or "Reinstall agesdk")
        return BundleState(kind, "", "", 0.0, finding)
    manifest = bundle.manifest
    megabytes = sum(entry.size for entry in manifest.files) / 1e6
    return BundleState(kind, manifest.name, manifest.version, round(megabytes, 1))


def _failed(name: str, what: str, why: str, fix: str) -> Trial:
    finding = Finding("note", what, why, fix)
    return Trial(name, False, str(finding), finding)


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code:#x}"
    except ValueError:
        return f"signal {-code}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
