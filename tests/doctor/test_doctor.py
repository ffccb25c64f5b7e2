"""The diagnosis on recorded machines, and on this one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agesdk.cli import main
from agesdk.cpu import cpu_features
from agesdk.doctor import REQUIREMENTS, diagnose, report
from agesdk.doctor.engines import look_at_engines
from agesdk.doctor.findings import Finding
from agesdk.doctor.host import Done, Host
from agesdk.doctor.jetson import jetpack_version, l4t_version, look_at_jetson
from agesdk.doctor.nvidia import Gpu, look_at_nvidia
from agesdk.doctor.software import Trial, attempt, verify_bundle
from agesdk.doctor.system import cpu_model, memory, operating_system
from agesdk.engine_cache import EngineCache, EngineRecord
from agesdk.engine_key import EngineKey, host_platform
from agesdk.manifest import TensorSpec

MACHINES = Path(__file__).parent / "machines"
MIB = 2**20
CPU_PACKAGES = {"agesdk": "0.1.0", "onnxruntime": "1.31.1"}


@dataclass(frozen=True)
class RecordedHost(Host):
    """A machine of files under ``root``, with what its ``nvidia-smi`` printed and how it is called."""

    nvidia_smi: str = "nvidia-smi"

    def run(self, *command: str, timeout: float = 20.0) -> Done | None:
        if command[0] != self.nvidia_smi:
            return None
        failure = self.read("nvidia-smi-failure.txt")
        if failure is not None:
            return Done(9, failure, "")
        output = self.read("nvidia-smi-query.txt" if len(command) > 1 else "nvidia-smi.txt")
        return None if output is None else Done(0, output, "")


def machine(name: str) -> RecordedHost:
    return RecordedHost(MACHINES / name)


def only_the_cpu(name: str) -> Trial:
    if name == "cpu":
        return Trial(name, True, "runs")
    finding = Finding("note", f"{name} is not there", "a test says so", f"Install {name}")
    return Trial(name, False, str(finding), finding)


@pytest.mark.parametrize(
    ("name", "gpus", "cuda"),
    [
        (
            "rtx4090",
            (Gpu("NVIDIA GeForce RTX 4090", "8.9", "570.133.07", 24564 * MIB, 23021 * MIB),),
            "12.8",
        ),
        (
            "laptop-windows",
            (Gpu("NVIDIA GeForce RTX 5070 Laptop GPU", "12.0", "581.80", 8151 * MIB, 7690 * MIB),),
            "13.0",
        ),
        ("orin-nx", (Gpu("Orin (nvgpu)", "[N/A]", "540.4.0", None, None),), "12.6"),
        ("no-gpu", (), ""),
    ],
)
def test_gpus_and_driver(name: str, gpus: tuple[Gpu, ...], cuda: str) -> None:
    nvidia = look_at_nvidia(machine(name))
    assert (nvidia.gpus, nvidia.driver_cuda, nvidia.problem) == (gpus, cuda, None)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("laptop-windows", r"C:\Windows\System32\nvidia-smi.exe"),
        ("turing-wsl", "/usr/lib/wsl/lib/nvidia-smi"),
    ],
)
def test_nvidia_smi_is_found_where_it_is_not_on_the_path(name: str, command: str) -> None:
    assert len(look_at_nvidia(RecordedHost(MACHINES / name, command)).gpus) == 1


@pytest.mark.parametrize(
    ("name", "fix"),
    [("broken-driver", "modprobe nvidia"), ("updated-driver", "Restart: the driver was updated")],
)
def test_a_driver_that_does_not_work_is_a_finding_with_its_repair(name: str, fix: str) -> None:
    problem = look_at_nvidia(machine(name)).problem
    assert problem is not None and fix in problem.fix
    assert problem in diagnose(host=machine(name), packages=CPU_PACKAGES, trial=only_the_cpu).findings


def test_an_orin_on_jetpack_6_is_told_its_wheel_index() -> None:
    jetson = look_at_jetson(machine("orin-nx"))
    assert jetson is not None
    assert jetson.model == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert (jetson.l4t, jetson.jetpack, jetson.compute_capability) == ("36.4.3", "6.2", "8.7")
    assert jetson.install == "pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    found = diagnose(host=machine("orin-nx"), packages=CPU_PACKAGES, trial=only_the_cpu).findings
    assert [finding.fix for finding in found] == [jetson.install]


def test_a_thor_on_jetpack_7_is_told_to_build_for_its_own_architecture() -> None:
    jetson = look_at_jetson(machine("thor"))
    assert jetson is not None
    assert (jetson.l4t, jetson.jetpack, jetson.compute_capability) == ("38.2.0", "7.0", "11.0")
    assert jetson.wheel_index == ""
    assert "CMAKE_CUDA_ARCHITECTURES=110" in jetson.install


@pytest.mark.parametrize("name", ["rtx4090", "no-gpu", "laptop-windows"])
def test_a_pc_is_no_jetson(name: str) -> None:
    assert look_at_jetson(machine(name)) is None


@pytest.mark.parametrize(
    ("line", "l4t", "jetpack"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", (35, 4, 1), "5"),
        ("# R36 (release), REVISION: 3.0, GCID: 36191598", (36, 3, 0), "6.0"),
        ("# R36 (release), REVISION: 4.0, GCID: 37537400", (36, 4, 0), "6.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 42132812", (36, 4, 7), "6.2.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", (39, 2, 0), "7.2"),
        ("# R99 (release), REVISION: 1", (99, 1), ""),
        ("", (), ""),
        ("garbage", (), ""),
    ],
)
def test_jetson_linux_to_jetpack(line: str, l4t: tuple[int, ...], jetpack: str) -> None:
    assert l4t_version(line) == l4t
    assert jetpack_version(l4t) == jetpack


@pytest.mark.parametrize(
    ("name", "features", "model"),
    [
        ("rtx4090", ("AVX2", "FMA", "AVX-VNNI"), "13th Gen Intel(R) Core(TM) i9-13900K"),
        ("orin-nx", ("NEON", "FP16", "DOTPROD"), ""),
        ("thor", ("NEON", "FP16", "DOTPROD", "I8MM", "BF16", "SVE2"), ""),
    ],
)
def test_processors(name: str, features: tuple[str, ...], model: str) -> None:
    cpuinfo = machine(name).read("/proc/cpuinfo")
    assert cpuinfo is not None
    assert (cpu_features(cpuinfo), cpu_model(cpuinfo)) == (features, model)


def test_server_features_are_told_apart() -> None:
    flags = "flags : avx2 fma avx512f avx512_vnni amx_bf16 amx_int8 amx_tile avx512_bf16"
    assert cpu_features(flags) == (
        "AVX2", "FMA", "AVX-512", "AVX512-VNNI", "AVX512-BF16", "AMX-BF16", "AMX-INT8",
    )  # fmt: skip


def test_memory_and_system() -> None:
    assert memory(machine("orin-nx")) == (16003416 * 1024, 12890432 * 1024)
    assert operating_system(machine("rtx4090")).startswith("Ubuntu 24.04.2 LTS, ")
    assert operating_system(machine("turing-wsl")).endswith("(WSL)")


@pytest.mark.skipif(os.name == "nt", reason="Windows answers by its own calls")
def test_a_machine_that_says_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    found = diagnose(host=RecordedHost(tmp_path), packages={}, trial=only_the_cpu)
    assert found.ok and found.system.memory_total is None and found.nvidia.gpus == ()


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("rtx4090", "pip install onnxruntime-ep-nv-tensorrt-rtx-cu12"),
        ("laptop-windows", "pip install onnxruntime-ep-nv-tensorrt-rtx`"),
        ("turing-wsl", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
    ],
)
def test_an_idle_gpu_is_told_what_would_use_it(name: str, install: str) -> None:
    found = diagnose(host=machine(name), packages=CPU_PACKAGES, trial=only_the_cpu)
    assert found.ok
    assert [install in finding.fix for finding in found.findings if "is not used" in finding.what] == [True]


def test_both_runtimes_installed_is_a_problem_where_the_gpu_is_needed() -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}

    def levels(*required: str) -> list[str]:
        found = diagnose(required, machine("rtx4090"), both, only_the_cpu).findings
        return [finding.level for finding in found if "both installed" in finding.what]

    assert levels() == ["warning"]
    assert levels("cuda") == ["problem"]


def test_a_broken_cpu_provider_is_a_problem_though_nobody_asked() -> None:
    def nothing_works(name: str) -> Trial:
        finding = Finding("note", f"{name} is not there")
        return Trial(name, False, str(finding), finding)

    assert not diagnose(host=machine("no-gpu"), packages={}, trial=nothing_works).ok


def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000000 kB\nMemAvailable: 500000 kB\n")
    monkeypatch.setattr(report, "LITTLE_DISK", 2**60)
    found = diagnose(host=RecordedHost(tmp_path), packages={}, trial=only_the_cpu).findings
    assert ["0.5 GiB of memory" in found[0].what, "AGESDK_CACHE" in found[1].fix] == [True, True]


def test_a_probe_that_crashes_is_a_finding_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing_probe.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    trial = attempt("cuda", module="crashing_probe")
    assert not trial.works and "SIGSEGV" in trial.detail


def test_a_probe_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_probe.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "did not answer" in attempt("cuda", seconds=0.5, module="hanging_probe").detail


def test_a_damaged_bundle_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agesdk.bundle import embedded_bundle

    copy = tmp_path / "bundle"
    shutil.copytree(embedded_bundle("face-analysis"), copy)
    graph = copy / "components/face_detector/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    monkeypatch.setattr("agesdk.bundle.embedded_bundle", lambda kind: copy)
    finding = verify_bundle("face-analysis").finding
    assert finding is not None and finding.level == "problem" and "altered" in finding.what


def test_the_cache_is_described_and_not_created(tmp_path: Path) -> None:
    assert report.look_at_cache(tmp_path / "none").megabytes == {}
    assert not (tmp_path / "none").exists()
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/a.engine").write_bytes(bytes(3_000_000))
    assert report.look_at_cache(tmp_path).megabytes == {"engines": 3.0}


def keep_engine(folder: Path, **changes: Any) -> Path:
    """An engine for two compute capabilities in a cache."""
    key = EngineKey(
        graph="a" * 64,
        bundle_profile={"batch": (1, 1, 1)},
        profiles=({"batch": (1, 1, 1)},),
        runtime="tensorrt-rtx",
        runtime_version="1.7.1.116",
        platform=host_platform(),
        compute_capabilities=("8.6", "8.9"),
        gpu=None,
        driver=None,
        optimization_level=3,
    )
    key = replace(key, **changes)
    spec = TensorSpec("x", "float32", ("batch",))
    record = EngineRecord(
        "zones", "denoise", "fp16", key, (spec,), (spec,), "", 0, "", "2026", 1.0, 1.0, None, "0"
    )
    with EngineCache(folder).writing() as writer:
        made = writer.temporary()
        made.write_bytes(bytes(1_500_000))
        return writer.commit(made, record).engine


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"runtime_version": "1.6.0"}, "TensorRT-RTX 1.6.0 → 1.7.1.116"),
        ({"runtime": "tensorrt"}, "TensorRT 1.7.1.116 → not installed"),
        ({"platform": "win32-arm64"}, "platform win32-arm64 →"),
        ({"compute_capabilities": ("12.0",)}, "compute capability 12.0 → 8.9"),
    ],
)
def test_engines_that_can_not_be_used_here_are_told(
    change: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path))
    keep_engine(tmp_path / "engines", **change)
    packages = {**CPU_PACKAGES, "tensorrt-rtx": "1.7.1.116"}
    found = diagnose(host=machine("rtx4090"), packages=packages, trial=only_the_cpu)
    assert (found.engines.count, found.engines.megabytes) == (1, 1.5)
    assert [why in reason for reason in found.engines.stale.values()] == ([True] if why else [])
    told = [finding.why for finding in found.findings if "engines in the cache" in finding.what]
    assert [why in text and "zones denoise fp16" in text for text in told] == ([True] if why else [])
    assert found.ok


def test_an_engine_whose_file_was_cut_or_removed_is_told(tmp_path: Path) -> None:
    packages = {"tensorrt-rtx": "1.7.1.116"}
    engine = keep_engine(tmp_path / "engines")
    engine.write_bytes(b"cut")
    assert "3 bytes" in "".join(look_at_engines(tmp_path / "engines", packages, ()).stale.values())
    engine.unlink()
    assert "gone" in "".join(look_at_engines(tmp_path / "engines", packages, ()).stale.values())


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_an_engine_cache_that_others_can_write_to_is_told(tmp_path: Path) -> None:
    keep_engine(tmp_path / "engines")
    (tmp_path / "engines").chmod(0o777)
    finding = look_at_engines(tmp_path / "engines", {}, ()).finding
    assert finding is not None and "chmod 700" in finding.fix


def test_type_stubs_of_tensorrt_are_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tensorrt-stubs` makes the module importable, and empty."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt/__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = attempt("native-tensorrt").finding
    assert finding is not None and "type stubs" in finding.why and "pip install tensorrt" in finding.fix


def test_the_command_tries_everything_for_real_and_says_what_can_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On any machine: the CPU works, and ``ok`` and the exit code agree with what was tried."""
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path))
    code = main(["doctor", "--json", "--require", "cuda"])
    described = json.loads(capsys.readouterr().out)
    trials = {trial["name"]: trial for trial in described["trials"]}
    assert set(trials) == {"cuda-driver", *REQUIREMENTS}
    assert trials["cpu"]["works"] and "recorded result" in trials["cpu"]["detail"]
    assert described["ok"] is trials["cuda"]["works"]
    assert code == (0 if trials["cuda"]["works"] else 1)
    for trial in trials.values():
        if not trial["works"]:
            assert trial["finding"]["what"] and trial["finding"]["fix"], trial
    assert [bundle["finding"] for bundle in described["bundles"]] == [None, None]
    assert described["system"]["executable"] == sys.executable


def test_the_text_names_facts_trials_and_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agesdk.cli.doctor import as_text

    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path))
    text = as_text(diagnose(["tensorrt"], machine("orin-nx"), CPU_PACKAGES, only_the_cpu))
    for part in (
        "Orin NX",
        "JetPack 6.2",
        "jp6/cu126",
        "12.3 GiB free of 15.3 GiB",
        "problem: tensorrt is not",
    ):
        assert part in text
    assert main(["doctor", "--require", "cudda"]) == 2
    assert 'Did you mean "cuda"?' in capsys.readouterr().err
