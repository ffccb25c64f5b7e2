"""Optimised graphs of large components: when they are kept, their key, and what happens when they break."""

from __future__ import annotations

import errno
import os
import shutil
import time

import numpy as np
import pytest

from agesdk.backends import load_engine, ort_cache
from agesdk.bundle import Bundle
from agesdk.cache_dir import cache_folder, cache_root
from agesdk.errors import OutputError

COMPONENT = "score_net"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(monkeypatch):
    monkeypatch.setattr(ort_cache, "SMALLEST", 1)  # every component is large
    return Bundle.open(None, "zone-aging")


def run(bundle):
    golden = bundle.golden(COMPONENT)
    engine = load_engine(bundle, COMPONENT, threads=1)
    given = {spec.name: golden[f"input.{spec.name}"] for spec in engine.inputs}
    return engine.run(given)["score"], golden["output.score"]


def kept(cache):
    return sorted((cache / "onnxruntime/cpu").glob("[!.]*/model.onnx"))


def test_a_small_component_is_not_kept(cache):
    run(Bundle.open(None, "zone-aging"))
    assert not cache.exists()


def test_a_kept_graph_gives_the_same_result_and_is_made_once(bundle, cache):
    first, golden = run(bundle)
    (graph,) = kept(cache)
    made = graph.stat().st_mtime_ns
    second, _ = run(bundle)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, golden, atol=1e-4)
    assert [path.stat().st_mtime_ns for path in kept(cache)] == [made]
    assert [path.name for path in graph.parent.parent.iterdir()] == [graph.parent.name]


def test_another_version_or_processor_has_another_key(bundle, cache, monkeypatch):
    run(bundle)
    monkeypatch.setattr(ort_cache, "cpu_features", lambda: ("AVX2",))
    run(bundle)
    assert len(kept(cache)) == 2
    ort_cache.cached_graph(bundle, COMPONENT, "9.9.9", lambda path: path.write_bytes(b""))
    assert len(kept(cache)) == 3


def test_a_broken_kept_graph_is_thrown_away_and_made_again(bundle, cache):
    first, _ = run(bundle)
    (graph,) = kept(cache)
    graph.write_bytes(b"half a graph")
    again, _ = run(bundle)
    np.testing.assert_array_equal(first, again)
    assert kept(cache) == []
    run(bundle)
    assert len(kept(cache)) == 1


def test_a_full_disk_leaves_nothing_and_the_component_opens(bundle, cache, monkeypatch):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    assert ort_cache.cached_graph(bundle, COMPONENT, "1", full) is None
    assert list((cache / "onnxruntime/cpu").iterdir()) == []
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    run(bundle)
    assert kept(cache) == []


def keep(cache, name, size, age):
    """Something kept, unused for `age` seconds."""
    folder = cache / "onnxruntime" / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(size))
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_the_least_recently_used_are_removed_until_the_limit(cache):
    old, older, recent = (keep(cache, f"cpu/{n}", 100, n) for n in (2000, 4000, 10))
    plan = cache / "onnxruntime/tensorrt/plan.engine"
    plan.parent.mkdir()
    plan.write_bytes(bytes(50))
    os.utime(plan, (time.time() - 3000,) * 2)
    assert [item.path for item in ort_cache.kept()] == [recent, old, plan, older]
    assert [item.path for item in ort_cache.clean(limit=210)] == [older, plan]
    assert [item.path for item in ort_cache.clean(older_than=1000)] == [old]
    assert [item.size for item in ort_cache.clean(limit=0)] == [100]
    assert ort_cache.kept() == []


def test_what_is_being_written_stays_and_what_was_abandoned_goes(cache):
    writing, abandoned = keep(cache, "cpu/.a.tmp", 100, 10), keep(cache, "cpu/.b.tmp", 100, 200_000)
    assert ort_cache.clean(limit=0) == []
    assert writing.exists() and not abandoned.exists()


def test_a_graph_that_is_made_makes_room_and_stays(bundle, cache, monkeypatch):
    monkeypatch.setattr(ort_cache, "DEFAULT_LIMIT", 10)
    other = keep(cache, "cpu/other", 100, 10)
    run(bundle)
    assert len(kept(cache)) == 1 and not other.exists()


def test_of_two_writers_the_first_wins(bundle):
    def slower(path):
        ort_cache.cached_graph(bundle, COMPONENT, "1", lambda faster: faster.write_bytes(b"first"))
        path.write_bytes(b"second")

    graph = ort_cache.cached_graph(bundle, COMPONENT, "1", slower)
    assert graph is not None and graph.read_bytes() == b"first"
    assert len(list(graph.parent.parent.iterdir())) == 1


def test_a_cache_that_others_can_write_to_is_not_used(cache):
    cache.mkdir(mode=0o700)
    cache.chmod(0o777)
    with pytest.raises(OutputError, match="chmod 700"):
        cache_folder("onnxruntime")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("AGESDK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "agesdk"
