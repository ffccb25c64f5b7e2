"""Component folders and training states."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.autoencoder import SmallVAE
from training.checkpoint import (
    CheckpointError,
    latest_state,
    list_states,
    load_component,
    load_state,
    new_component,
    save_component,
    save_state,
)
from training.unet import ConditionEncoder, ConditionEncoderConfig


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("SmallVAE", {"latent_channels": 4, "encoder_channels": [8, 8], "decoder_channels": [8, 8, 8]}),
        ("SmallUNet", {"latent_channels": 4, "in_channels": 9, "channels": [8, 16], "blocks": 1}),
        ("ConditionEncoder", {"tokens": 2, "width": 8}),
        ("ScoreNet", {"latent_channels": 4, "channels": [8, 8, 8]}),
        ("LatentDiscriminator", {"latent_channels": 4, "channels": [8, 8]}),
    ],
)
def test_own_components_survive_the_round_trip(
    tmp_path: Path, class_name: str, options: dict[str, object]
) -> None:
    module = new_component(class_name, options)
    save_component(module, tmp_path / "part")
    loaded = load_component(tmp_path / "part")
    assert type(loaded).__name__ == class_name and not loaded.training
    assert loaded.config == module.config
    expected = module.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_diffusers_and_transformers_components_survive_the_round_trip(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    for module, name in ((vae, "vae"), (text, "text_encoder")):
        loaded = load_component(save_component(module, tmp_path / name))
        assert type(loaded) is type(module)
        expected = module.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())


def test_saving_again_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    folder = save_component(ConditionEncoder(ConditionEncoderConfig(width=8)), tmp_path / "part")
    (folder / "stray").touch()
    save_component(ConditionEncoder(ConditionEncoderConfig(width=16)), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert list(tmp_path.iterdir()) == [folder]


def broken(folder: Path, kind: str) -> None:
    config = folder / "config.json"
    if kind == "no folder":
        config.unlink()
    elif kind == "no JSON":
        config.write_text("{")
    elif kind == "no object":
        config.write_text("[]")
    elif kind == "no class":
        config.write_text("{}")
    elif kind == "unknown class":
        config.write_text(json.dumps({"_class_name": "Unheard"}))
    elif kind == "unknown option":
        config.write_text(json.dumps({"_class_name": "ConditionEncoder", "wdith": 8}))
    elif kind == "other size":
        config.write_text(json.dumps({"_class_name": "ConditionEncoder", "width": 8}))
    elif kind == "no weights":
        (folder / "model.safetensors").unlink()
    else:
        raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no folder", "config.json does not exist"),
        ("no JSON", "not valid JSON"),
        ("no object", "JSON object"),
        ("no class", "names no class"),
        ("unknown class", "'Unheard', which diffusers does not have"),
        ("unknown option", "wdith"),
        ("other size", "does not fit class ConditionEncoder"),
        ("no weights", "model.safetensors does not exist"),
    ],
)
def test_broken_component_folders_say_what_is_wrong(tmp_path: Path, kind: str, message: str) -> None:
    folder = save_component(ConditionEncoder(), tmp_path / "part")
    broken(folder, kind)
    with pytest.raises(CheckpointError, match=message):
        load_component(folder)


def test_absent_keys_of_a_diffusers_model_are_an_error_not_random_weights(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file, save_file

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    folder = save_component(vae, tmp_path / "vae")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["quant_conv.bias"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"lack 'quant_conv\.bias'"):
        load_component(folder)


def test_unregistered_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Linear is not a registered component"):
        save_component(nn.Linear(1, 1), tmp_path / "part")
    assert list(tmp_path.iterdir()) == []


def test_state_restores_objects_and_every_random_generator(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(3, 2)).sum().backward()
    optimizer.step()
    weight = module.weight.detach().clone()
    save_state(tmp_path, 7, {"module": module, "optimizer": optimizer}, extra={"position": 12})
    drawn = (random.random(), np.random.rand(), torch.rand(2).tolist())  # noqa: NPY002
    optimizer.step()
    optimizer.step()
    folder = latest_state(tmp_path)
    assert folder is not None
    restored = load_state(folder, {"module": module, "optimizer": optimizer})
    assert (restored.step, restored.extra) == (7, {"position": 12})
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == drawn  # noqa: NPY002
    assert torch.equal(module.weight, weight)
    assert optimizer.state_dict()["state"][0]["step"] == 1


def test_only_the_newest_states_are_kept_and_partial_ones_are_not_listed(tmp_path: Path) -> None:
    for step in (5, 9, 10, 100):
        save_state(tmp_path, step, {}, keep_last=2)
    for ending in ("tmp", "old"):
        (tmp_path / f".step-00000200.abc.{ending}").mkdir()
    assert [folder.name for folder in list_states(tmp_path)] == ["step-00000010", "step-00000100"]
    assert latest_state(tmp_path / "nothing") is None
    with pytest.raises(ValueError, match="keep_last"):
        save_state(tmp_path, 1, {}, keep_last=0)


def test_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, {"module": nn.Linear(1, 1)})
    with pytest.raises(CheckpointError, match="'ema', 'module'"):
        load_state(folder, {"module": nn.Linear(1, 1), "ema": nn.Linear(1, 1)})
    with pytest.raises(CheckpointError, match="'module' does not fit"):
        load_state(folder, {"module": nn.Linear(2, 1)})


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, {"module": nn.Linear(1, 1)})
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete training state"):
        load_state(folder, {"module": nn.Linear(1, 1)})


def test_states_are_read_without_executing_pickles(tmp_path: Path) -> None:
    import pickle

    folder = save_state(tmp_path, 1, {"module": nn.Linear(1, 1)})

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

    torch.save({"module": Attack()}, folder / "state.pt")
    with pytest.raises((CheckpointError, pickle.UnpicklingError)):
        load_state(folder, {"module": nn.Linear(1, 1)})
    assert not (tmp_path / "executed").exists()


def test_vae_default_configuration_survives_json(tmp_path: Path) -> None:
    assert load_component(save_component(SmallVAE(), tmp_path / "vae")).config == SmallVAE().config
