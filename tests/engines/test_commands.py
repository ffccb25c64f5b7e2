"""``python -m engines build``, ``list``, ``inspect`` and ``clean``, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agesdk.bundle import Bundle, Variant, write_manifest
from agesdk.engine_cache import EngineCache
from agesdk.engine_key import graph_hash
from engines import memory, worker
from engines.__main__ import main
from engines.build import plan
from engines.clean import _parse_age, _parse_size
from engines.compile import CompileJob
from engines.targets import parse_target

pytest.importorskip("tensorrt_rtx")

BUILD = ["build", "zone-aging", "--component", "condition_encoder", "--optimization-level", "0", "--target"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one engine for two compute capabilities and two profiles."""
    folder = tmp_path_factory.mktemp("built") / "cache"
    profiles = ["--profile", "batch=1:8:24", "--profile", "batch=1:1:1"]
    assert main([*BUILD, "rtx:86,89", *profiles, "--cache", str(folder)]) == 0
    return folder


def test_the_engine_has_the_manifests_tensors_and_the_right_key(built: Path) -> None:
    import tensorrt_rtx

    bundle = Bundle.open(kind="zone-aging")
    component = bundle.component("condition_encoder")
    (entry,) = EngineCache(built).entries()
    record, key = entry.record, entry.record.key
    assert (record.inputs, record.outputs) == (component.inputs, component.outputs)
    assert key.graph == graph_hash(bundle, "condition_encoder")
    assert key.bundle_profile == component.profile
    assert key.profiles == ({"batch": (1, 8, 24)}, {"batch": (1, 1, 1)})
    assert key.compute_capabilities == ("8.6", "8.9")
    assert (key.runtime, key.runtime_version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert (key.gpu, key.driver, key.optimization_level) == (None, None, 0)
    assert (
        record.size == entry.engine.stat().st_size > bundle.component_path("condition_encoder").stat().st_size
    )
    assert record.processor_seconds > 0
    assert record.layers["MATRIX_MULTIPLY"] >= 1


def test_what_is_there_is_not_built_again(built: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(worker, "compile_component", None)
    (entry,) = EngineCache(built).entries()
    profiles = ["--profile", "batch=1:8:24", "--profile", "batch=1:1:1"]
    assert main([*BUILD, "rtx:86,89", *profiles, "--cache", str(built)]) == 0
    assert f"in the cache, {entry.engine}" in capsys.readouterr().out


def test_inspect_shows_tensors_profiles_layers_and_why_no_more(built: Path, capsys) -> None:
    (entry,) = EngineCache(built).entries()
    assert main(["inspect", str(entry.engine)]) == 0
    told = capsys.readouterr().out
    for line in (
        "any GPU of compute capability 8.6, 8.9",
        "<- zone int64 [batch]",
        "-> encoder_hidden_states float32 [batch, 4, 64]",
        "profile batch=1:8:24",
        "profile batch=1:1:1",
        "MATRIX_MULTIPLY",
        "file: as built",
    ):
        assert line in told
    assert main(["inspect", str(entry.sidecar), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["intact"] is True
    assert document["key"]["compute_capabilities"] == ["8.6", "8.9"]


def test_list_and_clean(built: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "cache"
    copy.mkdir(mode=0o700)
    for path in built.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert main(["list", "--cache", str(copy)]) == 0
    told = capsys.readouterr().out
    assert "condition_encoder fp32, TensorRT-RTX" in told
    assert "1 engines" in told
    assert main(["list", "--json", "--cache", str(copy)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["component"] == "condition_encoder"
    assert main(["clean", "--older-than", "1d", "--max-size", "20G", "--cache", str(copy)]) == 0
    assert len(EngineCache(copy).entries()) == 1
    assert main(["clean", "--all", "--cache", str(copy)]) == 0
    assert "1 engines removed" in capsys.readouterr().out
    assert EngineCache(copy).entries() == []
    (copy / "x.engine").write_bytes(b"x")
    assert main(["inspect", str(copy / "x.engine")]) == 2
    assert "No sidecar" in capsys.readouterr().err


def test_clean_covers_the_graphs_that_onnxruntime_keeps(engine_cache, capsys) -> None:
    folder = engine_cache.folder.parent / "onnxruntime/cpu/denoise-0123"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(2_000_000))
    assert main(["clean", "--all", "--cache", str(engine_cache.folder)]) == 0
    assert main(["clean", "--max-size", "2M"]) == 0
    assert folder.exists()
    assert main(["clean", "--max-size", "1M"]) == 0
    assert not folder.exists()
    assert "1 optimised graphs removed, 2.0 MB" in capsys.readouterr().out


def test_a_damaged_engine_is_told_by_inspect_and_built_again(built: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "cache"
    copy.mkdir(mode=0o700)
    for path in built.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (entry,) = EngineCache(copy).entries()
    entry.engine.write_bytes(b"cut")
    assert main(["inspect", str(entry.engine)]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    profiles = ["--profile", "batch=1:8:24", "--profile", "batch=1:1:1"]
    assert main([*BUILD, "rtx:86,89", *profiles, "--cache", str(copy)]) == 0
    (entry,) = EngineCache(copy).entries()
    assert EngineCache(copy).is_intact(entry)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*BUILD, "rtx:77"], '"75"'),
        (["build", "zone-agin", "--target", "rtx:89"], "not a bundle"),
        (["build", "zone-aging", "--component", "unet", "--target", "rtx:89"], "no component 'unet'"),
        ([*BUILD, "rtx:89", "--profile", "batch=1:2:99"], "exported for 1 to 24"),
        ([*BUILD, "rtx:89", "--profile", "tokens=1:2:3"], '"tokens"'),
        ([*BUILD, "rtx:89", "--workers", "0"], "workers"),
        (["clean", "--older-than", "soon"], "12h"),
        (["clean", "--max-size", "big"], "20G"),
        (["inspect", "none.engine"], "engines list"),
    ],
)
def test_what_can_not_be_done_is_told_in_a_sentence(arguments, told, engine_cache, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not engine_cache.folder.exists()


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """The embedded bundle, its condition encoder said to be carried in fp16, preferred on GPUs, and in int8;
    the graph is the same in all, since only what is chosen is looked at."""
    source = Bundle.open(kind="zone-aging")
    copy = Path(shutil.copytree(source.path, tmp_path / "bundle"))
    component = source.component("condition_encoder")
    variants = {}
    for precision, device in (("fp16", "gpu"), ("int8", "cpu")):
        path = copy / f"components/condition_encoder/{precision}/model.onnx"
        path.parent.mkdir()
        producer_name = b"\x12\x04" + precision.encode()  # other bytes, the same graph
        path.write_bytes(source.component_path("condition_encoder").read_bytes() + producer_name)
        variants[precision] = Variant((path.relative_to(copy).as_posix(),), preferred_on=device)
    components = {**source.manifest.components, component.name: replace(component, variants=variants)}
    write_manifest(copy, replace(source.manifest, components=components, files=()))
    return copy


@pytest.mark.parametrize(("asked", "built"), [("auto", "fp16"), ("fp16", "fp16"), ("fp32", "fp32")])
def test_the_precision_asked_for_is_planned_and_only_of_the_components_named(halves, asked, built) -> None:
    bundle = Bundle.open(halves)
    (task,) = plan(bundle, [parse_target("rtx:89")], ["condition_encoder"], [], precision=asked)
    view = bundle.at({"condition_encoder": built})
    assert task.component.precision == built
    assert task.key.graph == graph_hash(view, "condition_encoder")
    assert task.bundle.component_path("condition_encoder") == view.component_path("condition_encoder")


@pytest.mark.parametrize(
    ("component", "precision", "told"),
    [
        ("condition_encoder", "int8", "is an int8 graph"),
        ("score_net", "fp16", "fp16"),
    ],
)
def test_a_precision_that_can_not_be_built_is_told(
    halves, component, precision, told, engine_cache, capsys
) -> None:
    arguments = ["--component", component, "--precision", precision, "--target", "rtx:89"]
    assert main(["build", str(halves), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not engine_cache.folder.exists()


def test_the_gpu_at_hand_needs_a_driver(engine_cache, capsys) -> None:
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("NOT TESTED: this machine has an NVIDIA GPU")
    assert main([*BUILD, "local:tensorrt-rtx"]) == 2
    assert "no NVIDIA driver" in capsys.readouterr().err


def test_a_refused_graph_fails_the_command_and_leaves_the_cache_clean(engine_cache, capsys) -> None:
    assert main([*BUILD, "rtx:75"]) == 2
    assert "--precision fp16" in capsys.readouterr().err
    assert [path.name for path in engine_cache.folder.iterdir()] == [".lock"]


def test_too_little_memory_is_refused_before_the_build(engine_cache, capsys, monkeypatch) -> None:
    monkeypatch.setattr("engines.build.available", lambda: 10**8)
    assert main([*BUILD, "rtx:89"]) == 2
    assert "--force" in capsys.readouterr().err


def test_a_killed_compilation_says_that_memory_was_the_likely_reason(tmp_path, monkeypatch) -> None:
    """What the system's out-of-memory killer does to the child, done from outside."""
    import psutil

    bundle = Bundle.open(kind="zone-aging")
    component = bundle.component("denoise")
    job = CompileJob(
        "denoise",
        bundle.component_path("denoise"),
        component,
        (component.profile,),
        "tensorrt-rtx",
        ("8.9",),
        0,
        tmp_path / "engine",
    )

    def kill_child() -> None:
        while True:
            children = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
            if children:
                children[0].kill()
                return

    killer = threading.Thread(target=kill_child)
    killer.start()
    with pytest.raises(memory.OutOfMemory, match="memory was not enough"):
        worker.run_job(job, lambda phase, fraction: None, threading.Event())
    killer.join()


@pytest.mark.parametrize(
    ("text", "value"), [(None, None), ("500", 500), ("500M", 5e8), ("1.5g", 1.5e9), ("20GB", 2e10)]
)
def test_sizes(text, value) -> None:
    assert _parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [(None, None), ("12h", 43200), ("1.5d", 129600), ("2w", 1209600)])
def test_ages(text, value) -> None:
    assert _parse_age(text) == value


def test_help_needs_no_tensorrt() -> None:
    block = "import sys; sys.modules['tensorrt_rtx'] = None"
    script = f"{block}; from engines.__main__ import main; main(['build', '-h'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "rtx:86,89" in done.stdout
