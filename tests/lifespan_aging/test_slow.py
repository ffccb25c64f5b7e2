"""Exports that take minutes or gigabytes; run with AGESDK_SLOW_TESTS=1."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from agesdk.bundle import Bundle
from agesdk.lifespan_aging import LifespanAger
from tests.lifespan_reference import Variant

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    not os.environ.get("AGESDK_SLOW_TESTS"), reason="slow: set AGESDK_SLOW_TESTS=1 to run"
)


def test_hidden_state_of_25088_values(variant_a: Variant, tmp_path: Path) -> None:
    """The training default: 424 M parameters, drawn here, exported, and compared with torch by the export."""
    import yaml

    from export.cradle2cane import Options, export_cradle2cane
    from export.cradle2cane.arcface import HIDDEN
    from export.cradle2cane.projection import Projection, widths

    assert widths(HIDDEN, 2048) == [12544, 6272, 3136, 2048]
    models = Path(shutil.copytree(variant_a.models, tmp_path / "models", copy_function=os.link))
    own = models / "Cradle2Cane"
    values = yaml.safe_load((own / "hparams.yml").read_text())
    for name in ("hparams.yml", "face_project.bin"):
        (own / name).unlink()
    values["face_project_use_hidden_state"] = values["use_swr"] = True
    (own / "hparams.yml").write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    torch.save(Projection(HIDDEN, 80).state_dict(), own / "face_project.bin")
    options = Options(models, tmp_path / "bundle", ages=(25, 30), progress=False)
    manifest = export_cradle2cane(options)
    assert manifest.provenance["parity"]["face_projection"]["token"]["relative"] < 1e-4
    ager = LifespanAger.load(Bundle.open(options.bundle), threads=1)
    person = ager.prepare(variant_a.golden["images/astronaut"])
    wanted = variant_a.case("as_25_28_f")["arcface_hidden_state"]
    np.testing.assert_allclose(person.face_features["hidden_state"], wanted, atol=1e-4, rtol=0)
    result = ager.age(person, 25, 28, "female", seed=1)
    assert result.face_token_input is not None and result.face_token_input.shape == (HIDDEN,)
