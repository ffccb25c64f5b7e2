"""The networks of a run: loaded from a checkpoint or made, and written back as a checkpoint folder.

The folder is what ``python -m export ldla`` reads: ``vae/ unet/ score_net/ scheduler/`` and
``condition_encoder/`` or ``text_encoder/`` + ``tokenizer/``, with ``model_index.json`` of class
``agesdk-ldla``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agesdk import strict_json
from agesdk.atomic import new_folder
from agesdk.diffusion.schedule import alphas_cumprod
from agesdk.errors import BundleError
from agesdk.faces.zones import CROP_SIZE, ZONE_KINDS
from agesdk.manifest import PASTE_SETTINGS, SchedulerSettings
from training.checkpoint import CheckpointError, load_component, new_component, save_component
from training.conditions import LearnedCondition, PromptCondition
from training.config import ConfigError, TrainingConfig
from training.data import ZoneCrops
from training.objective import Objective

_SCHEDULER_KEYS = (
    "prediction_type",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
)


@dataclass(frozen=True)
class FrozenVAE:
    """A VAE that is not trained, of this project or diffusers, with scaled latents at its edges."""

    module: nn.Module
    latent_channels: int
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def wrap(cls, module: nn.Module) -> FrozenVAE:
        """Freeze ``module``; the scaling factor and shift come from its configuration."""
        module = module.eval().requires_grad_(False)
        config: Any = module.config
        scale = float(getattr(config, "scaling_factor", 1.0))
        shift = float(getattr(config, "shift_factor", 0.0) or 0.0)
        return cls(module, int(config.latent_channels), scale, shift)

    @torch.no_grad()
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image float [B, 3, H, W] in -1..1 → scaled mean and std, float [B, C, h, w]."""
        with torch.autocast(image.device.type, enabled=False):
            encoded: Any = self.module.encode(image)  # type: ignore[operator]
        if isinstance(encoded, tuple):
            mean, std = encoded
            return mean, std
        posterior = encoded.latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] → image float [B, 3, H, W], about -1..1, not clamped."""
        with torch.autocast(latents.device.type, enabled=False):
            scaled = latents.float() / self.scale + self.shift
            decoded: Any = self.module.decode(scaled)  # type: ignore[operator]
        image: Tensor = decoded if isinstance(decoded, Tensor) else decoded.sample
        return image


@dataclass(frozen=True)
class Models:
    """Everything a run computes with; ``objective`` holds what is trained."""

    vae: FrozenVAE
    objective: Objective
    discriminator: nn.Module | None
    scheduler: SchedulerSettings
    source: Path | None
    """Checkpoint folder whose frozen text parts are copied into the new checkpoint."""


def build_models(config: TrainingConfig) -> Models:
    """Load or make the networks of a run.

    Raises
    ------
    ConfigError
        The configuration and the networks do not fit together.
    CheckpointError
        A component folder is missing, damaged or unknown.
    """
    source = Path(config.model.checkpoint) if config.model.checkpoint else None
    if source is not None and not (source / "unet").is_dir():
        raise ConfigError(f"model.checkpoint '{source}' has no folder unet/", "It is not a checkpoint folder")
    vae_folder = Path(config.model.vae) if config.model.vae else source / "vae" if source else None
    assert vae_folder is not None  # ModelConfig requires one of the two
    vae = FrozenVAE.wrap(load_component(vae_folder))
    scheduler = config.scheduler or _scheduler_of(source)
    condition, tokens, width = _condition(config, source)
    unet = _unet(config, source, vae.latent_channels, tokens, width)
    score_net = _score_net(config, source, vae.latent_channels)
    discriminator = None
    if any(stage.adversarial > 0.0 for stage in config.stages):
        options = {
            "latent_channels": vae.latent_channels,
            "zones": len(ZONE_KINDS),
            **config.model.discriminator,
        }
        discriminator = new_component("LatentDiscriminator", options)
    objective = Objective(
        unet,
        condition,
        score_net,
        torch.from_numpy(alphas_cumprod(scheduler)),
        scheduler.prediction_type,
        config.model.mode == "conditioned",
        config.objective,
        config.stages,
        config.condition.zone_share,
        discriminator,
    )
    return Models(vae, objective.train(), discriminator, scheduler, source)


def save_checkpoint(
    folder: Path, models: Models, config: TrainingConfig, provenance: Mapping[str, Any]
) -> Path:
    """Write the networks as they are (use it inside ``ema.applied`` for averaged weights); returns the
    folder."""
    objective = models.objective
    with new_folder(folder) as target:
        save_component(models.vae.module, target / "vae")
        save_component(objective.unet, target / "unet")
        save_component(objective.score_net, target / "score_net")
        if isinstance(objective.condition, LearnedCondition):
            save_component(objective.condition.encoder, target / "condition_encoder")
        elif models.source is not None:
            for part in ("text_encoder", "tokenizer"):
                shutil.copytree(models.source / part, target / part)
        (target / "scheduler").mkdir()
        document = {"_class_name": "DDIMScheduler", "clip_sample": False}
        document |= {key: getattr(models.scheduler, key) for key in _SCHEDULER_KEYS}
        _write_json(target / "scheduler" / "scheduler_config.json", document)
        _write_json(target / "model_index.json", _index(config, provenance))
    return folder


def _index(config: TrainingConfig, provenance: Mapping[str, Any]) -> dict[str, Any]:
    conditioned = config.model.mode == "conditioned"
    index: dict[str, Any] = {
        "_class": "agesdk-ldla",
        "mode": config.model.mode,
        "paste": "residual" if conditioned else "blend",
        "crop_size": CROP_SIZE,
        "zones": list(ZONE_KINDS),
        "defaults": strict_json.encode(config.inference),
        "provenance": dict(provenance),
    }
    if conditioned:
        paste = {name: getattr(config.model, name) for name in PASTE_SETTINGS}
        index |= {name: value for name, value in paste.items() if value is not None}
    if config.condition.type == "text":
        index["templates"] = {"full": config.condition.full_template, "zone": config.condition.zone_template}
        if config.data.ethnicity:
            index["templates"]["full_ethnicity"] = config.condition.full_ethnicity_template
        index["zone_names"] = {
            kind: config.condition.zone_names.get(kind, kind.replace("_", " ")) for kind in ZONE_KINDS
        }
    return index


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _scheduler_of(source: Path | None) -> SchedulerSettings:
    """The noise schedule of a checkpoint; the defaults of `SchedulerSettings` are those of Stable
    Diffusion."""
    if source is None:
        return SchedulerSettings()
    path = source / "scheduler" / "scheduler_config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = {key: document[key] for key in _SCHEDULER_KEYS if key in document}
        return strict_json.decode(SchedulerSettings, known, "scheduler")
    except (OSError, ValueError, BundleError) as error:
        raise CheckpointError(f"{path} gives no usable noise schedule", str(error)) from error


def _condition(config: TrainingConfig, source: Path | None) -> tuple[nn.Module, int, int]:
    """The condition, the number of its tokens and the width of its hidden states."""
    if config.condition.type == "text":
        assert source is not None  # TrainingConfig requires it
        from transformers import AutoTokenizer

        text_encoder: Any = load_component(source / "text_encoder")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source / "tokenizer"), local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{source / 'tokenizer'} can not be loaded", str(error)) from error
        tokens, width = int(tokenizer.model_max_length), int(text_encoder.config.hidden_size)
        return PromptCondition(tokenizer, text_encoder, config.condition), tokens, width
    if source is not None and (source / "condition_encoder").is_dir():
        encoder = load_component(source / "condition_encoder")
        known, wanted = tuple(_option(encoder, "ancestries")), config.condition.ancestries
        if config.data.ethnicity and (not known or (wanted and wanted != known)):
            raise ConfigError(
                f"the condition encoder of {source} knows {', '.join(known) or 'no ancestries'}",
                "data.ethnicity needs an encoder that was made with the same ancestries",
                "Set data.ethnicity to false, or train from scratch",
            )
    else:
        options = {"zones": len(ZONE_KINDS), "ancestries": _ancestries(config)}
        encoder = new_component("ConditionEncoder", options | config.model.condition_encoder)
    return LearnedCondition(encoder), int(_option(encoder, "tokens")), int(_option(encoder, "width"))


def _ancestries(config: TrainingConfig) -> tuple[str, ...]:
    """The ancestries that a new condition encoder is to know, in the order of their index."""
    if not config.data.ethnicity or config.condition.ancestries:
        return config.condition.ancestries
    data = ZoneCrops.open(config.data.folder)
    named = sorted(set(data.ancestry[data.split == "train"].tolist()) - {""})
    if not named:
        raise ConfigError(
            f"{config.data.folder}/index.csv names no ancestry of a training crop",
            fix="Set data.ethnicity to false",
        )
    return tuple(named)


def _unet(
    config: TrainingConfig, source: Path | None, latent_channels: int, tokens: int, width: int
) -> nn.Module:
    wanted = 2 * latent_channels + 1 if config.model.mode == "conditioned" else latent_channels
    if source is not None:
        unet = load_component(source / "unet")
    else:
        options = {
            "in_channels": wanted,
            "latent_channels": latent_channels,
            "condition_tokens": tokens,
            "condition_width": width,
        }
        unet = new_component("SmallUNet", options | config.model.unet)
    have = int(_option(unet, "in_channels"))
    if have != wanted:
        raise ConfigError(
            f"the UNet takes {have} channels, but mode '{config.model.mode}' gives it {wanted}",
            f"the VAE has {latent_channels} latent channels",
            "Set model.mode to the other mode, or use another checkpoint or VAE",
        )
    for name in ("cross_attention_dim", "condition_width"):
        expected = getattr(unet.config, name, width)
        if expected != width:
            raise ConfigError(
                f"the UNet's {name} is {expected}, but the condition gives states of width {width}"
            )
    if config.model.gradient_checkpointing:
        if not hasattr(unet, "enable_gradient_checkpointing"):
            raise ConfigError(f"model.gradient_checkpointing is not offered by {type(unet).__name__}")
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
    return unet


def _score_net(config: TrainingConfig, source: Path | None, latent_channels: int) -> nn.Module:
    if config.model.score_net is not None:
        return load_component(config.model.score_net)
    if source is not None and (source / "score_net").is_dir():
        return load_component(source / "score_net")
    options = {"latent_channels": latent_channels, "zones": len(ZONE_KINDS), **config.model.score_net_options}
    return new_component("ScoreNet", options)


def _option(module: nn.Module, name: str) -> Any:
    config: Any = module.config
    return config[name] if isinstance(config, Mapping) else getattr(config, name)
