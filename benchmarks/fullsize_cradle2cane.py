"""Cradle2Cane's model tree at its true size with random weights: SDXL-turbo, CLIP ViT-L/14, ArcFace r100.

``python -m benchmarks.fullsize cradle2cane OUTDIR --clip-vocab FILE`` writes what `export.cradle2cane` reads.
Of a safetensors file every tensor is drawn and written before the next is made, so memory stays at the
largest tensor whatever the file weighs (the UNet has 2.57 G parameters, 5.1 GB in half precision). A pickle
is drawn whole: the projection of ArcFace's hidden state, 1.7 GB, is the largest.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agesdk.atomic import new_folder
from agesdk.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

TEXT_1 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}
SCHEDULER = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
TOKEN_WIDTH, CLIP_WIDTH, RANK = 2048, 768, 64

HPARAMS: dict[str, Any] = {
    "t1": 5,
    "t2": 30,
    "one_threshold": False,
    "arcface_network": "r100",
    "resolution": 512,
    "variant": "fp16",
    "aged_strength": 0.5,
    "id_strength": 0.25,
    "infer_step": 4,
    "use_four_image_swr": False,
    "use_swr": True,
    "use_arcface_project": True,
    "use_clip_project": True,
    "face_project_use_hidden_state": True,
    "use_adaptive_noise_inject": True,
    "prompt_mode": "normal",
    "clip_map_model": "angle",
    "rank": RANK,
    "train_text_encoder": False,
    "swr_alpha": 0.01,
    "swr_beta": 1.1,
}


def write_tree(folder: Path, clip_vocab: Path, seed: int = 0) -> None:
    """Write the tree, 10 GB, whole or not at all; the training default with the 25,088-wide hidden state.

    Raises
    ------
    UsageError
        The folder exists, or the vocabulary is not CLIP's.
    """
    from benchmarks.fullsize import read_clip_merges

    if folder.exists():
        raise UsageError(f"{folder} exists", "", "Give a folder that does not exist")
    merges = read_clip_merges(clip_vocab)
    with new_folder(folder) as partial:
        _write_components(partial, merges, seed)


def _write_components(folder: Path, merges: Sequence[str], seed: int) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
    )

    from benchmarks.fullsize import clip_vocabulary, write_tokenizer
    from export.cradle2cane.arcface import HIDDEN, iresnet
    from export.cradle2cane.projection import Projection

    vocabulary = clip_vocabulary(merges)
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 77,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    turbo, own = folder / "sdxl-turbo", folder / "Cradle2Cane"
    writer = _Writer(seed)
    first = CLIPTextConfig(**text, **TEXT_1, hidden_act="quick_gelu", projection_dim=CLIP_WIDTH)
    second = CLIPTextConfig(**text, **TEXT_2, hidden_act="gelu", projection_dim=1280)
    vision = {**VISION, "hidden_act": "quick_gelu", "projection_dim": CLIP_WIDTH}
    clip = CLIPConfig(text_config=first.to_dict(), vision_config=vision, projection_dim=CLIP_WIDTH)
    half = "fp16.safetensors"
    writer.component(lambda: UNet2DConditionModel(**UNET), turbo / "unet", f"diffusion_pytorch_model.{half}")
    writer.component(lambda: CLIPTextModel(first), turbo / "text_encoder", f"model.{half}")
    writer.component(lambda: CLIPTextModelWithProjection(second), turbo / "text_encoder_2", f"model.{half}")
    vae_file = "diffusion_pytorch_model.safetensors"
    writer.component(lambda: AutoencoderKL(**VAE), folder / "sdxl-vae-fp16-fix", vae_file)
    writer.component(lambda: CLIPModel(clip), folder / "clip-vit-large-patch14", "model.safetensors")
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        write_tokenizer(turbo / name, merges, vocabulary)
        config = turbo / name / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "pad_token": pad}))
    _json(turbo / "scheduler" / "scheduler_config.json", SCHEDULER)
    _json(
        folder / "clip-vit-large-patch14" / "preprocessor_config.json",
        {
            "do_normalize": True,
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    writer.pickled(lambda: iresnet("r100"), folder / "backbone.pth")
    writer.pickled(lambda: Projection(HIDDEN, TOKEN_WIDTH), own / "face_project.bin")
    writer.pickled(lambda: Projection(CLIP_WIDTH, TOKEN_WIDTH), own / "clip_project.bin")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    writer.tensors(_lora_shapes(unet), own / "pytorch_lora_weights.safetensors", "float32")
    lines = (f"{key}: {json.dumps(value)}" for key, value in HPARAMS.items())  # JSON scalars are YAML
    (own / "hparams.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


class _Writer:
    """Draws tensors and writes them, one at a time."""

    def __init__(self, seed: int) -> None:
        import torch

        self.generator = torch.Generator().manual_seed(seed)

    def component(self, make: Callable[[], nn.Module], folder: Path, file: str) -> None:
        """A component folder: ``config.json`` and half-precision safetensors."""
        import torch

        with torch.device("meta"):
            module: Any = make()
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(module, "save_config"):
            module.save_config(folder)
        else:
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(folder)
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        self.tensors(shapes, folder / file, "float16")

    def tensors(self, shapes: Mapping[str, tuple[int, ...]], path: Path, dtype: str) -> None:
        """A safetensors file: the header, then tensor after tensor."""
        import torch

        kind, width = {"float16": ("F16", 2), "float32": ("F32", 4)}[dtype]
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for key, shape in shapes.items():
            stop = offset + width * math.prod(shape)
            header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, stop]}
            offset = stop
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for key, shape in shapes.items():
                file.write(self._draw(key, shape).to(getattr(torch, dtype)).numpy().tobytes())
        logger.info("%s: %.2f GB", path, offset / 1e9)

    def pickled(self, make: Callable[[], nn.Module], path: Path) -> None:
        """A plain state dict, float32."""
        import torch

        with torch.device("meta"):
            shapes = {key: tuple(tensor.shape) for key, tensor in make().state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: self._draw(key, shape) for key, shape in shapes.items()}, path)
        logger.info("%s: %.2f GB", path, path.stat().st_size / 1e9)

    def _draw(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Weights of the usual scale: activations stay finite through a hundred layers."""
        import torch

        last = key.rpartition(".")[2]
        if last == "num_batches_tracked":
            return torch.tensor(1)
        if key.endswith(".bn3.weight"):
            return torch.full(shape, 0.3)  # float16 must hold what ArcFace's 49 blocks add up to
        if last == "running_var" or (last == "weight" and len(shape) == 1):
            return torch.ones(shape)
        if last in ("bias", "running_mean"):
            return torch.zeros(shape)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1.0
        return torch.randn(shape, generator=self.generator) / math.sqrt(max(fan_in, 1.0))


def _lora_shapes(unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """Pairs for the query, key, value and output projections of every attention."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, weight in unet.state_dict().items():
        name = key.removesuffix(".weight")
        if key != name and name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
            size_out, size_in = weight.shape
            shapes[f"unet.{name}.lora.down.weight"] = (RANK, size_in)
            shapes[f"unet.{name}.lora.up.weight"] = (size_out, RANK)
    return shapes


def _json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
