"""A cache of its own for every test, and the bundles that are compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from agesdk.bundle import Bundle
from agesdk.engine_cache import EngineCache


@pytest.fixture
def engine_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """The user's cache, in an empty folder."""
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    return EngineCache()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Bundle]:
    """The embedded bundles by kind and precision; the half ones are made here."""
    pytest.importorskip("tensorrt_rtx")
    from tests.tensorrt_checks import half_bundle

    found = {}
    for kind in ("zone-aging", "face-analysis"):
        embedded = Bundle.open(kind=kind)
        found[kind, "fp32"] = embedded
        found[kind, "fp16"] = half_bundle(embedded, tmp_path_factory.mktemp("half") / kind)
    return found
