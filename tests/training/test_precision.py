"""Which arithmetic a run uses; and the order of the weights in memory does not change what is computed."""

from __future__ import annotations

import copy

import pytest
import torch

from training.autoencoder import SmallVAE, SmallVAEConfig
from training.precision import Precision, channels_last, resolve


@pytest.mark.parametrize("wanted", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("cpu", [True, False])
def test_what_is_asked_for_is_used(wanted: Precision, cpu: bool) -> None:
    assert resolve(wanted, cpu) == wanted


@pytest.mark.parametrize(
    ("cpu", "cuda", "cuda_bf16", "tiles", "expected"),
    [
        (True, False, False, True, "bf16"),
        (True, False, False, False, "no"),
        (True, True, True, False, "no"),  # told to stay on the CPU: what the GPU can do is of no account
        (False, True, True, False, "bf16"),
        (False, True, False, True, "no"),  # on an old GPU the CPU's tiles are of no account
        (False, False, False, True, "bf16"),
    ],
)
def test_auto_takes_bf16_where_the_hardware_multiplies_matrices_in_it(
    monkeypatch: pytest.MonkeyPatch, cpu: bool, cuda: bool, cuda_bf16: bool, tiles: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: cuda_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    assert resolve("auto", cpu) == expected


def test_auto_is_float32_where_torch_can_not_tell_about_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert resolve("auto", cpu=True) == "no"


def test_channels_last_moves_weights_in_place_and_results_stay() -> None:
    torch.manual_seed(0)
    vae = SmallVAE(SmallVAEConfig(4, (8, 8), (1, 1), (8, 8, 8), (1, 1, 1))).eval()
    plain, image = copy.deepcopy(vae), torch.rand(2, 3, 32, 32) * 2 - 1
    parameters = dict(vae.named_parameters())
    channels_last(vae)
    for name, parameter in vae.named_parameters():
        assert parameter is parameters[name]  # an optimiser made before still holds it
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=0, atol=0)
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(image)[0], plain.encode(image)[0], rtol=1e-4, atol=1e-5)
