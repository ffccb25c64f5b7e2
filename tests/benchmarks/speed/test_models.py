"""What ``compare`` makes when it is given no models, it makes whole and finds again."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.speed import zone_case

pytest.importorskip("diffusers")


def test_a_checkpoint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[Path] = []
    monkeypatch.setattr(zone_case, "export_bundle", lambda kind, source, target: exported.append(source))
    arguments = argparse.Namespace(checkpoint=None, bundle=None, size="tiny", clip_vocab=None)
    checkpoint, bundle = zone_case.models(arguments, tmp_path / "cache")
    assert (checkpoint, bundle) == (tmp_path / "cache" / "checkpoint", tmp_path / "cache" / "bundle")
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    index = checkpoint / "model_index.json"
    made = index.stat().st_mtime_ns
    zone_case.models(arguments, tmp_path / "cache")
    assert index.stat().st_mtime_ns == made and exported == [checkpoint, checkpoint]
