"""The reference recipe: order, skipping, resuming; the commands of the small model; calibration."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS
from training import __main__ as cli
from training.calibrate_run import calibrate
from training.checkpoint import load_component
from training.config import config_from_dict, load_config
from training.ldla import run
from training.reference import CONFIG, RecipeError, Step, command_line, run_recipe, steps


@pytest.mark.parametrize("path", sorted(CONFIG.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert load_config(path).steps > 0


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert f"training {name}" in capsys.readouterr().out


def recipe(tmp_path: Path) -> list[Step]:
    return [Step(name, [name], tmp_path / name / "DONE", distributed=name == "b") for name in "abc"]


def test_recipe_skips_what_is_done_and_records_its_time(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "DONE").touch()
    lines: list[list[str]] = []
    run_recipe(recipe(tmp_path), tmp_path, 2, lambda line: bool(lines.append(line)))
    assert [line[-1] for line in lines] == ["b", "c"]
    assert "torch.distributed.run" in lines[0] and "torch.distributed.run" not in lines[1]
    assert sorted(json.loads((tmp_path / "recipe.json").read_text())) == ["b", "c"]
    run_recipe(recipe(tmp_path), tmp_path, 2, lambda line: pytest.fail("everything is done"))


def test_failed_step_stops_the_recipe_and_is_run_again(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    codes = {"a": [0], "b": [143, 0], "c": [0]}
    done: list[str] = []

    def execute(line: list[str]) -> int:
        done.append(line[-1])
        return codes[line[-1]].pop(0)

    with pytest.raises(RecipeError, match=r"step b ended with exit code 143.*resumes"):
        run_recipe(recipe(tmp_path), tmp_path, 1, execute)
    run_recipe(recipe(tmp_path), tmp_path, 1, execute)
    assert done == ["a", "b", "b", "c"]


def test_recipes_commands_parse_and_overrides_reach_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Any] = []
    for step in steps(tmp_path / "faces", tmp_path, tmp_path / "bundle", tmp_path / "s.csv", ["run.seed=5"]):
        line = command_line(step, 2)
        assert not any("{" in argument for argument in line)
        if step.package == "training":
            module = cli.COMMANDS[step.arguments[0]][0]
            import argparse
            import importlib

            parser = argparse.ArgumentParser()
            importlib.import_module(module).register(parser.add_subparsers())
            parsed.append(parser.parse_args(line[line.index("training") + 1 :]))
    (given,), (computed,) = (
        [
            step.arguments
            for step in steps(tmp_path, tmp_path, tmp_path, scores, [])
            if step.name == "calibrate-bundle"
        ]
        for scores in (tmp_path / "s.csv", None)
    )
    assert given[-2:] == ["--reader", "score-net"] and "--reader" not in computed
    ldla = next(arguments for arguments in parsed if hasattr(arguments, "config"))
    config = load_config(ldla.config, ldla.set)
    assert config.run.seed == 5 and config.data.folder == str(tmp_path / "zones")


def encoded(zones_folder: Path, vae_folder: Path, out: Path) -> Path:
    assert cli.main(["encode", str(zones_folder), str(vae_folder), str(out), "--variants", "2"]) == 0
    return out


def test_small_model_from_latents_to_calibrated_checkpoint(
    small_config: Callable[..., dict[str, Any]],
    zones_folder: Path,
    vae_folder: Path,
    tmp_path: Path,
    caplog: Any,
) -> None:
    latents = encoded(zones_folder, vae_folder, tmp_path / "latents")
    score_net = tmp_path / "score_net"
    assert cli.main(["scorenet", str(zones_folder), str(latents), str(score_net), "--steps", "2"]) == 0
    document = small_config(
        data={"latents": str(latents)},
        model={"score_net": str(score_net)},
        objective={"latents": "mean", "score_net": "frozen"},
        stages=[{"steps": 1, "batch_size": 2, "learning_rate": 1e-3}],
        inference={"steps": 4, "strength": 0.5, "guidance_scale": 1.0},
    )
    config = config_from_dict(document)
    assert run(config) == 0
    kept, given = (
        load_component(f).state_dict() for f in (Path(config.output) / "checkpoint/score_net", score_net)
    )
    assert all(np.array_equal(kept[name], given[name]) for name in given)
    with caplog.at_level(logging.WARNING):
        curves = calibrate(Path(config.output), crops_per_zone=4)
    assert curves == {"calibration": {}, "score_calibration": {}}  # one face: too few crops to say anything
    assert "stays uncalibrated" in caplog.text


def test_calibration_is_written_for_zones_with_enough_crops(
    small_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vae_folder: Path,
) -> None:
    monkeypatch.setattr("training.calibrate_run.FEWEST_CROPS", 2)
    document = small_config(
        stages=[{"steps": 1, "batch_size": 1, "learning_rate": 1e-3}],
        inference={"steps": 4, "strength": 0.5, "guidance_scale": 1.0},
    )
    config = config_from_dict(document)
    assert run(config) == 0
    curves = calibrate(Path(config.output), crops_per_zone=2, vae=vae_folder)
    index = json.loads((Path(config.output) / "checkpoint" / "model_index.json").read_text())
    assert index["calibration"] == curves["calibration"]
    two_sided = {"crows_feet", "under_eye", "nasolabial", "mouth_corner"}
    assert set(curves["calibration"]) == two_sided <= set(ZONE_KINDS)
    for curve in [*curves["calibration"].values(), *curves["score_calibration"].values()]:
        assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(curve))
    with pytest.raises(UsageError, match="is no run"):
        calibrate(tmp_path / "nothing", 2)
