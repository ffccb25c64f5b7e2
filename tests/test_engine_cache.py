"""The engine cache: which engine is loaded, which is refused and why, and what is left after a crash."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from agesdk.bundle import Bundle
from agesdk.engine_cache import CacheEntry, EngineCache, EngineRecord
from agesdk.engine_key import EngineKey, EngineRequest, differences, graph_hash
from agesdk.errors import BackendError
from agesdk.manifest import TensorSpec
from tests import tiny_zone_bundle

PROFILE = {"batch": (1, 4, 12)}
SMALL = {"batch": (1, 1, 1)}
AHEAD = EngineKey(
    graph="a" * 64,
    bundle_profile=PROFILE,
    profiles=(PROFILE,),
    runtime="tensorrt-rtx",
    runtime_version="1.6.0",
    platform="linux-x86_64",
    compute_capabilities=("8.6", "8.9"),
    gpu=None,
    driver=None,
    optimization_level=3,
)
ON_DEVICE = dataclasses.replace(
    AHEAD,
    runtime="tensorrt",
    runtime_version="10.3.0",
    compute_capabilities=("8.9",),
    gpu="NVIDIA GeForce RTX 4090",
    driver="12.6",
)


def asking(key: EngineKey, **changes) -> EngineRequest:
    """What the device asks for that `key` was built for, with changes."""
    request = EngineRequest(
        bundle_path=Path("my bundle"),
        bundle="zones",
        component="denoise",
        precision="fp32",
        graph=key.graph,
        bundle_profile=key.bundle_profile,
        runtime=key.runtime,
        runtime_version=key.runtime_version,
        platform=key.platform,
        compute_capability="8.9",
        gpu=key.gpu or "NVIDIA GeForce RTX 4070",
        driver=key.driver or "12.8",
        profiles=key.profiles,
        optimization_level=key.optimization_level,
    )
    return dataclasses.replace(request, **changes)


def store(cache: EngineCache, key: EngineKey, content: bytes = b"engine", **changes) -> CacheEntry:
    spec = TensorSpec("x", "float32", ("batch", 3))
    record = EngineRecord(
        bundle="zones",
        component="denoise",
        precision="fp32",
        key=key,
        inputs=(spec,),
        outputs=(spec,),
        file="",
        size=0,
        sha256="",
        built="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        processor_seconds=1.0,
        peak_bytes=None,
        agesdk="0",
        layers={"CONVOLUTION": 3},
    )
    with cache.writing() as writer:
        made = writer.temporary()
        made.write_bytes(content)
        return writer.commit(made, dataclasses.replace(record, **changes))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.mark.parametrize("key", [AHEAD, ON_DEVICE], ids=["ahead of time", "on the device"])
def test_an_unchanged_key_is_loaded(cache: EngineCache, key: EngineKey) -> None:
    store(cache, key, b"the engine")
    with cache.open(asking(key)) as (entry, content):
        assert content[:] == b"the engine"
        assert entry.record.key == key
        assert entry.record.layers == {"CONVOLUTION": 3}


CHANGES = [
    (AHEAD, {"graph": "b" * 64}, r"graph aaaaaaaaaaaa → bbbbbbbbbbbb"),
    (AHEAD, {"bundle_profile": SMALL}, r"the bundle's profile batch=1:4:12 → batch=1:1:1"),
    (AHEAD, {"profiles": (SMALL,)}, r"built profiles batch=1:4:12 → batch=1:1:1"),
    (AHEAD, {"runtime": "tensorrt"}, r"runtime TensorRT-RTX → TensorRT\b"),
    (AHEAD, {"runtime_version": "1.7.1"}, r"TensorRT-RTX 1\.6\.0 → 1\.7\.1"),
    (AHEAD, {"platform": "win32-amd64"}, r"platform linux-x86_64 → win32-amd64"),
    (AHEAD, {"compute_capability": "12.0"}, r"compute capability 8\.6, 8\.9 → 12\.0"),
    (AHEAD, {"optimization_level": 5}, r"optimization level 3 → 5"),
    (ON_DEVICE, {"graph": "b" * 64}, r"graph aaaaaaaaaaaa → bbbbbbbbbbbb"),
    (ON_DEVICE, {"bundle_profile": SMALL}, r"the bundle's profile"),
    (ON_DEVICE, {"profiles": (PROFILE, SMALL)}, r"built profiles .* → batch=1:4:12 and batch=1:1:1"),
    (ON_DEVICE, {"runtime": "tensorrt-rtx"}, r"runtime TensorRT → TensorRT-RTX"),
    (ON_DEVICE, {"runtime_version": "11.0.0"}, r"TensorRT 10\.3\.0 → 11\.0\.0"),
    (ON_DEVICE, {"platform": "linux-aarch64"}, r"platform linux-x86_64 → linux-aarch64"),
    (ON_DEVICE, {"compute_capability": "8.6"}, r"compute capability 8\.9 → 8\.6"),
    (ON_DEVICE, {"gpu": "NVIDIA L4"}, r"GPU NVIDIA GeForce RTX 4090 → NVIDIA L4"),
    (ON_DEVICE, {"driver": "13.0"}, r"CUDA driver 12\.6 → 13\.0"),
    (ON_DEVICE, {"optimization_level": 0}, r"optimization level 3 → 0"),
]


@pytest.mark.parametrize(("key", "change", "named"), CHANGES)
def test_every_changed_part_is_refused_and_it_alone_is_named(cache, key, change, named) -> None:
    store(cache, key)
    request = asking(key, **change)
    assert len(differences(key, request)) == 1
    with pytest.raises(BackendError, match=named) as refused, cache.open(request):
        pass
    assert refused.value.fix.startswith("Run `python -m engines build 'my bundle' --target ")
    assert "--component denoise --precision fp32" in refused.value.fix


def test_every_part_of_the_key_is_in_the_matrix() -> None:
    """A part added to the key must be compared, and tested to be."""
    asked = {"compute_capability": "compute_capabilities"}
    tested = {asked.get(name, name) for _, change, _ in CHANGES for name in change}
    assert tested == {part.name for part in dataclasses.fields(EngineKey)}


@pytest.mark.parametrize(
    ("key", "change", "target"),
    [
        (AHEAD, {"runtime_version": "1.7.1"}, "--target rtx:89 "),
        (AHEAD, {"compute_capability": "12.0"}, "--target rtx:120 "),
        (AHEAD, {"compute_capability": "9.0"}, "--target local:tensorrt-rtx "),
        (ON_DEVICE, {"gpu": "NVIDIA L4"}, "--target local:tensorrt "),
        (AHEAD, {"profiles": (SMALL,)}, "--profile batch=1:1:1"),
        (AHEAD, {"optimization_level": 5}, "--optimization-level 5"),
    ],
)
def test_the_command_builds_what_is_asked_for(cache, key, change, target) -> None:
    store(cache, key)
    with pytest.raises(BackendError) as refused:
        cache.find(asking(key, **change))
    assert target in refused.value.fix


def test_a_graph_of_another_precision_is_named_as_such(cache) -> None:
    store(cache, AHEAD)
    with pytest.raises(BackendError, match=r"precision fp32 → fp16; graph a{12} → b{12}") as refused:
        cache.find(asking(AHEAD, graph="b" * 64, precision="fp16"))
    assert "--component denoise --precision fp16" in refused.value.fix


def test_another_driver_does_not_matter_to_what_was_compiled_ahead_of_time(cache) -> None:
    store(cache, AHEAD)
    cache.find(asking(AHEAD, gpu="NVIDIA RTX A6000", driver="13.1", compute_capability="8.6"))


def test_the_engine_built_last_is_taken_where_the_request_leaves_it_open(cache) -> None:
    store(cache, AHEAD, built="2026-01-01T00:00:00+00:00")
    small = dataclasses.replace(AHEAD, profiles=(SMALL,), optimization_level=5)
    store(cache, small, built="2026-02-01T00:00:00+00:00")
    store(cache, dataclasses.replace(AHEAD, optimization_level=1), built="2025-02-01T00:00:00+00:00")
    found = cache.find(asking(AHEAD, profiles=None, optimization_level=None))
    assert found.record.key == small


def test_the_nearest_engine_explains_a_refusal(cache) -> None:
    store(cache, ON_DEVICE, built="2026-03-01T00:00:00+00:00")
    store(cache, AHEAD)
    with pytest.raises(BackendError) as refused:
        cache.find(asking(AHEAD, runtime_version="1.7.1"))
    assert refused.value.why == "TensorRT-RTX 1.6.0 → 1.7.1"


def test_an_empty_cache_says_how_to_fill_it(cache) -> None:
    with pytest.raises(BackendError, match=r"none has been built.*engines build 'my bundle' --target rtx:89"):
        cache.find(asking(AHEAD))
    assert not cache.folder.exists()


def test_the_hash_follows_the_graph_and_its_external_data(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_zone_bundle.save(tmp_path / "bundle"))
    before = {name: graph_hash(bundle, name) for name in bundle.manifest.components}
    assert len(set(before.values())) == len(before)
    component = bundle.component("denoise")
    for path in component.files:
        files = tuple(
            dataclasses.replace(entry, sha256="0" * 64) if entry.path == path else entry
            for entry in bundle.manifest.files
        )
        changed = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files))
        assert graph_hash(changed, "denoise") != before["denoise"]


@pytest.mark.parametrize("damage", ["cut", "grown", "altered", "emptied", "gone"])
def test_a_damaged_engine_is_not_loaded(cache, damage) -> None:
    entry = store(cache, AHEAD, b"0123456789")
    changed = {"cut": b"01234", "grown": b"0123456789x", "altered": b"0123456780", "emptied": b""}
    assert cache.is_intact(entry)
    if damage == "gone":
        entry.engine.unlink()
    else:
        entry.engine.write_bytes(changed[damage])
    assert not cache.is_intact(entry)
    with pytest.raises(BackendError, match=r"damaged.*engines build"), cache.open(asking(AHEAD)):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"file": "', '"file": "../'),
        lambda text: text.replace('.engine"', '.txt"'),
        lambda text: text.replace('"size": 6', '"size": "6"'),
        lambda text: "[]",
        lambda text: "\udcff",
    ],
    ids=["cut", "schema", "leads out", "no engine", "type", "array", "encoding"],
)
def test_a_sidecar_that_is_none_is_no_entry(cache, change, caplog) -> None:
    entry = store(cache, AHEAD)
    text = entry.sidecar.read_text()
    assert change(text) != text
    entry.sidecar.write_bytes(change(text).encode("utf-8", "surrogateescape"))
    assert cache.entries() == []
    assert entry.sidecar.name in caplog.text


def test_the_sidecar_is_readable_json(cache) -> None:
    entry = store(cache, AHEAD)
    document = json.loads(entry.sidecar.read_text())
    assert document["key"]["runtime_version"] == "1.6.0"
    assert document["key"]["profiles"] == [{"batch": [1, 4, 12]}]
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}]
    assert document["file"] == entry.engine.name


def test_a_rebuild_replaces_the_engine(cache) -> None:
    first = store(cache, AHEAD, b"old")
    second = store(cache, AHEAD, b"new")
    assert first.sidecar == second.sidecar
    assert not first.engine.exists()
    with cache.open(asking(AHEAD)) as (_, content):
        assert content[:] == b"new"


def test_what_a_killed_build_leaves_is_never_opened_and_removed_by_the_next(cache) -> None:
    store(cache, AHEAD)
    half = cache.folder / ".0123.tmp"
    half.write_bytes(b"half")
    unnamed = cache.folder / "denoise-0-1.engine"
    unnamed.write_bytes(b"renamed, but its sidecar was not written")
    compiled = cache.folder / "denoise-0-1.aa.jit"
    compiled.write_bytes(b"of it")
    assert len(cache.entries()) == 1
    with cache.writing():
        assert not half.exists() and not unnamed.exists() and not compiled.exists()
    assert len(cache.entries()) == 1


def test_engines_in_the_making_survive_the_commit_of_another(cache) -> None:
    with cache.writing() as writer:
        first, second = writer.temporary(), writer.temporary()
        first.write_bytes(b"1")
        second.write_bytes(b"2")
        entry = store_with(writer, first, AHEAD)
        assert second.exists()
        assert entry.engine.read_bytes() == b"1"
    assert not second.exists()


def store_with(writer, made, key):
    spec = TensorSpec("x", "float32", ("batch", 3))
    record = EngineRecord(
        "zones", "denoise", "fp32", key, (spec,), (spec,), "", 0, "", "2026", 1.0, 1.0, None, "0"
    )
    return writer.commit(made, record)


def aged(entry: CacheEntry, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(entry.sidecar, (then, then))


def test_the_least_recently_used_go_first(cache) -> None:
    entries = [
        store(cache, dataclasses.replace(AHEAD, optimization_level=level), bytes(100), component=f"c{level}")
        for level in range(4)
    ]
    for entry, age in zip(entries, (10, 4000, 3000, 2000)):
        aged(entry, age)
    with cache.open(asking(AHEAD, component="c1", optimization_level=1)):
        pass  # loading is using
    with cache.writing() as writer:
        removed = writer.clean(limit=250)
        assert [entry.record.component for entry in removed] == ["c2", "c3"]
        kept = {entry.sidecar for entry in cache.entries()}
        assert writer.clean(limit=0, keep=kept) == []
        assert [entry.record.component for entry in writer.clean(older_than=5)] == ["c0"]
        writer.clean(limit=0)
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_the_compiled_kernels_count_and_go_with_their_engine(cache) -> None:
    entry = store(cache, AHEAD, bytes(100))
    cache.jit_path(entry, "GPU", "12.8").write_bytes(bytes(50))
    assert cache.jit_path(entry, "GPU", "12.8") != cache.jit_path(entry, "GPU", "13.0")
    (found,) = cache.entries()
    assert found.size == 150
    with cache.writing() as writer:
        assert cache.jit_path(entry, "GPU", "12.8").exists()
        writer.remove(found)
    assert not cache.jit_path(entry, "GPU", "12.8").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_the_cache_is_the_users_alone(cache) -> None:
    store(cache, AHEAD)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.folder.chmod(0o777)
    with pytest.raises(BackendError, match=r"not yours alone.*chmod 700"):
        cache.find(asking(AHEAD))
    with pytest.raises(BackendError, match="not yours alone"), cache.writing():
        pass


def test_the_folder_is_the_one_of_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path))
    assert EngineCache().folder == tmp_path / "engines"
