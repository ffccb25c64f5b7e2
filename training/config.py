"""Configuration of the LDLA trainer: YAML into frozen dataclasses.

Unknown keys, wrong types and impossible values raise `ConfigError` naming the place
(``optimizer.learning_rate``) and the nearest known key. The schema is `TrainingConfig`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from agesdk import strict_json
from agesdk.diffusion.prompts import LDLA_TEMPLATES
from agesdk.errors import AgeSDKError
from agesdk.manifest import WIDEST_SIGMA, SchedulerSettings, ZoneAgingDefaults
from agesdk.strict_json import Invalid
from training.losses import LossWeights


class ConfigError(AgeSDKError):
    """A configuration file can not be read, or a key or value in it is not valid."""


@dataclass(frozen=True)
class DataConfig:
    """Which crops are trained on, and how they are varied."""

    folder: str
    """Output of ``python -m training prepare-zones``."""
    latents: str | None = None
    """Crops encoded in advance in several variants (`training.latents.encode_variants`), for a small VAE;
    None: crops are varied and encoded in every step."""
    augment: bool = True
    """Shift, turn, scale, brighten and (zones on the middle line) mirror crops at random."""
    balance_zones: bool = False
    """Draw every zone kind equally often, however many crops it has."""
    zone_weights: dict[str, float] = field(default_factory=dict)
    """Zone kind → how much more often it is drawn than with weight 1."""
    old_weight: float = 1.0
    """Crops with score 1 are drawn this much as often as crops with score 0, linear between."""
    dark_skin_weight: float = 1.0
    """Crops in the lowest quarter of skin lightness are drawn this much as often as others."""
    ethnicity: bool = False
    """Condition on the ``ancestry`` column: by the prompt template with ethnicity, or by a learned embedding
    of each ancestry."""

    def __post_init__(self) -> None:
        for name in ("old_weight", "dark_skin_weight"):
            _require(getattr(self, name) > 0.0, name, "must be positive")
        for zone, weight in self.zone_weights.items():
            _require(weight >= 0.0, f"zone_weights.{zone}", "must not be negative")


@dataclass(frozen=True)
class ModelConfig:
    """Where the networks come from and what they predict."""

    checkpoint: str | None = None
    """A diffusers Stable Diffusion folder, or a checkpoint of this trainer, to start from."""
    vae: str | None = None
    """Component folder of the frozen VAE; needed without ``checkpoint``, replaces its VAE otherwise."""
    score_net: str | None = None
    """Component folder of a pretrained ScoreNet; None: the checkpoint's, else a new one."""
    mode: Literal["plain", "conditioned"] = "plain"
    """plain: the UNet sees z_t; conditioned: also the latent of the blurred source and the skin mask."""
    blur_sigma: float = 7.0
    """Conditioned mode: blur of the source inside the skin mask, crop pixels, as the runtime will use it."""
    detail_sigma: float = 0.0
    """Residual paste: shading coarser than this stays the source's, crop pixels; 0 is off."""
    rise_sigma: float | None = None
    """The same where a score rises; None: as ``detail_sigma``."""
    smooth_skin_rise_sigma: float | None = None
    """The same where the score of smooth skin rises; None: as ``rise_sigma``."""
    chroma: float = 1.0
    """Residual paste: share of changes of hue that is pasted, 0..1."""
    amplitude: float = 1.0
    """Share of a change towards a higher score that is pasted, 0..1."""
    smooth_skin_amplitude: float | None = None
    """The same on skin of score 0; None: as ``amplitude``."""
    unet: dict[str, Any] = field(default_factory=dict)
    """Options of a new SmallUNet (without ``checkpoint``)."""
    condition_encoder: dict[str, Any] = field(default_factory=dict)
    """Options of a new ConditionEncoder (learned condition)."""
    score_net_options: dict[str, Any] = field(default_factory=dict)
    """Options of a new ScoreNet."""
    discriminator: dict[str, Any] = field(default_factory=dict)
    """Options of the discriminator of stages with an adversarial weight."""
    gradient_checkpointing: bool = False
    """Recompute UNet activations in the backward pass: less memory, about a third more time (diffusers)."""

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            _require(
                self.vae is not None, "vae", "is missing: a model from scratch needs a trained VAE folder"
            )
        widest = f"{WIDEST_SIGMA:g}"
        _require(0.0 < self.blur_sigma <= WIDEST_SIGMA, "blur_sigma", f"must be positive, at most {widest}")
        for name in ("detail_sigma", "rise_sigma", "smooth_skin_rise_sigma"):
            sigma = getattr(self, name)
            _require(sigma is None or 0.0 <= sigma <= WIDEST_SIGMA, name, f"must lie in 0..{widest}")
        _require(0.0 <= self.chroma <= 1.0, "chroma", "must lie in 0..1")
        for name in ("amplitude", "smooth_skin_amplitude"):
            share = getattr(self, name)
            _require(share is None or 0.0 <= share <= 1.0, name, "must lie in 0..1")


@dataclass(frozen=True)
class ConditionConfig:
    """The condition of the UNet."""

    type: Literal["text", "learned"]
    full_template: str = LDLA_TEMPLATES["full"]
    full_ethnicity_template: str = LDLA_TEMPLATES["full_ethnicity"]
    zone_template: str = LDLA_TEMPLATES["zone"]
    zone_names: dict[str, str] = field(default_factory=dict)
    """Zone kind → its name in prompts; others have underscores replaced by spaces."""
    zone_share: float | None = None
    """Share of samples under the zone prompt (L_zone) while the others are under the full prompt (L_full).
    None: as in the paper both losses are taken on every sample, at twice the cost."""
    ethnicity_share: float = 0.5
    """With ``data.ethnicity``: share of full prompts that name the ethnicity."""
    ancestries: tuple[str, ...] = ()
    """Learned condition with ``data.ethnicity``: the ancestries it knows; others count as not named. Empty:
    all of the ``ancestry`` column."""

    def __post_init__(self) -> None:
        for name in ("full_template", "full_ethnicity_template"):
            for key in ("{zone}", "{score}"):
                _require(key in getattr(self, name), name, f"lacks {key}")
        _require(
            "{ethnicity}" in self.full_ethnicity_template, "full_ethnicity_template", "lacks {ethnicity}"
        )
        _require("{zone}" in self.zone_template, "zone_template", "lacks {zone}")
        _require(
            self.zone_share is None or 0.0 < self.zone_share < 1.0,
            "zone_share",
            "must lie in (0, 1) or be null",
        )
        _require(0.0 <= self.ethnicity_share <= 1.0, "ethnicity_share", "must lie in [0, 1]")
        _require(not self.ancestries or self.type == "learned", "ancestries", "are of a learned condition")
        _require(
            all(self.ancestries) and len(set(self.ancestries)) == len(self.ancestries),
            "ancestries",
            "must be distinct names, none of them empty",
        )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses of equations 1 to 6; their weights are set by stage."""

    timesteps: tuple[int, int] | None = None
    """Timesteps of L_full and L_zone are drawn uniformly from [low, high); None: the whole schedule."""
    mask_background: float | None = None
    """Losses are weighted by skin mask + this; None: no mask weighting (the paper)."""
    latents: Literal["sample", "mean"] = "sample"
    """Clean latents are drawn from the VAE's posterior, or its mean (always the mean of crops encoded in
    advance)."""
    blur_sigmas: tuple[float, ...] = (5.0, 7.0, 9.0)
    """Conditioned mode: blurs of the source inside the skin mask, crop pixels, one drawn per sample."""
    score_net: Literal["joint", "real", "frozen"] = "joint"
    """joint (the paper): L_score trains UNet and ScoreNet, and ScoreNet also learns the labels of real
    latents;
    real: it learns from real latents only, L_score reaches the UNet through it; frozen: it is not trained."""
    target_share: float = 1.0
    """Share of the batch that is also taken to a random target score, for L_score and the adversarial
    term."""
    target_timesteps: tuple[int, int] | None = None
    """Their timesteps, as ``timesteps``: one-step estimates are poor at high noise."""
    paste_targets: bool = False
    """Judge mask·estimate + (1−mask)·source instead of the estimate, as a residual paste will show it."""
    cycle_every: int = 1
    """L_cycle is taken on every n-th step (its weight is not scaled up)."""
    cycle_batch: int | None = None
    """How many samples of the batch it takes; None: all."""
    cycle_timesteps: tuple[int, int] | None = None
    """Timesteps of the way to the target and back in L_cycle; None: as ``timesteps``."""
    discriminator_rate: float = 2e-4
    discriminator_noise: float = 0.15
    """Standard deviation of the noise added to what the discriminator sees."""

    def __post_init__(self) -> None:
        _require(self.cycle_every >= 1, "cycle_every", "must be at least 1")
        _require(self.cycle_batch is None or self.cycle_batch >= 1, "cycle_batch", "must be at least 1")
        _require(0.0 < self.target_share <= 1.0, "target_share", "must lie in (0, 1]")
        background = self.mask_background
        _require(background is None or 0.0 <= background <= 1.0, "mask_background", "must lie in [0, 1]")
        for name in ("timesteps", "target_timesteps", "cycle_timesteps"):
            span = getattr(self, name)
            _require(span is None or 0 <= span[0] < span[1], name, "must be [low, high) with 0 <= low < high")
        _require(
            len(self.blur_sigmas) > 0 and min(self.blur_sigmas) > 0, "blur_sigmas", "must be positive numbers"
        )
        _require(self.discriminator_rate > 0.0, "discriminator_rate", "must be positive")
        _require(self.discriminator_noise >= 0.0, "discriminator_noise", "must not be negative")


@dataclass(frozen=True)
class StageConfig:
    """A stretch of the run with its own batch, learning rate and weights of equation 6. Weight 0: not
    computed."""

    steps: int
    """Optimiser steps."""
    batch_size: int
    """Samples per process and micro-batch."""
    learning_rate: float
    final_learning_rate: float | None = None
    """Learning rate at the stage's end, reached linearly; None: constant."""
    weights: LossWeights = field(default_factory=LossWeights)
    adversarial: float = 0.0
    """Weight of an adversarial term on the estimates at random targets (not in the paper; conditioned
    mode)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            _require(getattr(self, name) >= 1, name, "must be at least 1")
        _require(self.learning_rate > 0.0, "learning_rate", "must be positive")
        final = self.final_learning_rate
        _require(final is None or final >= 0.0, "final_learning_rate", "must not be negative")
        for name in ("full", "zone", "cycle", "score"):
            _require(getattr(self.weights, name) >= 0.0, f"weights.{name}", "must not be negative")
        _require(self.weights.full + self.weights.zone > 0.0, "weights", "leave neither L_full nor L_zone")
        _require(self.adversarial >= 0.0, "adversarial", "must not be negative")

    def rate_at(self, step: int) -> float:
        """Learning rate at step ``step`` of the stage, from 0."""
        final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        return self.learning_rate + (final - self.learning_rate) * step / self.steps


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; learning rates are set by stage."""

    warmup_steps: int = 0
    """Steps at the start of the run over which the learning rate rises linearly from 0."""
    score_net_factor: float = 1.0
    """Learning rate of ScoreNet as a multiple of the stage's."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "warmup_steps", "must not be negative")
        _require(self.score_net_factor >= 0.0, "score_net_factor", "must not be negative")
        _require(self.max_grad_norm > 0.0, "max_grad_norm", "must be positive")


@dataclass(frozen=True)
class RunConfig:
    """Precision, devices, randomness."""

    gradient_accumulation: int = 1
    """Micro-batches per optimiser step."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    """auto: bf16 where the hardware has matrix units for it (see `training.precision`), else float32."""
    ema_decay: float = 0.9999
    seed: int = 0
    workers: int = 0
    """Processes that prepare batches ahead (0: none)."""
    cpu: bool = False
    """Stay on the CPU even where a GPU is present."""
    threads: int | None = None
    """CPU threads per process; None: as torch chooses."""

    def __post_init__(self) -> None:
        _require(self.gradient_accumulation >= 1, "gradient_accumulation", "must be at least 1")
        _require(0.0 <= self.ema_decay < 1.0, "ema_decay", "must lie in [0, 1)")
        _require(self.workers >= 0, "workers", "must not be negative")
        _require(0 <= self.seed < 2**63, "seed", "must lie in [0, 2^63)")
        _require(self.threads is None or self.threads >= 1, "threads", "must be at least 1")


@dataclass(frozen=True)
class ReportConfig:
    """Logs, checkpoints and validation; everything goes to ``output`` of the run."""

    log_every: int = 10
    checkpoint_every: int = 500
    keep_last: int = 3
    validate_every: int = 500
    """Every so many steps, validation losses and a grid of pictures; 0: never."""
    validation_batches: int = 4
    """Batches of held-out crops for the validation losses."""
    grid_crops: int = 8
    """Rows of the validation grid."""
    grid_targets: tuple[float, ...] = (0.05, 0.5, 0.95)
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in (
            "log_every",
            "checkpoint_every",
            "keep_last",
            "validation_batches",
            "grid_crops",
        ):
            _require(getattr(self, name) >= 1, name, "must be at least 1")
        _require(self.validate_every >= 0, "validate_every", "must not be negative")
        for index, target in enumerate(self.grid_targets):
            _require(0.0 <= target <= 1.0, f"grid_targets[{index}]", "must lie in [0, 1]")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of ``python -m training ldla``."""

    output: str
    """Folder of the run: states/, checkpoint/, grids/, tensorboard/, config.yaml."""
    data: DataConfig
    model: ModelConfig
    condition: ConditionConfig
    stages: tuple[StageConfig, ...]
    run: RunConfig = field(default_factory=RunConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    inference: ZoneAgingDefaults = field(default_factory=lambda: ZoneAgingDefaults(40, 0.2, 1.0))
    """How validation grids are sampled, and the defaults written to the checkpoint; the paper's otherwise."""
    scheduler: SchedulerSettings | None = None
    """Noise schedule and prediction type; None: the checkpoint's, else the defaults of Stable Diffusion."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What a bundle shall say of its data and licences; the recipe and the steps are added."""

    def __post_init__(self) -> None:
        _require(len(self.stages) > 0, "stages", "must hold at least one stage")
        if self.condition.type == "text":
            _require(
                self.model.checkpoint is not None,
                "model.checkpoint",
                "is missing: a text condition needs one",
            )
        _require(
            not self.condition.ancestries or self.data.ethnicity,
            "condition.ancestries",
            "is of no use without data.ethnicity",
        )
        if self.model.mode == "plain":
            for index, stage in enumerate(self.stages):
                key = f"stages[{index}].adversarial"
                _require(
                    stage.adversarial == 0.0,
                    key,
                    "must be 0 in plain mode: the discriminator needs a context",
                )

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage of a step of the run, and the step within it."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise IndexError("the step lies beyond the last stage")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a YAML file, apply ``key.path=value`` overrides (values are YAML), and validate.

    Raises
    ------
    ConfigError
        The file can not be read or parsed, or a key or value is not valid; names the file and the key.
    """
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can not be read", str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML", str(error)) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a configuration", "its top level must be a mapping of keys")
    for override in overrides:
        _apply_override(document, override)
    try:
        return config_from_dict(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", error.why, error.fix) from None


def config_from_dict(document: dict[str, Any]) -> TrainingConfig:
    """Validate plain values; raises `ConfigError` naming the key."""
    try:
        plain = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the configuration holds a value that is no text, number, list or mapping", str(error)
        ) from None
    try:
        return strict_json.decode(TrainingConfig, plain)
    except Invalid as error:
        raise ConfigError(error.what, error.why, error.fix) from None


def config_to_dict(config: TrainingConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`: plain values, defaults written out."""
    encoded: dict[str, Any] = strict_json.encode(config)
    return encoded


def _apply_override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(
            f"--set '{override}' is not KEY=VALUE",
            fix="Write for instance --set run.seed=1 or --set stages.0.steps=1000",
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set '{override}' has a value that is not YAML", str(error)) from None
    node: Any = document
    for part, following in zip(parts, [*parts[1:], None]):
        place: Any = part
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"--set '{override}': '{part}' is no entry of a list of {len(node)}")
            place = int(part)
        elif not isinstance(node, dict):
            raise ConfigError(f"--set '{override}' goes into a value that has no keys at '{part}'")
        if following is None:
            node[place] = value
        else:
            node = node[place] if isinstance(node, list) else node.setdefault(place, {})


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but ``1e-4`` is a number and a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is written twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise Invalid(key, problem)
