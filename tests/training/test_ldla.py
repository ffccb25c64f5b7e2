"""The trainer: resume, checkpoints, a Stable Diffusion folder, several processes."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from training.__main__ import main
from training.checkpoint import latest_state, list_states, load_component
from training.config import ConfigError, config_from_dict
from training.ldla import INTERRUPTED, Trainer, TrainingError, learning_rate, run
from training.models import build_models

ROOT = Path(__file__).parents[2]
ConfigMaker = Callable[..., dict[str, Any]]


def final_state(output: str | Path) -> dict[str, Any]:
    folder = latest_state(Path(output) / "states")
    assert folder is not None
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two nested states are not equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        return [found for key in a for found in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), path
        return [found for n, (x, y) in enumerate(zip(a, b)) for found in differences(x, y, f"{path}[{n}]")]
    return [] if a == b else [path]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process SIGTERM in the given step."""
    original = Trainer._optimizer_step

    def wrapped(trainer: Trainer, batches: Any) -> Any:
        means = original(trainer, batches)
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)
        return means

    monkeypatch.setattr(Trainer, "_optimizer_step", wrapped)


ADVERSARIAL = [
    {"steps": 3, "batch_size": 2, "learning_rate": 1e-3, "final_learning_rate": 5e-4},
    {"steps": 3, "batch_size": 3, "learning_rate": 5e-4, "adversarial": 0.1},
]


@pytest.mark.parametrize(
    ("stop", "changes"),
    [
        (3, {}),
        (4, {"stages": ADVERSARIAL, "report": {"validate_every": 4, "checkpoint_every": 4, "grid_crops": 1}}),
        (1, {"run": {"gradient_accumulation": 2, "mixed_precision": "bf16", "workers": 1}, "stages": [
            {"steps": 2, "batch_size": 1, "learning_rate": 1e-3}]}),
    ],
    ids=["every loss", "adversarial stage and validation", "accumulation, bf16, worker"],
)  # fmt: skip
def test_interrupted_and_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    small_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    changes: dict[str, Any],
) -> None:
    whole = small_config(output=str(tmp_path / "whole"), **changes)
    parts = small_config(output=str(tmp_path / "parts"), **changes)
    assert run(config_from_dict(whole)) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert run(config_from_dict(parts)) == INTERRUPTED
    assert latest_state(tmp_path / "parts" / "states") == tmp_path / "parts" / "states" / f"step-{stop:08d}"
    torch.rand(7)  # what else a process draws before must not matter
    assert run(config_from_dict(parts), resume=True) == 0
    states = [final_state(tmp_path / name) for name in ("whole", "parts")]
    assert differences(*states) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_run_leaves_a_complete_checkpoint_with_averaged_weights(
    small_config: ConfigMaker, tmp_path: Path
) -> None:
    stages = [{"steps": 2, "batch_size": 2, "learning_rate": 1e-3}]
    report = {"validate_every": 1, "grid_crops": 2, "grid_targets": [0.5], "tensorboard": True}
    config = config_from_dict(
        small_config(
            stages=stages,
            report=report,
            inference={"steps": 4, "strength": 0.5, "guidance_scale": 2.0},
            model={"rise_sigma": 3.0, "smooth_skin_amplitude": 0.5},
            provenance={"data": "noise"},
        )
    )
    assert run(config) == 0
    output = Path(config.output)
    folder = output / "checkpoint"
    shadow = final_state(output)["ema"]["shadow"]
    for part, prefix in (
        ("unet", "unet."),
        ("condition_encoder", "condition.encoder."),
        ("score_net", "score_net."),
    ):
        saved = load_component(folder / part).state_dict()
        assert all(torch.equal(saved[name], shadow[prefix + name]) for name in saved)
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["_class"], index["mode"], index["paste"]) == ("agesdk-ldla", "conditioned", "residual")
    assert (index["detail_sigma"], index["rise_sigma"], index["smooth_skin_amplitude"]) == (0.0, 3.0, 0.5)
    assert index["defaults"]["guidance_scale"] == 2.0 and index["provenance"]["steps"] == 2
    assert index["provenance"]["data"] == "noise"
    assert str(tmp_path) not in json.dumps(index["provenance"]), "a published file names a machine's folders"
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    pictures = sorted(path.name for path in (output / "grids").iterdir())
    assert pictures == ["step-00000001.png", "step-00000002.png"]
    import cv2

    assert cv2.imread(str(output / "grids" / pictures[0])).shape == (2 * 128, 3 * 128, 3)
    assert list((output / "tensorboard").glob("events*"))
    continued = small_config(output=str(tmp_path / "more"), stages=stages)
    continued["model"] = {"checkpoint": str(folder), "mode": "conditioned"}
    unet = build_models(config_from_dict(continued)).objective.unet.state_dict()
    assert all(torch.equal(unet[name], shadow[f"unet.{name}"]) for name in unet)


def test_exporter_reads_the_checkpoint(small_config: ConfigMaker) -> None:
    exporter = pytest.importorskip("export.checkpoint")
    config = config_from_dict(small_config(stages=[{"steps": 1, "batch_size": 1, "learning_rate": 1e-3}]))
    assert run(config) == 0
    checkpoint = exporter.Checkpoint.open(Path(config.output) / "checkpoint")
    assert checkpoint.index["mode"] == "conditioned" and not checkpoint.has_text
    for part in ("vae", "unet", "condition_encoder", "score_net"):
        exporter.load_module(
            checkpoint.folder / part, (exporter.read_config(checkpoint.folder / part)["_class_name"],)
        )


def test_learning_rate_warms_up_and_falls_within_stages(small_config: ConfigMaker) -> None:
    stages = [
        {"steps": 4, "batch_size": 1, "learning_rate": 1.0, "final_learning_rate": 0.5},
        {"steps": 2, "batch_size": 1, "learning_rate": 0.2},
    ]
    config = config_from_dict(small_config(stages=stages))
    rates = [learning_rate(step, config) for step in range(6)]
    assert rates == pytest.approx([1.0 / 2, 0.875, 0.75, 0.625, 0.2, 0.2])


def test_existing_run_is_not_overwritten(small_config: ConfigMaker) -> None:
    config = config_from_dict(small_config(stages=[{"steps": 1, "batch_size": 1, "learning_rate": 1e-3}]))
    assert run(config) == 0
    with pytest.raises(TrainingError, match=r"holds a run already.*--resume"):
        run(config)
    assert run(config, resume=True) == 0
    assert len(list_states(Path(config.output) / "states")) == 1


def test_diverged_loss_stops_the_run_before_it_is_saved(small_config: ConfigMaker) -> None:
    stages = [{"steps": 8, "batch_size": 2, "learning_rate": 1e30}]
    config = config_from_dict(small_config(stages=stages, report={"log_every": 1, "checkpoint_every": 8}))
    with pytest.raises(TrainingError, match="lower learning rate"):
        run(config)
    assert latest_state(Path(config.output) / "states") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"unet": {"channels": [8, 16], "in_channels": 4}}},
            "takes 4 channels, but mode 'conditioned'",
        ),
        ({"model": {"unet": {"channels": [8, 16], "condition_width": 99}}}, "condition_width is 99"),
        ({"model": {"unet": {"chanels": [8, 16]}}}, "chanels"),
        ({"model": {"gradient_checkpointing": True}}, "not offered by SmallUNet"),
        ({"model": {"checkpoint": "nowhere"}}, "no folder unet"),
    ],
)
def test_networks_that_do_not_fit_are_named(small_config: ConfigMaker, changes: Any, message: str) -> None:
    from agesdk.errors import AgeSDKError

    with pytest.raises(AgeSDKError, match=message):
        build_models(config_from_dict(small_config(**changes)))


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder with tiny networks, as diffusers writes it."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    block = "DownEncoderBlock2D"
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=(block,) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )
    pipeline = StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def test_stable_diffusion_folder_trains_and_comes_out_as_a_checkpoint(
    small_config: ConfigMaker, sd_folder: Path
) -> None:
    document = small_config(
        condition={"type": "text", "zone_share": None},
        data={"ethnicity": True},
        stages=[{"steps": 2, "batch_size": 2, "learning_rate": 1e-3}],
        report={"validate_every": 2, "grid_crops": 1},
        inference={"steps": 10, "strength": 0.2, "guidance_scale": 1.0},
    )
    document["model"] = {
        "checkpoint": str(sd_folder),
        "score_net_options": {"channels": [8, 8, 8]},
        "gradient_checkpointing": True,
    }
    document["objective"] = {}
    del document["scheduler"]
    config = config_from_dict(document)
    assert run(config) == 0
    folder = Path(config.output) / "checkpoint"
    for part in ("vae", "text_encoder"):
        files = [next(place.glob("*.safetensors")) for place in (sd_folder / part, folder / part)]
        before, after = (load_file(file) for file in files)
        assert all(torch.equal(before[name], after[name]) for name in before), f"{part} must stay frozen"
    shadow = final_state(config.output)["ema"]["shadow"]
    trained, source = (load_component(place / "unet").state_dict() for place in (folder, sd_folder))
    assert all(torch.equal(trained[name], shadow[f"unet.{name}"]) for name in trained)
    assert any(not torch.equal(trained[name], source[name]) for name in trained)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["mode"] == "plain" and index["templates"]["zone"] == "image of {zone}"
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["steps_offset"] == 1


def test_prompts_are_those_of_the_paper(small_config: ConfigMaker, sd_folder: Path) -> None:
    document = small_config(
        condition={"type": "text", "zone_share": None, "zone_names": {"crows_feet": "crow's feet"}}
    )
    document["model"] = {"checkpoint": str(sd_folder), "score_net_options": {"channels": [8, 8, 8]}}
    condition: Any = build_models(config_from_dict(document)).objective.condition
    assert condition.prompt(0, 0.704) == "image of forehead wrinkles with an aging score of 70%"
    ethnic = "image of forehead wrinkles with an aging score of 70% for a person of Hispanic ethnicity"
    assert condition.prompt(0, 0.7, "Hispanic") == ethnic
    assert condition.prompt(0, -1.0, "Hispanic") == "image of forehead"
    assert condition.prompt(3, -1.0) == "image of crow's feet"
    hidden = condition(torch.tensor([0, 0, 3]), torch.tensor([0.7, -1.0, 0.7]), ["", "", ""])
    assert hidden.shape == (3, 77, 8)
    assert not torch.equal(hidden[0], hidden[1]) and not torch.equal(hidden[0], hidden[2])
    document["model"]["mode"] = "conditioned"
    with pytest.raises(ConfigError, match="takes 4 channels, but mode 'conditioned' gives it 9"):
        build_models(config_from_dict(document))


def test_two_processes_have_the_gradient_of_one_with_the_double_batch(
    small_config: ConfigMaker, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("first_gradient.py")

    def document(batch_size: int) -> dict[str, Any]:
        stages = [{"steps": 1, "batch_size": batch_size, "learning_rate": 1e-3}]
        found = small_config(objective={"cycle_batch": None}, stages=stages)
        found["model"]["score_net_options"]["dropout"] = 0.0
        return found

    one, _ = runpy.run_path(str(script))["first_gradient"](document(4))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document(2)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [
        sys.executable,
        *launcher,
        str(script),
        str(tmp_path / "config.yaml"),
        str(tmp_path / "two.pt"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    saved = torch.load(tmp_path / "two.pt", weights_only=True)
    assert saved["processes"] == 2
    two = saved["gradient"]
    assert one.keys() == two.keys() and all(gradient.abs().sum() > 0 for gradient in one.values())
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-6, msg=name)


def test_command_line_trains_overrides_and_reports_errors(
    small_config: ConfigMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    arguments = [
        "ldla",
        "--config",
        str(path),
        "--set",
        "stages.0.steps=1",
        "--set",
        f"output={tmp_path / 'cli'}",
    ]
    assert main(arguments) == 0
    assert latest_state(tmp_path / "cli" / "states") is not None
    assert main(arguments) == 1
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["ldal"])
