"""Records, their statistics and their rendering."""

from __future__ import annotations

from pathlib import Path

import pytest

from agesdk.errors import UsageError
from benchmarks.__main__ import main
from benchmarks.speed import record as records
from benchmarks.speed.record import Record, Recorder
from benchmarks.speed.statistics import percentiles, ratio, slope


def made() -> Record:
    recorder = Recorder("scaling", ("scaling", "--axis", "zones"))
    recorder.settings.update(threads=1, precision="fp32")
    for at, taken in ((1, 0.5), (2, 1.0)):
        recorder.add("run", "s", taken, taken, axis="zones", at=at)
        recorder.add("peak memory", "B", 3e8 * at, axis="zones", at=at)
    return recorder.finish()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = made()
    records.write(record, tmp_path / "a.json")
    assert records.read(tmp_path / "a.json") == record


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "command": "latency"}']
)
def test_what_is_no_record_of_this_schema_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        records.read(path)


def test_samples_of_the_same_labels_gather_in_one_series() -> None:
    recorder = Recorder("latency", ())
    recorder.add("lap", "s", 1.0, who="a")
    recorder.add("lap", "s", 2.0, who="b")
    recorder.add("lap", "s", 3.0, who="a")
    record = recorder.finish()
    found = record.of("lap", who="a")
    assert found is not None and found.samples == (1.0, 3.0)
    assert [series.labels["who"] for series in record.all("lap")] == ["a", "b"]


def test_percentiles_ratio_and_slope_are_those_of_the_definition() -> None:
    found = percentiles(range(101))
    assert (found.p50, found.p90, found.p99) == (50.0, 90.0, 99.0)
    # The machine halves its speed on the way: the pairs still say three times.
    spread = ratio([3.0, 3.0, 6.0, 6.0], [1.0, 1.0, 2.0, 2.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 3.0, 3.0)
    assert slope([5.0, 7.0, 9.0]) == pytest.approx(2.0)


def test_report_fills_the_places_of_a_document_and_leaves_the_rest(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "records"
    folder.mkdir()
    records.write(made(), folder / "growth.json")
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- record: growth -->\nold\n<!-- /record -->\nafter\n")
    command = ["report", "--folder", str(folder), "--document", str(document)]
    assert main(command) == 0
    once = document.read_text("utf-8")
    assert once.startswith("before\n<!-- record: growth -->\n") and once.endswith("<!-- /record -->\nafter\n")
    assert "| 2 | 1 s | 500 ms | 600 MB |" in once and "old" not in once
    assert (folder / "growth.png").read_bytes()[:4] == b"\x89PNG"
    assert main(command) == 0
    assert document.read_text("utf-8") == once


def test_report_without_the_record_of_a_place_leaves_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    text = "<!-- record: lost -->\n<!-- /record -->\n"
    document.write_text(text)
    assert main(["report", "--folder", str(tmp_path), "--document", str(document)]) == 2
    assert "lost.json does not exist" in capsys.readouterr().err
    assert document.read_text("utf-8") == text
