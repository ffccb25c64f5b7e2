"""Configurations: what is accepted, and what errors say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from training.config import ConfigError, config_from_dict, config_to_dict, load_config

BASE: dict[str, Any] = {
    "output": "run",
    "data": {"folder": "zones"},
    "model": {"vae": "vae"},
    "condition": {"type": "learned"},
    "stages": [
        {"steps": 10, "batch_size": 2, "learning_rate": 1e-4},
        {"steps": 5, "batch_size": 4, "learning_rate": 1e-5},
    ],
}


def changed(key: str, value: Any) -> dict[str, Any]:
    document: Any = copy.deepcopy(BASE)
    node = document
    *parts, last = key.split(".")
    for part in parts:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    found: dict[str, Any] = document
    return found


def test_written_out_configuration_reads_back_equal() -> None:
    config = config_from_dict(BASE)
    assert config_from_dict(config_to_dict(config)) == config


def test_stages_say_where_a_step_belongs() -> None:
    config = config_from_dict(BASE)
    assert config.steps == 15
    assert [config.stage_at(step) for step in (0, 9, 10, 14)] == [(0, 0), (0, 9), (1, 0), (1, 4)]
    with pytest.raises(IndexError):
        config.stage_at(15)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("outptu", "x", "outptu is not a known key. Did you mean 'output'"),
        ("data.fodler", "x", "data.fodler is not a known key. Did you mean 'folder'"),
        (
            "stages.0.learningrate",
            1.0,
            r"stages\[0\].learningrate is not a known key. Did you mean 'learning_rate'",
        ),
        ("stages.1.weights.ful", 1.0, r"stages\[1\].weights.ful is not a known key. Did you mean 'full'"),
        ("stages.0.steps", 0, r"stages\[0\].steps must be at least 1"),
        ("stages.0.steps", "many", r'stages\[0\].steps is "many" \(a string\), expected an integer'),
        ("stages.0.steps", True, "expected an integer"),
        ("stages", [], "stages must hold at least one stage"),
        ("stages.0.weights.cycle", -1.0, r"stages\[0\].weights.cycle must not be negative"),
        ("stages.0.weights", {"full": 0.0, "zone": 0.0}, "leave neither L_full nor L_zone"),
        ("stages.0.adversarial", 0.1, r"stages\[0\].adversarial must be 0 in plain mode"),
        ("condition.type", "words", 'condition.type is "words", expected one of text, learned'),
        ("condition.zone_share", 1.0, r"condition.zone_share must lie in \(0, 1\)"),
        ("condition.zone_template", "image", "condition.zone_template lacks {zone}"),
        ("condition.type", "text", "model.checkpoint is missing: a text condition needs one"),
        ("model.vae", None, "model.vae is missing"),
        ("run.mixed_precision", "fp8", "run.mixed_precision"),
        ("run.ema_decay", 1.0, "run.ema_decay"),
        ("objective.target_timesteps", [500, 500], "objective.target_timesteps must be"),
        ("objective.target_share", 0.0, "objective.target_share"),
        ("objective.blur_sigmas", [], "objective.blur_sigmas"),
        ("optimizer.betas", [0.9], "optimizer.betas has 1 entries, expected 2"),
        ("report.grid_targets", [1.5], r"report.grid_targets\[0\] must lie in"),
        ("inference.strength", 0.0, "inference.strength|inference.steps"),
        ("scheduler.beta_start", 2.0, "scheduler.beta_start"),
        ("data.zone_weights", {"forehead": -1.0}, "data.zone_weights.forehead must not be negative"),
        ("output", float("nan"), "no text, number, list or mapping"),
    ],
)
def test_errors_name_the_key_and_the_nearest_known_one(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(changed(key, value))


YAML = """
output: run
data: {folder: zones}
model: {vae: vae}
condition: {type: learned}
stages:
  - {steps: 10, batch_size: 2, learning_rate: 1e-4}
"""


def test_yaml_file_with_exponents_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    config = load_config(path, ["stages.0.learning_rate=3e-5", "run.seed=7", "data.zone_weights.forehead=2"])
    assert config.stages[0].learning_rate == 3e-5
    assert config.run.seed == 7
    assert config.data.zone_weights == {"forehead": 2.0}
    assert load_config(path).stages[0].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("- a list", [], "top level must be a mapping"),
        ("a: [", [], "is not valid YAML"),
        (YAML + "output: twice\n", [], "written twice"),
        (YAML, ["run.seed"], "is not KEY=VALUE"),
        (YAML, ["stages.3.steps=1"], "'3' is no entry of a list of 1"),
        (YAML, ["output.name=1"], "has no keys at 'name'"),
        (YAML, ["run.sede=1"], "run.sede is not a known key. Did you mean 'seed'"),
        (YAML, ["run.seed=["], "not YAML"),
    ],
)
def test_bad_files_and_overrides(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml can not be read"):
        load_config(tmp_path / "nowhere.yaml")
