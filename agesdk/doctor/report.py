"""The diagnosis: facts, trials, and findings drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from agesdk.backends.ort_errors import REINSTALL_GPU
from agesdk.cache_dir import cache_root
from agesdk.doctor.engines import EngineState, look_at_engines
from agesdk.doctor.findings import Finding
from agesdk.doctor.host import Host
from agesdk.doctor.jetson import Jetson, look_at_jetson
from agesdk.doctor.nvidia import NvidiaInfo, look_at_nvidia
from agesdk.doctor.software import (
    EMBEDDED_BUNDLES,
    BundleState,
    Trial,
    attempt,
    installed_packages,
    verify_bundle,
)
from agesdk.doctor.system import SystemInfo, look_at_system

REQUIREMENTS = ("cpu", "cuda", "tensorrt", "tensorrt-rtx", "native-tensorrt", "native-tensorrt-rtx")
"""What can be required: providers of ONNX Runtime, and the libraries of the backend ``tensorrt``."""

LITTLE_MEMORY = 2 * 2**30
"""Free bytes below which zone aging with the embedded bundle may be short of memory beside other programs."""

LITTLE_DISK = 2**30


@dataclass(frozen=True)
class CacheState:
    """The user's cache of engines and optimised graphs, by the folders in its root."""

    folder: str
    megabytes: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Everything that was found; `ok` where nothing that was asked for fails."""

    system: SystemInfo
    nvidia: NvidiaInfo
    jetson: Jetson | None
    packages: dict[str, str]
    trials: tuple[Trial, ...]
    bundles: tuple[BundleState, ...]
    cache: CacheState
    engines: EngineState
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for works."""
        return not any(finding.level == "problem" for finding in self.findings)


def diagnose(
    required: Sequence[str] = (),
    host: Host | None = None,
    packages: dict[str, str] | None = None,
    trial: Callable[[str], Trial] = attempt,
) -> Report:
    """Look at this machine and try what it has.

    Parameters
    ----------
    required:
        Of `REQUIREMENTS`: what must work; the CPU always must.
    host, packages, trial:
        The machine, its packages and how a probe is run: this machine's unless a test says otherwise.
    """
    host = host or Host()
    packages = installed_packages() if packages is None else packages
    nvidia, jetson = look_at_nvidia(host), look_at_jetson(host)
    system = look_at_system(host, cache_root())
    with ThreadPoolExecutor(max_workers=3) as pool:  # each waits for a process
        trials = tuple(pool.map(trial, ("cuda-driver", *REQUIREMENTS)))
    bundles = tuple(verify_bundle(kind) for kind in EMBEDDED_BUNDLES)
    engines = look_at_engines(None, packages, _capabilities(nvidia, jetson))
    findings = [
        *(bundle.finding for bundle in bundles if bundle.finding),
        *_trial_findings(trials, ("cpu", *required)),
        *_package_findings(packages, required),
        *_gpu_findings(nvidia, jetson, trials),
        *_space_findings(system),
        *([engines.finding] if engines.finding else []),
    ]
    order = ("problem", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.level))
    cache = look_at_cache(cache_root())
    return Report(system, nvidia, jetson, packages, trials, bundles, cache, engines, tuple(findings))


def look_at_cache(root: Path) -> CacheState:
    """Sizes of what lies in the cache's root; nothing is created."""
    sizes = {}
    try:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            files = (path for path in folder.rglob("*") if path.is_file())
            sizes[folder.name] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    except OSError:
        pass  # it does not exist, or a cleaner is at work
    return CacheState(str(root), sizes)


def _capabilities(nvidia: NvidiaInfo, jetson: Jetson | None) -> set[str]:
    """Compute capabilities of the GPUs, as far as they are known: `nvidia-smi` does not tell a Jetson's."""
    if jetson is not None:
        return {jetson.compute_capability} - {""}
    return {gpu.compute_capability for gpu in nvidia.gpus if _at_least(gpu.compute_capability, (0, 0))}


def _trial_findings(trials: Sequence[Trial], required: Sequence[str]) -> list[Finding]:
    return [
        replace(trial.finding, level="problem")
        for trial in trials
        if trial.finding is not None and trial.name in required
    ]


def _package_findings(packages: dict[str, str], required: Sequence[str]) -> list[Finding]:
    if not {"onnxruntime", "onnxruntime-gpu"} <= set(packages):
        return []
    needs_gpu = bool({"cuda", "tensorrt"} & set(required))
    return [
        Finding(
            "problem" if needs_gpu else "warning",
            "onnxruntime and onnxruntime-gpu are both installed",
            "they overwrite each other's files, and the one installed last hides the other's providers",
            f"Run `{REINSTALL_GPU}`",
        )
    ]


def _gpu_findings(nvidia: NvidiaInfo, jetson: Jetson | None, trials: Sequence[Trial]) -> list[Finding]:
    findings = [nvidia.problem] if nvidia.problem else []
    works = {trial.name for trial in trials if trial.works}
    if works & {"cuda", "tensorrt", "tensorrt-rtx", "native-tensorrt", "native-tensorrt-rtx"}:
        return findings
    if jetson is not None:
        findings.append(
            Finding("warning", f"The GPU of this {jetson.model or 'Jetson'} is not used", "", jetson.install)
        )
    elif nvidia.gpus:
        findings.append(
            Finding(
                "warning",
                f"The GPU {nvidia.gpus[0].name} is not used",
                "no provider for it works",
                f"Run `{_suggestion(nvidia)}`, and `agesdk doctor` again (docs/deploy-rtx.md)",
            )
        )
    return findings


def _suggestion(nvidia: NvidiaInfo) -> str:
    """The smallest install that uses a GPU: the plugin brings its libraries, onnxruntime-gpu needs CUDA."""
    cuda = nvidia.driver_cuda.partition(".")[0]
    if _at_least(nvidia.gpus[0].compute_capability, (8, 0)):
        return f"pip install onnxruntime-ep-nv-tensorrt-rtx{'-cu12' if cuda == '12' else ''}"
    return 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'


def _at_least(capability: str, least: tuple[int, int]) -> bool:
    major, _, minor = capability.partition(".")
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= least


def _space_findings(system: SystemInfo) -> list[Finding]:
    findings = []
    if system.memory_free is not None and system.memory_free < LITTLE_MEMORY:
        findings.append(
            Finding(
                "warning",
                f"{system.memory_free / 2**30:.1f} GiB of memory are free",
                "",
                "Close other programs",
            )
        )
    if system.disk_free is not None and system.disk_free < LITTLE_DISK:
        findings.append(
            Finding(
                "warning",
                f"{system.disk_free / 2**30:.1f} GiB are free where engines are kept ({system.disk_folder})",
                "",
                "Free some, or set AGESDK_CACHE to a folder on another disk",
            )
        )
    return findings
