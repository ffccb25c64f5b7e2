"""Checkpoint folders: components (weights of one module) and training states (everything a resume needs).

A component folder holds ``config.json`` and safetensors weights. Folders of diffusers and transformers models
are read and written with those libraries; folders of this project's small models name their class in
``_class_name``:

    {"_class_name": "SmallUNet", "channels": [96, 192], ...}      config.json: keyword arguments of the class
    model.safetensors                                             its state dict

A training state folder ``step-00001000`` holds ``state.pt`` (tensors; read with ``weights_only=True``, so
nothing in it is executed) and ``state.json`` (step, random states of every process, caller's extras). Folders
appear under their final name only when complete: an interrupted write leaves the previous state untouched.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from agesdk.atomic import new_folder
from agesdk.errors import AgeSDKError

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"

REGISTRY: dict[str, str] = {
    "SmallVAE": "training.autoencoder",
    "SmallUNet": "training.unet",
    "ConditionEncoder": "training.unet",
    "ScoreNet": "training.scorenet",
    "LatentDiscriminator": "training.discriminator",
}
"""Class name → module of this project's own components. `register_component` adds to it."""


class CheckpointError(AgeSDKError):
    """A checkpoint folder is missing, incomplete or of another model."""


class HasState(Protocol):
    """Modules, optimisers, EMA, schedulers: anything with a state dict."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def register_component(class_name: str, module_name: str) -> None:
    """Let `load_component` find ``class_name`` in the importable module ``module_name``."""
    REGISTRY[class_name] = module_name


def save_component(module: nn.Module, folder: str | Path) -> Path:
    """Write a component folder atomically; returns it.

    ``module`` is a diffusers or transformers model, or a registered small model whose ``config`` attribute is
    a dataclass instance or a mapping. `load_component` builds it again with its class method
    ``from_config(dict)`` or, without one, with the entries as keyword arguments.
    """
    folder = Path(folder)
    with new_folder(folder) as target:
        save_pretrained = getattr(module, "save_pretrained", None)
        if callable(save_pretrained):
            save_pretrained(target, safe_serialization=True)
            return folder
        name = type(module).__name__
        if name not in REGISTRY:
            raise CheckpointError(
                f"{name} is not a registered component",
                fix=f"Call training.checkpoint.register_component('{name}', MODULE)",
            )
        from safetensors.torch import save_model

        (target / CONFIG_NAME).write_text(
            json.dumps({"_class_name": name, **_config_of(module)}, indent=2) + "\n", encoding="utf-8"
        )
        save_model(module, str(target / WEIGHTS_NAME))
    return folder


def load_component(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Build the module a component folder describes, with its weights, in eval mode.

    The class comes from ``_class_name`` (this project's registry, then diffusers) or ``architectures``
    (transformers). Raises `CheckpointError` naming the file when the folder is incomplete or the class is
    unknown.
    """
    folder = Path(folder)
    config = read_config(folder)
    class_name = config.get("_class_name")
    if class_name in REGISTRY:
        module = _load_own(folder, class_name, config)
    elif class_name is not None:
        module = _load_pretrained("diffusers", class_name, folder)
    elif config.get("architectures"):
        module = _load_pretrained("transformers", config["architectures"][0], folder)
    else:
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names no class: it needs '_class_name' (diffusers, this project) or "
            "'architectures' (transformers)"
        )
    return module.to(device=device, dtype=dtype).eval()


def new_component(class_name: str, options: Mapping[str, Any]) -> nn.Module:
    """A registered component with fresh weights; `CheckpointError` names options its class does not take."""
    cls = getattr(importlib.import_module(REGISTRY[class_name]), class_name)
    from_config = getattr(cls, "from_config", None)
    try:
        module: nn.Module = from_config(dict(options)) if from_config else cls(**options)
    except TypeError as error:
        raise CheckpointError(
            f"{class_name} can not be made of the options {dict(options)}", str(error)
        ) from error
    return module


def read_config(folder: str | Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a component folder."""
    path = Path(folder) / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: '{folder}' is not a component folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return config


def _config_of(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", None)
    if is_dataclass(config) and not isinstance(config, type):
        return asdict(config)
    if isinstance(config, Mapping):
        return {key: value for key, value in config.items() if key != "_class_name"}
    raise CheckpointError(
        f"{type(module).__name__} has no usable 'config' attribute",
        fix="Give it the keyword arguments of its constructor as a dataclass or a mapping",
    )


def _load_own(folder: Path, class_name: str, config: dict[str, Any]) -> nn.Module:
    from safetensors.torch import load_model

    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise CheckpointError(f"{weights} does not exist: the component folder is incomplete")
    module = new_component(class_name, arguments)
    try:
        load_model(module, str(weights), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit class {class_name}: {error}") from error
    return module


def _load_pretrained(library: str, class_name: str, folder: Path) -> nn.Module:
    cls = getattr(importlib.import_module(library), class_name, None)
    if cls is None:
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names class '{class_name}', which {library} does not have"
        )
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        module, info = cls.from_pretrained(str(folder), **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder} can not be loaded as {library}.{class_name}", str(error)) from error
    # Both libraries only warn of absent weights and leave them random.
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise CheckpointError(
            f"the weights in {folder} lack '{missing[0]}' ({len(missing)} keys are missing)"
        )
    loaded: nn.Module = module
    return loaded


_STATE_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Restored:
    """What `load_state` gives back beside the objects it filled."""

    step: int
    extra: dict[str, Any]


def save_state(
    root: str | Path,
    step: int,
    objects: Mapping[str, HasState],
    rng: Sequence[dict[str, Any]] | None = None,
    extra: Mapping[str, Any] | None = None,
    keep_last: int = 3,
) -> Path:
    """Write ``root/step-<step>`` atomically, then delete all but the newest ``keep_last`` states.

    Parameters
    ----------
    objects: name → module, optimiser, EMA, ... whose ``state_dict()`` is stored.
    rng: `rng_state()` of every process in order of rank; None stores this process's.
    extra: anything JSON can hold (sampler position, configuration).
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}; at least the newest state must be kept")
    folder = Path(root) / f"step-{step:08d}"
    with new_folder(folder) as target:
        torch.save({name: item.state_dict() for name, item in objects.items()}, target / "state.pt")
        document = {
            "step": step,
            "rng": list(rng) if rng is not None else [rng_state()],
            "extra": dict(extra or {}),
        }
        (target / "state.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    for old in list_states(root)[:-keep_last]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_state(folder: str | Path, objects: Mapping[str, HasState], rank: int = 0) -> Restored:
    """Fill ``objects`` and the random states from a training state folder.

    The names must be those of the save. A process whose rank the save did not know keeps its random state
    (logged).
    """
    folder = Path(folder)
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        states = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} is not a complete training state: {error}") from error
    if set(states) != set(objects):
        raise CheckpointError(
            f"{folder} holds the states {sorted(states)}, but this training has {sorted(objects)}",
            "It was made with another configuration",
        )
    for name, item in objects.items():
        try:
            item.load_state_dict(states[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder}: the state of '{name}' does not fit: {error}") from error
    if rank < len(document["rng"]):
        set_rng_state(document["rng"][rank])
    else:
        logger.warning(
            "%s has random states of %d processes; rank %d keeps its own", folder, len(document["rng"]), rank
        )
    return Restored(step=int(document["step"]), extra=document["extra"])


def list_states(root: str | Path) -> list[Path]:
    """Complete training states under ``root``, oldest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in root.iterdir() if (match := _STATE_FOLDER.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def latest_state(root: str | Path) -> Path | None:
    """The newest complete training state under ``root``, or None."""
    states = list_states(root)
    return states[-1] if states else None


def rng_state() -> dict[str, Any]:
    """The states of python's, numpy's and torch's global generators (and of every CUDA device),
    JSON-ready."""
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (the state of what others may use)
    assert isinstance(legacy, dict)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            **legacy,
            "state": {"key": legacy["state"]["key"].tolist(), "pos": int(legacy["state"]["pos"])},
        },
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [s.numpy().tobytes().hex() for s in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    legacy = dict(state["numpy"])
    legacy["state"] = {
        "key": np.asarray(legacy["state"]["key"], dtype=np.uint32),
        "pos": legacy["state"]["pos"],
    }
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(_bytes_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_bytes_tensor(text) for text in state["cuda"]])


def _bytes_tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())
