"""What can not be measured is refused in a sentence, with exit code 2, before anything is written."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from agesdk.bundle import embedded_bundle
from benchmarks.__main__ import main
from benchmarks.speed import memory


@pytest.mark.parametrize(
    "words, told",
    [
        (["compare", "zone", "--peer", "tensorflow"], "The peer 'tensorflow' is unknown"),
        (["compare", "zone", "--size", "sdxl"], "The size 'sdxl' is unknown"),
        (["compare", "lifespan", "--size", "tiny"], "Give a tree of Cradle2Cane's models with --checkpoint"),
        (["compare", "zone", "--repeat", "1"], "--repeat 1 is too small"),
        (["latency", "no-such-folder"], "no-such-folder"),
        (["latency", "--megapixels", "900"], "--megapixels 900 is out of range"),
        (["latency", "--name", "../elsewhere"], "is no file name"),
        (["latency", "--name", ".."], "is no file name"),
        (["scaling", "--axis", "ages"], "The bundle has no axis 'ages'"),
        (["scaling", "face-analysis"], "is a face-analysis bundle"),
        (["compare", "zone", "--checkpoint", "x"], "--checkpoint is given without --bundle"),
        (["compare", "zone", "--bundle", "x"], "--bundle is given without --checkpoint"),
    ],
)
def test_arguments(
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.json"))


def test_a_peer_that_is_not_installed_names_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert main(["compare", "zone", "--peer", "openvino", "--out", str(tmp_path)]) == 2
    assert 'pip install "agesdk[peers]"' in capsys.readouterr().err


def test_too_little_memory_is_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory", lambda host: (8 * 10**9, 10**9))
    assert main(["compare", "zone", "--size", "sd15", "--out", str(tmp_path / "out")]) == 2
    assert "needs about 11.0 GB of memory: 1.0 GB are free" in capsys.readouterr().err.replace(";", ":")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_fails_a_golden_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from agesdk.bundle import Bundle, write_manifest

    folder = tmp_path / "bundle"
    shutil.copytree(embedded_bundle("zone-aging"), folder)
    path = folder / "golden/score_net.npz"
    with np.load(path) as file:
        golden = dict(file)
    golden["output.score"] = golden["output.score"] + np.float32(0.1)
    np.savez(path, **golden)
    write_manifest(folder, Bundle.open(embedded_bundle("zone-aging")).manifest)
    assert main(["latency", str(folder), "--repeat", "1", "--out", str(tmp_path / "out")]) == 2
    assert "fails its goldens" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("key, value", [("series", []), ("settings", {})])
def test_a_record_that_lacks_something_is_not_rendered(
    key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(Path("docs/benchmarks/latency-zone-embedded.json").read_text("utf-8"))
    (tmp_path / "half.json").write_text(json.dumps({**record, key: value}), "utf-8")
    assert main(["report", str(tmp_path / "half.json")]) == 2
    assert "A record is not complete" in capsys.readouterr().err


def test_a_place_without_a_record_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- record: nothing -->\n<!-- /record -->\n", "utf-8")
    shutil.copy("docs/benchmarks/scaling-calls.json", tmp_path)
    assert main(["report", "--folder", str(tmp_path), "--document", str(document)]) == 2
    assert "has a place for nothing" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.md", "scaling-calls.json"]
