"""The checkpoints, exported once for all tests of lifespan aging."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.clip_vocabulary import clip_vocabulary_file  # noqa: E402
from tests.lifespan_reference import (  # noqa: E402
    SHARED,
    Prepared,
    Variant,
    load_variant,
    make_variants,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the published script's recorded outputs and the generator of tiny checkpoints."""
    folder = SHARED / "cradle2cane"
    if not (folder / "golden_a.npz").is_file():
        pytest.skip(
            f"NOT TESTED against the published script: {folder} is missing; set AGESDK_SHARED to its parent"
        )
    return folder


@pytest.fixture(scope="session")
def clip_vocabulary() -> Path:
    return clip_vocabulary_file()


@pytest.fixture(scope="session")
def variants(reference: Path, clip_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both variants, each in its folder. With AGESDK_LIFESPAN_CACHE they stay in that folder, to spare the
    export when only tests change."""
    cache = os.environ.get("AGESDK_LIFESPAN_CACHE")
    folder = Path(cache) if cache else tmp_path_factory.mktemp("cradle2cane")
    make_variants(reference, clip_vocabulary, folder)
    return folder


@pytest.fixture(scope="session")
def variant_a(reference: Path, variants: Path) -> Variant:
    """Thresholds 5 and 30, no SVR, Rotate-CLIP by angle, fp16 files of the UNet and the text encoders."""
    return load_variant("a", reference, variants)


@pytest.fixture(scope="session")
def variant_b(reference: Path, variants: Path) -> Variant:
    """Thresholds 2 and 19, SVR, Rotate-CLIP by vector, files without a variant."""
    return load_variant("b", reference, variants)


@pytest.fixture(scope="session", params=["a", "b"])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.getfixturevalue(f"variant_{request.param}")
    return found


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    return Prepared()
