"""The published model tree, read and checked before any network is built.

    MODELS_DIR/
      sdxl-turbo/                    unet/ text_encoder/ text_encoder_2/ tokenizer/ tokenizer_2/ scheduler/
      sdxl-vae-fp16-fix/             the autoencoder that is used
      clip-vit-large-patch14/        CLIP, with its preprocessor_config.json
      backbone.pth                   ArcFace, a plain state dict
      Cradle2Cane/                   hparams.yml pytorch_lora_weights.safetensors face_project.bin
      clip_project.bin

Pickles (``.pth``, ``.bin``) are read with ``weights_only=True``: they may hold tensors and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoint import load_mapped, load_pretrained, read_config
from export.errors import CheckpointError

from . import arcface, lora
from .projection import Projection

_FOLDERS = ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_DECIDED = {"prompt_mode": "normal", "train_text_encoder": False}
"""Hyperparameters of which one value only is supported."""

_TYPES: dict[str, tuple[type, ...]] = {
    "t1": (int, float),
    "t2": (int, float),
    "one_threshold": (bool,),
    "use_adaptive_noise_inject": (bool,),
    "arcface_network": (str,),
    "resolution": (int,),
    "aged_strength": (int, float),
    "id_strength": (int, float),
    "infer_step": (int,),
    "use_swr": (bool,),
    "use_four_image_swr": (bool,),
    "use_arcface_project": (bool,),
    "use_clip_project": (bool,),
    "face_project_use_hidden_state": (bool,),
    "clip_map_model": (str,),
    "rank": (int,),
    "swr_alpha": (int, float),
    "swr_beta": (int, float),
}
_OPTIONAL: dict[str, Any] = {
    "one_threshold": False,
    "use_adaptive_noise_inject": True,
    "use_four_image_swr": False,
    "aged_strength": 0.5,
    "resolution": 512,
    "infer_step": 4,
}
"""What the published code takes where the file says nothing."""


@dataclass(frozen=True)
class Hyperparameters:
    """The entries of ``hparams.yml`` that inference depends on, under their published names."""

    t1: float
    t2: float
    one_threshold: bool
    use_adaptive_noise_inject: bool
    arcface_network: str
    resolution: int
    aged_strength: float
    id_strength: float
    infer_step: int
    use_swr: bool
    use_four_image_swr: bool
    use_arcface_project: bool
    use_clip_project: bool
    face_project_use_hidden_state: bool
    clip_map_model: str
    rank: int
    swr_alpha: float
    swr_beta: float
    variant: str | None
    all_strength: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """A model tree whose layout and hyperparameters were checked."""

    folder: Path
    hparams: Hyperparameters

    @classmethod
    def open(cls, folder: Path) -> Source:
        """Check that every file is there, and read the hyperparameters.

        Raises
        ------
        CheckpointError
            The first part that is missing, or a hyperparameter that is missing, of another type or
            unsupported.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a model folder", "There is no such folder")
        hparams = _read_hparams(folder / "Cradle2Cane" / "hparams.yml")
        source = cls(folder, hparams)
        for name in _FOLDERS:
            _need_folder(source.turbo / name)
        for path in (source.vae, source.clip):
            _need_folder(path)
        needed = [source.lora_path]
        if hparams.use_arcface_project:
            needed += [source.arcface_path, source.face_project_path]
        if hparams.use_clip_project:
            needed += [source.clip_project_path, source.clip / "preprocessor_config.json"]
        for path in needed:
            if not path.is_file():
                raise CheckpointError(f"{path} is missing")
        return source

    @property
    def turbo(self) -> Path:
        return self.folder / "sdxl-turbo"

    @property
    def vae(self) -> Path:
        return self.folder / "sdxl-vae-fp16-fix"

    @property
    def clip(self) -> Path:
        return self.folder / "clip-vit-large-patch14"

    @property
    def arcface_path(self) -> Path:
        return self.folder / "backbone.pth"

    @property
    def lora_path(self) -> Path:
        return self.folder / "Cradle2Cane" / "pytorch_lora_weights.safetensors"

    @property
    def face_project_path(self) -> Path:
        return self.folder / "Cradle2Cane" / "face_project.bin"

    @property
    def clip_project_path(self) -> Path:
        return self.folder / "Cradle2Cane" / "clip_project.bin"

    @property
    def token_width(self) -> int:
        """Width of the UNet's condition tokens."""
        return int(_need(read_config(self.turbo / "unet"), "cross_attention_dim", self.turbo / "unet"))

    @property
    def pooled_width(self) -> int:
        """Width of the pooled prompt embedding."""
        folder = self.turbo / "text_encoder_2"
        return int(_need(read_config(folder), "projection_dim", folder))

    @property
    def face_width(self) -> int:
        """Width of the ArcFace feature that is projected."""
        return arcface.HIDDEN if self.hparams.face_project_use_hidden_state else arcface.EMBEDDING

    @property
    def clip_width(self) -> int:
        """Width of CLIP's joint space."""
        return int(_need(read_config(self.clip), "projection_dim", self.clip))

    def load_vae(self) -> nn.Module:
        """The autoencoder of ``sdxl-vae-fp16-fix``, never that of the pipeline's folder."""
        return _finite(load_pretrained(self.vae, "AutoencoderKL", None), self.vae)

    def load_unet(self, scratch: Path) -> nn.Module:
        """SDXL's UNet, of the file variant that the hyperparameters name, without LoRA; its weights lie in a
        nameless file in the folder ``scratch``."""
        folder = self.turbo / "unet"
        unet = load_mapped(folder, "UNet2DConditionModel", self.hparams.variant, scratch)
        return _finite(unet, folder)

    def load_text_encoder(self) -> nn.Module:
        """The first text encoder."""
        folder = self.turbo / "text_encoder"
        return _finite(load_pretrained(folder, "CLIPTextModel", self.hparams.variant), folder)

    def load_text_encoder_2(self) -> nn.Module:
        """The second text encoder, with its projection."""
        folder = self.turbo / "text_encoder_2"
        return _finite(load_pretrained(folder, "CLIPTextModelWithProjection", self.hparams.variant), folder)

    def load_clip(self) -> nn.Module:
        """CLIP, both towers."""
        return _finite(load_pretrained(self.clip, "CLIPModel", None), self.clip)

    def load_arcface(self) -> arcface.IResNet:
        """The face network with its published weights, eval mode."""
        with torch.device("meta"):
            network = arcface.iresnet(self.hparams.arcface_network)
        fill(network, read_state_dict(self.arcface_path), self.arcface_path, self.hparams.arcface_network)
        return network

    def load_face_projection(self) -> Projection:
        return self._load_projection(self.face_project_path, self.face_width)

    def load_clip_projection(self) -> Projection:
        return self._load_projection(self.clip_project_path, self.clip_width)

    def load_lora(self) -> dict[str, lora.LowRank]:
        """The LoRA's pairs by layer of the UNet."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(self.lora_path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.lora_path} is damaged", str(error)) from None
        _check_finite(tensors, self.lora_path)
        return lora.read_lora(tensors, self.lora_path, self.hparams.rank)

    def _load_projection(self, path: Path, size_in: int) -> Projection:
        with torch.device("meta"):
            projection = Projection(size_in, self.token_width)
        fill(projection, read_state_dict(path), path, f"a projection of {size_in} to {self.token_width}")
        return projection


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dict; nothing else is unpickled.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, holds something else than named tensors, or a number that is not
        finite.
    """
    try:
        zipped = zipfile.is_zipfile(path)  # torch maps only the newer format into memory
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain state dict",
            str(error).split("\n")[0],
            "Save only the module's state_dict()",
        ) from None
    except Exception as error:  # torch raises RuntimeError, EOFError, ValueError and zip errors for damage
        raise CheckpointError(f"{path} is damaged", str(error).split("\n")[0]) from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} is not a plain state dict", "it holds more than named tensors", "Save only state_dict()"
        )
    tensors = dict(content)
    _check_finite(tensors, path)
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Give a module made on the meta device its weights, float32, eval mode; nothing is copied twice.

    Raises
    ------
    CheckpointError
        The first key that is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    for key, tensor in wanted.items():
        if key not in tensors:
            raise CheckpointError(f"{path} lacks the key {key}", f"{what} has it")
        if tuple(tensors[key].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{key} in {path} has the shape {list(tensors[key].shape)}",
                f"{what} needs {list(tensor.shape)}",
            )
    unknown = sorted(set(tensors) - set(wanted))
    if unknown:
        raise CheckpointError(f"{path} has the key {unknown[0]}", f"{what} has no such part")
    values = {key: (t.float() if t.is_floating_point() else t) for key, t in tensors.items()}
    module.load_state_dict(values, assign=True)
    module.eval().requires_grad_(False)


def _read_hparams(path: Path) -> Hyperparameters:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} can not be read", " ".join(str(error).split())) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a list of hyperparameters")
    values = {**_OPTIONAL, **document}
    for key, wanted in _DECIDED.items():
        if values.get(key, wanted) != wanted:
            raise CheckpointError(f"{path} sets {key} to {values[key]!r}", f"only {wanted!r} is supported")
    for key, kinds in _TYPES.items():
        value = _need(values, key, path)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(f"{path} sets {key} to {value!r}", f"expected {kinds[-1].__name__}")
    variant, strengths = values.get("variant"), values.get("all_strength") or ()
    if variant not in (None, "fp16"):
        raise CheckpointError(f"{path} sets variant to {variant!r}", "expected null or 'fp16'")
    if not isinstance(strengths, list | tuple) or not all(isinstance(s, int | float) for s in strengths):
        raise CheckpointError(f"{path} sets all_strength to {strengths!r}", "expected a list of numbers")
    picked = {key: values[key] for key in _TYPES}
    hparams = Hyperparameters(**picked, variant=variant, all_strength=tuple(map(float, strengths)))
    _check_choices(hparams, path)
    return hparams


def _check_choices(hparams: Hyperparameters, path: Path) -> None:
    if hparams.arcface_network not in arcface.LAYERS:
        raise CheckpointError(
            f"{path} names the ArcFace network {hparams.arcface_network!r}",
            f"networks that are supported: {', '.join(arcface.LAYERS)}",
        )
    if hparams.clip_map_model not in ("angle", "vector"):
        raise CheckpointError(
            f"{path} sets clip_map_model to {hparams.clip_map_model!r}", "expected 'angle' or 'vector'"
        )
    if not (hparams.use_arcface_project or hparams.use_clip_project):
        raise CheckpointError(
            f"{path} switches use_arcface_project and use_clip_project off",
            "the second pass would have no condition",
        )
    if hparams.resolution < 64 or hparams.resolution % 64:
        raise CheckpointError(f"{path} sets resolution to {hparams.resolution}", "expected a multiple of 64")


def _need(values: Mapping[str, Any], key: str, path: Path) -> Any:
    if values.get(key) is None:
        raise CheckpointError(f"{path} does not set {key}")
    return values[key]


def _need_folder(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"The folder {path} is missing")


def _finite(module: nn.Module, folder: Path) -> nn.Module:
    _check_finite(module.state_dict(), folder)
    return module


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in tensors.items():
        # A sum is not finite if a term is not, and needs no array of truth values; a finite sum can overflow
        # only where the values are absurd too.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise CheckpointError(
                f"{key} in {path} is not finite", "the file is damaged or training diverged"
            )
