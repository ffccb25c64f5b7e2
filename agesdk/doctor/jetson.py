"""Jetson: the module, its JetPack, and where its ONNX Runtime comes from.

PyPI has no `onnxruntime-gpu` for Jetson. JetPack 6.1 and 6.2 are served by an index of the Jetson AI Lab;
for JetPack 7 what is reported is a build from source (see docs/deploy-jetson.md for where that was read).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agesdk.doctor.host import Host

_JETPACKS = {
    (35,): "5",
    (36, 2): "6.0 DP",
    (36, 3): "6.0",
    (36, 4, 0): "6.1",
    (36, 4, 3): "6.2",
    (36, 4): "6.2.1",
    (36, 5): "6.2.2",
    (38, 2): "7.0",
    (38, 4): "7.1",
    (39, 2): "7.2",
}
"""Jetson Linux (L4T) -> JetPack, the longest match wins."""

JETPACK_6_INDEX = "https://pypi.jetson-ai-lab.io/jp6/cu126"
_FROM_SOURCE = (
    "Build ONNX Runtime on the device: `./build.sh --config Release --build_wheel --use_cuda --use_tensorrt "
    "--cmake_extra_defines CMAKE_CUDA_ARCHITECTURES={architecture}` with --cuda_home, --cudnn_home and "
    "--tensorrt_home (docs/deploy-jetson.md); no wheel for this JetPack is known to run on this GPU."
)


@dataclass(frozen=True)
class Jetson:
    """A Jetson.

    Attributes
    ----------
    model, l4t, jetpack:
        As ``NVIDIA Jetson Orin NX ...``, ``36.4.3``, ``6.2``; "" where it is not known.
    compute_capability:
        Of its GPU, such as ``8.7``.
    wheel_index:
        Package index with an `onnxruntime-gpu` for it, "" if none is known.
    install:
        The command that installs ONNX Runtime with its GPU.
    """

    model: str
    l4t: str
    jetpack: str
    compute_capability: str
    wheel_index: str
    install: str


def look_at_jetson(host: Host) -> Jetson | None:
    """The Jetson that this is, or None."""
    release = host.read("/etc/nv_tegra_release")
    model = (host.read("/proc/device-tree/model") or "").strip()
    if release is None and "jetson" not in model.lower():
        return None
    l4t = l4t_version(release or "")
    capability = _compute_capability(host.read("/proc/device-tree/compatible") or "", model)
    index, install = _onnxruntime_for(l4t, capability)
    return Jetson(model, ".".join(map(str, l4t)), jetpack_version(l4t), capability, index, install)


def l4t_version(release: str) -> tuple[int, ...]:
    """``# R36 (release), REVISION: 4.3, ...`` to (36, 4, 3); empty if it has another form."""
    match = re.match(r"# R(\d+) \(release\), REVISION: (\d+)\.?(\d*)", release)
    return tuple(int(part) for part in match.groups() if part) if match else ()


def jetpack_version(l4t: tuple[int, ...]) -> str:
    """The JetPack that carries a Jetson Linux, "" if it is not known."""
    for length in range(len(l4t), 0, -1):
        if l4t[:length] in _JETPACKS:
            return _JETPACKS[l4t[:length]]
    return ""


def _compute_capability(compatible: str, model: str) -> str:
    text = f"{compatible} {model}".lower()
    for sign, capability in (
        ("tegra264", "11.0"),
        ("thor", "11.0"),
        ("tegra234", "8.7"),
        ("orin", "8.7"),
        ("tegra194", "7.2"),
        ("xavier", "7.2"),
    ):
        if sign in text:
            return capability
    return ""


def _onnxruntime_for(l4t: tuple[int, ...], capability: str) -> tuple[str, str]:
    if (36, 4) <= l4t[:2] < (37,):
        return JETPACK_6_INDEX, f"pip install onnxruntime-gpu --index-url {JETPACK_6_INDEX}"
    if l4t and l4t < (36, 4):
        return "", "Update to JetPack 6.2: known wheels need JetPack 6.1 or later, and agesdk Python 3.10."
    return "", _FROM_SOURCE.format(architecture=capability.replace(".", "") or "87")
