"""Reading the checkpoints that can be exported.

A checkpoint is a folder of components, each a folder with ``config.json`` and safetensors weights:

    model_index.json          optional for a Stable Diffusion folder; see below
    vae/                      SmallVAE or diffusers' AutoencoderKL
    unet/                     SmallUNet or diffusers' UNet2DConditionModel
    condition_encoder/        ConditionEncoder, or
    text_encoder/ tokenizer/  transformers' CLIPTextModel with its CLIP BPE tokenizer
    score_net/                ScoreNet
    scheduler/                scheduler_config.json, as diffusers writes it

``model_index.json`` of this project has ``"_class": "agesdk-ldla"`` and may set what the folder's modules do
not tell: ``name``, ``version``, ``mode``, ``paste``, ``crop_size``, ``blur_sigma``, ``detail_sigma``,
``rise_sigma``, ``smooth_skin_rise_sigma``, ``chroma``, ``amplitude``, ``smooth_skin_amplitude``, ``zones``,
``defaults``, ``templates``, ``zone_names``, ``calibration``, ``score_calibration``, ``provenance`` (an
object; ``recipe``, ``data`` and ``licences`` are the usual keys). A file without that class, as diffusers
writes it, says nothing to the export. Pickled weights are never read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from agesdk.manifest import PASTE_SETTINGS

from .errors import CheckpointError

OUR_CLASS = "agesdk-ldla"
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_INDEX_KEYS = frozenset(
    {
        "_class",
        *PASTE_SETTINGS,
        "calibration",
        "crop_size",
        "defaults",
        "mode",
        "name",
        "paste",
        "provenance",
        "score_calibration",
        "templates",
        "version",
        "zone_names",
        "zones",
    }
)
_PRETRAINED = {
    "AutoencoderKL": "diffusers",
    "UNet2DConditionModel": "diffusers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "CLIPModel": "transformers",
}
_OWN = frozenset({"SmallVAE", "SmallUNet", "ConditionEncoder", "ScoreNet"})
EXPECTED: dict[str, tuple[str, ...]] = {
    "vae": ("SmallVAE", "AutoencoderKL"),
    "unet": ("SmallUNet", "UNet2DConditionModel"),
    "text_encoder": ("CLIPTextModel",),
    "condition_encoder": ("ConditionEncoder",),
    "score_net": ("ScoreNet",),
}
"""Component folder -> class names that fit."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose configuration was read; weights are loaded component by component.

    Attributes
    ----------
    index:
        ``model_index.json`` if it is this project's, else empty.
    scheduler:
        ``scheduler/scheduler_config.json``.
    has_text:
        Conditioned by CLIP text; otherwise by a learned encoder of zone and score.
    """

    folder: Path
    index: dict[str, Any]
    scheduler: dict[str, Any]
    has_text: bool

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the folder's layout.

        Raises
        ------
        CheckpointError
            Not a checkpoint folder, or a part of it is missing.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a checkpoint", "There is no such folder")
        for part in ("vae", "unet"):
            if not (folder / part).is_dir():
                raise CheckpointError(f"{folder} is not a checkpoint", f"it has no folder {part}/")
        has_text = (folder / "text_encoder").is_dir()
        if not has_text and not (folder / "condition_encoder").is_dir():
            raise CheckpointError(f"{folder} has neither text_encoder/ nor condition_encoder/")
        if has_text:
            tokenizer = folder / "tokenizer"
            if not (tokenizer / "tokenizer.json").is_file():
                for name in ("vocab.json", "merges.txt"):
                    if not (tokenizer / name).is_file():
                        raise CheckpointError(
                            f"{tokenizer / name} is missing", "The text encoder needs its tokenizer"
                        )
        index = _read_object(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
        if index.get("_class") != OUR_CLASS:
            index = {}
        unknown = sorted(set(index) - _INDEX_KEYS)
        if unknown:
            raise CheckpointError(
                f"{folder / 'model_index.json'} has the unknown key {unknown[0]!r}",
                f"Known keys: {', '.join(sorted(_INDEX_KEYS))}",
            )
        return cls(folder, index, _read_object(folder / "scheduler" / "scheduler_config.json"), has_text)

    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that a bundle carries."""
        return [path for name in TOKENIZER_FILES if (path := self.folder / "tokenizer" / name).is_file()]


def check_module(folder: Path, classes: tuple[str, ...]) -> str:
    """Check a component folder without reading its weights: files there, headers whole, class as expected.

    Parameters
    ----------
    classes:
        The class names that fit.

    Returns
    -------
    str
        The class name.

    Raises
    ------
    CheckpointError
        A missing or damaged file, or another class.
    """
    if not folder.is_dir():
        raise CheckpointError(f"The component folder {folder} is missing")
    config = read_config(folder)
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if name not in classes:
        raise CheckpointError(
            f"{folder / 'config.json'} names the class {name!r}", f"expected {' or '.join(classes)}"
        )
    _check_weights(folder)
    return str(name)


def load_module(folder: Path, classes: tuple[str, ...]) -> nn.Module:
    """Build the module that a component folder describes: float32, eval mode, no gradients.

    Raises
    ------
    CheckpointError
        As of `check_module`, or a key that the weights lack or that does not fit.
    """
    name = check_module(folder, classes)
    module = _load_own(folder) if name in _OWN else _load_pretrained(folder, name, _only_variant(folder))
    return module.float().eval().requires_grad_(False)


def load_pretrained(folder: Path, name: str, variant: str | None) -> nn.Module:
    """Load a diffusers or transformers component of a known class from the files of a variant.

    Parameters
    ----------
    variant:
        ``"fp16"`` reads ``*.fp16.safetensors``, None the files without a variant in their names. The weights
        become float32 in either case.

    Raises
    ------
    CheckpointError
        As of `load_module`, or no file of that variant.
    """
    check_module(folder, (name,))
    present = {_variant_of(path) for path in folder.glob("*.safetensors")}
    if variant not in present:
        raise _no_such_variant(folder, variant)
    return _load_pretrained(folder, name, variant).float().eval().requires_grad_(False)


def load_mapped(folder: Path, name: str, variant: str | None, scratch: Path) -> nn.Module:
    """As `load_pretrained` of a diffusers class, but the float32 weights lie in a file.

    The system can then drop them from memory and read them again, so that a UNet of 10 GB is exported beside
    what else is in use. The file has no name: it is gone when the module is.

    Parameters
    ----------
    scratch:
        A folder with room for the weights, not in memory itself.
    """
    import diffusers
    import torch

    check_module(folder, (name,))
    files = [path for path in sorted(folder.glob("*.safetensors")) if _variant_of(path) == variant]
    if not files:
        raise _no_such_variant(folder, variant)
    with torch.device("meta"):
        module: Any = getattr(diffusers, name).from_config(read_config(folder))
    wanted: dict[str, torch.Tensor] = module.state_dict()
    module.load_state_dict(_mapped(wanted, files, scratch, name), assign=True)
    ready: nn.Module = module.eval().requires_grad_(False)
    return ready


def _mapped(wanted: Mapping[str, Any], files: Sequence[Path], scratch: Path, name: str) -> dict[str, Any]:
    """The tensors of the files as float32 views of a nameless file in ``scratch``."""
    import torch
    from safetensors import safe_open

    with tempfile.NamedTemporaryFile(dir=scratch, prefix=".weights-") as file:
        size = sum(tensor.numel() for tensor in wanted.values())
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process at the first write
            os.posix_fallocate(file.fileno(), 0, 4 * size)
        flat = torch.from_file(file.name, shared=True, size=size, dtype=torch.float32)
    found: dict[str, Any] = {}
    offset = 0
    for path in files:
        with safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - not a mapping
                stored = weights.get_tensor(key)
                if key in wanted and stored.shape != wanted[key].shape:
                    raise _misshapen(key, path.parent)
                if key in wanted:
                    found[key] = flat[offset : offset + stored.numel()].view(stored.shape).copy_(stored)
                    offset += stored.numel()
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise _missing(missing, files[0].parent, name)
    return found


def _no_such_variant(folder: Path, variant: str | None) -> CheckpointError:
    wanted = f"*.{variant}.safetensors" if variant else "*.safetensors without a variant"
    return CheckpointError(f"{folder} has no weights of the wanted variant", f"expected {wanted}")


def _missing(keys: Sequence[str], folder: Path, name: str) -> CheckpointError:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return CheckpointError(f"The weights in {folder} lack the key {keys[0]}{more}", f"{name} needs it")


def _misshapen(key: str, folder: Path) -> CheckpointError:
    return CheckpointError(f"The weight {key} in {folder} has not the shape that config.json says")


def read_config(folder: Path) -> dict[str, Any]:
    """A component's ``config.json``."""
    return _read_object(folder / "config.json")


def read_config_file(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; `CheckpointError` if it is none."""
    return _read_object(path)


def load_tokenizer(folder: Path) -> Any:
    """transformers' CLIP tokenizer of a folder, whose configuration names the padding."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError and bare Exception
        raise CheckpointError(f"{folder} can not be loaded as a CLIP tokenizer", _one_line(error)) from error


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
        )
        raise CheckpointError(
            f"{folder} has no .safetensors weights",
            f"{other[0]} is a pickle, which is not read" if other else "",
            "Save the model with safe_serialization=True" if other else "",
        )
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged", str(error)) from None


def _load_own(folder: Path) -> nn.Module:
    from training.checkpoint import CheckpointError as TrainingCheckpointError
    from training.checkpoint import load_component

    try:
        return load_component(folder)
    except TrainingCheckpointError as error:
        raise CheckpointError(_one_line(error)) from error


def _variant_of(path: Path) -> str | None:
    """``fp16`` of ``model.fp16.safetensors`` or ``model.fp16-00001-of-00002.safetensors``, None of
    ``model.safetensors``."""
    parts = path.name.split(".")
    return parts[1].split("-")[0] if len(parts) > 2 else None


def _only_variant(folder: Path) -> str | None:
    """The variant to take where nothing names one: none, unless half precision is all there is."""
    present = {_variant_of(path) for path in folder.glob("*.safetensors")}
    return "fp16" if "fp16" in present and None not in present else None


def _load_pretrained(folder: Path, name: str, variant: str | None) -> nn.Module:
    """Load with diffusers or transformers, but refuse what they only warn of: absent or misshapen keys."""
    import importlib

    import torch

    library = importlib.import_module(_PRETRAINED[name])
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    if variant is not None:
        options["variant"] = variant
    options["dtype" if library.__name__ == "transformers" else "torch_dtype"] = torch.float32
    messages = importlib.import_module(f"{library.__name__}.utils.logging")
    verbosity = messages.get_verbosity()
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        module, info = getattr(library, name).from_pretrained(str(folder), **options)
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError and their own
        raise CheckpointError(f"{folder} can not be loaded as {name}", _one_line(error)) from error
    finally:
        messages.set_verbosity(verbosity)
        messages.enable_progress_bar()
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise _missing(missing, folder, name)
    misshapen = [str(item[0] if isinstance(item, tuple | list) else item) for item in info["mismatched_keys"]]
    if misshapen:
        raise _misshapen(misshapen[0], folder)
    loaded: nn.Module = module
    return loaded


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} can not be read", error.strerror or str(error)) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON", str(error)) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return document


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}…"
