"""Measurements made for real, on the embedded bundle, as small as they get; and the page of recorded ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.speed.record import read
from benchmarks.speed.startup import add_startup


def test_latency_tells_stages_and_networks_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.speed.latency.add_startup",
        lambda recorder, bundle, threads: add_startup(recorder, bundle, threads, repeat=1),
    )
    words = ["--repeat", "2", "--zones", "2", "--steps", "3", "--megapixels", "0.3"]
    assert main(["latency", *words, "--out", str(tmp_path), "--name", "x"]) == 0
    record = read(tmp_path / "x.json")
    assert (tmp_path / "x.png").stat().st_size > 1000
    warm = list(record.all("network", component="denoise", run="warm"))
    (total,) = record.all("stage", part="age", stage="total", run="warm")
    assert len(total.samples) == 2 and sum(len(series.samples) for series in warm) % 2 == 0
    assert 0.0 < sum(sum(series.samples) for series in warm) < sum(total.samples)
    assert {int(series.labels["rows"]) for series in warm} <= {2, 4}
    printed = capsys.readouterr().out
    for words_there in ("denoise", "face_landmarks", "processor time that is no network", "peak memory"):
        assert words_there in printed


def test_scaling_over_the_batch(tmp_path: Path) -> None:
    words = ["--axis", "batch", "--repeat", "1", "--out", str(tmp_path), "--name", "x"]
    assert main(["scaling", *words]) == 0
    points = list(read(tmp_path / "x.json").all("run", axis="batch"))
    assert [series.labels["at"] for series in points] == [1, 2, 4, 8, 12]
    assert points[-1].samples[0] > points[0].samples[0]


def test_the_page_shows_what_its_records_hold(tmp_path: Path) -> None:
    folder, page = tmp_path / "benchmarks", tmp_path / "benchmarks.md"
    shutil.copytree("docs/benchmarks", folder)
    shutil.copy("docs/benchmarks.md", page)
    assert main(["report", "--folder", str(folder), "--document", str(page)]) == 0
    assert page.read_text("utf-8") == Path("docs/benchmarks.md").read_text("utf-8")
