"""Ancestry in a learned condition: from the data's column through training and export to the runtime."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agesdk
from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from export.ldla import Options, export_ldla
from training.checkpoint import load_component, save_component
from training.conditions import LearnedCondition
from training.config import ConfigError, config_from_dict
from training.ldla import run
from training.models import build_models
from training.unet import ConditionEncoder, ConditionEncoderConfig

ConfigMaker = Callable[..., dict[str, Any]]
PORTRAIT = Path(agesdk.__file__).parent / "data" / "astronaut.jpg"
ANCESTRIES = ("Kenya", "Peru")


@pytest.fixture
def mixed_folder(zones_folder: Path, tmp_path: Path) -> Path:
    """The prepared crops with two ancestries, some unknown, and one that only the test split shows."""
    folder = tmp_path / "zones"
    folder.mkdir()
    for name in ("crops.npy", "masks.npy"):
        (folder / name).symlink_to(zones_folder / name)
    with open(zones_folder / "index.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for n, row in enumerate(rows):
        row["ancestry"] = "Tonga" if row["split"] == "test" else ("Peru", "Kenya", "")[n % 3]
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def encoder(*ancestries: str) -> ConditionEncoder:
    """An encoder whose embeddings are no longer those it starts with."""
    torch.manual_seed(0)
    made = ConditionEncoder(ConditionEncoderConfig(8, 2, 8, 3, ancestries))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval().requires_grad_(False)


def test_an_encoder_without_ancestries_is_what_it_was() -> None:
    assert set(ConditionEncoder().state_dict()) == {
        *("zone.weight", "dropped", "score.weight", "score.bias"),
        *("mix.0.weight", "mix.0.bias", "mix.2.weight", "mix.2.bias"),
    }
    torch.manual_seed(1)
    plain = ConditionEncoder(ConditionEncoderConfig())
    torch.manual_seed(1)
    knowing = ConditionEncoder(ConditionEncoderConfig(ancestries=ANCESTRIES))
    zone, score = torch.arange(8), torch.linspace(-1, 1, 8)
    torch.testing.assert_close(knowing(zone, score, zone % 2), plain(zone, score), rtol=0, atol=0)


def test_unnamed_and_unknown_are_one_row_and_the_zone_prompt_names_nobody() -> None:
    condition = LearnedCondition(encoder(*ANCESTRIES))
    zone, score = torch.zeros(4, dtype=torch.int64), torch.full((4,), 0.5)
    hidden = condition(zone, score, ["Kenya", "Peru", "", "Atlantis"])
    torch.testing.assert_close(hidden[2:], condition(zone, score)[2:], rtol=0, atol=0)
    torch.testing.assert_close(hidden[2], hidden[3], rtol=0, atol=0)
    assert all((hidden[a] - hidden[b]).abs().max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))
    without_score = condition(zone, -torch.ones(4), ["Kenya", "Peru", "", "Atlantis"])
    assert (without_score == without_score[0]).all()


def test_ancestries_are_trained_exported_and_named_at_run_time(
    small_config: ConfigMaker, mixed_folder: Path, tmp_path: Path
) -> None:
    document = small_config(
        data={"folder": str(mixed_folder), "ethnicity": True},
        condition={"ethnicity_share": 1.0},
        # The condition gets a gradient only when the layers after it have left their zero start.
        stages=[{"steps": 5, "batch_size": 8, "learning_rate": 1e-2}],
    )
    assert run(config_from_dict(document)) == 0
    checkpoint = tmp_path / "run" / "checkpoint"
    trained: Any = load_component(checkpoint / "condition_encoder")
    assert trained.config.ancestries == ANCESTRIES
    assert (trained.ancestry.weight.abs().sum(dim=1) > 0).all()  # unnamed, Kenya and Peru all had a gradient

    torch.manual_seed(0)
    for name in ("unet", "condition_encoder"):  # five steps leave them too near their start to tell apart
        module = load_component(checkpoint / name)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        save_component(module, checkpoint / name)
    export_ldla(Options(checkpoint, tmp_path / "bundle", progress=False))
    bundle = Bundle.open(tmp_path / "bundle", kind="zone-aging")
    assert bundle.settings.condition.ancestries == ANCESTRIES  # type: ignore[union-attr]

    ager = agesdk.ZoneAger.load(bundle, threads=1)
    condition = LearnedCondition(load_component(checkpoint / "condition_encoder").eval())
    zone, score = torch.tensor([0, 3]), torch.tensor([0.25, 0.75])
    for ethnicity in (None, *ANCESTRIES):
        with torch.no_grad():
            wanted = condition(zone, score, [ethnicity or ""] * 2).numpy()
        got = ager.model.conditioning.full(["forehead", "crows_feet"], [0.25, 0.75], ethnicity)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    face = ager.prepare(PORTRAIT)
    pictures = [
        ager.age(face, {"forehead": 0.9}, seed=1, ethnicity=name).image for name in (None, *ANCESTRIES)
    ]
    assert all((pictures[a] != pictures[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(UsageError, match=r'knows "Kenya", "Peru".*Did you mean "Peru"'):
        ager.age(face, {"forehead": 0.9}, seed=1, ethnicity="peru")


def test_ancestries_that_are_named_in_the_configuration_are_those_of_the_encoder(
    small_config: ConfigMaker, mixed_folder: Path, zones_folder: Path, tmp_path: Path
) -> None:
    def made(**changes: Any) -> Any:
        models = build_models(config_from_dict(small_config(**changes)))
        return models.objective.condition.encoder.config.ancestries  # type: ignore[union-attr]

    named = {"folder": str(mixed_folder), "ethnicity": True}
    assert made(data=named, condition={"ancestries": ["Peru"]}) == ("Peru",)
    assert made(data=named) == ANCESTRIES
    assert made(data={"folder": str(mixed_folder)}) == ()
    for changes, text in (
        ({"condition": {"ancestries": ["Peru"]}}, "no use without data.ethnicity"),
        ({"data": named, "condition": {"ancestries": ["Peru", "Peru"]}}, "distinct"),
        ({"data": named, "condition": {"type": "text", "ancestries": ["Peru"]}}, "learned condition"),
    ):
        with pytest.raises(ConfigError, match=text):
            made(**changes)


def test_a_checkpoint_whose_encoder_knows_other_ancestries_is_refused(
    small_config: ConfigMaker, mixed_folder: Path, tmp_path: Path
) -> None:
    document = small_config(stages=[{"steps": 1, "batch_size": 1, "learning_rate": 1e-3}])
    assert run(config_from_dict(document)) == 0
    again = small_config(
        data={"folder": str(mixed_folder), "ethnicity": True},
        model={"checkpoint": str(tmp_path / "run" / "checkpoint")},
    )
    with pytest.raises(ConfigError, match="knows no ancestries"):
        build_models(config_from_dict(again))
