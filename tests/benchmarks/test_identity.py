"""The identity network: weight file, arithmetic of a block, shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agesdk.errors import UsageError
from benchmarks.quality.identity import BLOCKS, IdentityNetwork, distances, read_weights


def write(folder: Path, entries: list[dict[str, object]], data: bytes) -> tuple[Path, Path]:
    manifest, weights = folder / "manifest.json", folder / "model.bin"
    manifest.write_text(json.dumps([{"weights": entries, "paths": ["model.bin"]}]))
    weights.write_bytes(data)
    return manifest, weights


def test_quantised_and_plain_tensors_are_read_in_order(tmp_path: Path) -> None:
    entries = [
        {
            "name": "a",
            "shape": [2, 2],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0},
        },
        {"name": "b", "shape": [2], "dtype": "float32"},
    ]
    data = bytes([0, 1, 2, 255]) + np.array([3.5, -4.0], "<f4").tobytes()
    weights = read_weights(*write(tmp_path, entries, data))
    assert np.array_equal(weights["a"], np.array([[-1.0, -0.5], [0.0, 126.5]], np.float32))
    assert np.array_equal(weights["b"], np.array([3.5, -4.0], np.float32))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_weight_file_of_the_wrong_length_is_refused(tmp_path: Path, change: int) -> None:
    entries: list[dict[str, object]] = [{"name": "a", "shape": [2], "dtype": "float32"}]
    with pytest.raises(UsageError):
        read_weights(*write(tmp_path, entries, bytes(8 + change)))


def random_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def layer(name: str, kernel: int, before: int, after: int) -> None:
        spread = float(1 / np.sqrt(kernel * kernel * before))
        weights[f"{name}/conv/filters"] = (
            random.normal(size=(kernel, kernel, before, after)).astype(np.float32) * spread
        )
        weights[f"{name}/conv/bias"] = random.normal(size=after).astype(np.float32) * 0.1
        weights[f"{name}/scale/weights"] = random.uniform(0.5, 1.5, after).astype(np.float32)
        weights[f"{name}/scale/biases"] = random.normal(size=after).astype(np.float32) * 0.1

    layer("conv32_down", 7, 3, 32)
    before = 32
    for block in BLOCKS:
        after = int("".join(c for c in block.split("_")[0] if c.isdigit()))
        layer(f"{block}/conv1", 3, before, after)
        layer(f"{block}/conv2", 3, after, after)
        before = after
    weights["fc"] = random.normal(size=(256, 128)).astype(np.float32)
    return weights


def test_shapes_through_the_network() -> None:
    network = IdentityNetwork(random_weights())
    chips = list(np.random.default_rng(1).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8))
    assert network.embed(chips).shape == (3, 128)
    assert network.features(chips, "conv64_3", batch=2).shape == (3, 64)
    assert network.features([chip[:128, :128] for chip in chips], "conv128_2").shape == (3, 128)
    with pytest.raises(ValueError, match="no block"):
        network.features(chips, "conv512")


def test_the_affine_layer_folded_into_a_convolution_changes_nothing() -> None:
    weights = random_weights()
    network = IdentityNetwork(weights)
    x = torch.randn(1, 32, 9, 9, generator=torch.Generator().manual_seed(0))

    def unfolded(x: torch.Tensor, name: str) -> torch.Tensor:
        kernel = torch.from_numpy(weights[f"{name}/conv/filters"].transpose(3, 2, 0, 1).copy())
        y = F.conv2d(x, kernel, torch.from_numpy(weights[f"{name}/conv/bias"]), padding=1)
        scale, shift = (torch.from_numpy(weights[f"{name}/scale/{part}"]) for part in ("weights", "biases"))
        return y * scale[:, None, None] + shift[:, None, None]

    expected = F.relu(x + unfolded(F.relu(unfolded(x, "conv32_1/conv1")), "conv32_1/conv2"))
    assert torch.allclose(network._residual(x, "conv32_1"), expected, atol=1e-5)


def test_distances_are_euclidean() -> None:
    assert distances(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[3.0, 4.0], [1.0, 1.0]])).tolist() == [
        5.0,
        0.0,
    ]
