"""The manifest of a bundle: frozen dataclasses that are the schema, and their parsing.

The dataclasses validate themselves, so a manifest that exists is valid, whether it was read or made by an
exporter. Tensor layouts and the meaning of the components are described in the documentation of each bundle
kind.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from agesdk import strict_json
from agesdk.errors import BundleError
from agesdk.strict_json import Invalid

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 2**20
"""A manifest of a few dozen files is some 10 kB; a larger one is refused before it is parsed."""

Dtype = Literal["float32", "float16", "int64", "int32", "uint8", "int8", "bool"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["zone-aging", "lifespan-aging", "face-analysis"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph input or output; a string in the shape is a symbolic axis."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _require(bool(self.name) and len(self.name) <= 256, "name", "must have 1 to 256 characters")
        _one_of("dtype", self.dtype, get_args(Dtype))
        for index, axis in enumerate(self.shape):
            if isinstance(axis, str):
                _require(bool(_IDENTIFIER.fullmatch(axis)), f"shape[{index}]", f"is {axis!r}, not a symbol")
            else:
                _in_range(f"shape[{index}]", axis, 1, 2**31)


@dataclass(frozen=True)
class Tolerance:
    """What an output may differ by from its golden: the largest and the mean absolute difference, in the
    output's own unit (grey levels for uint8)."""

    max_abs: float
    mean_abs: float

    def __post_init__(self) -> None:
        _in_range("max_abs", self.max_abs, 0.0, 1e9)
        _in_range("mean_abs", self.mean_abs, 0.0, self.max_abs)


@dataclass(frozen=True)
class Variant:
    """A component in a further precision: the same inputs, outputs and profile, another graph.

    ``preferred_on`` says where it takes the component's place unless the caller asks for a precision: set by
    the exporter where the variant passed its measurement of quality and was faster. ``cpu`` means a CPU with
    8-bit dot products, ``gpu`` any GPU provider or backend.
    """

    files: tuple[str, ...]
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    preferred_on: Literal["cpu", "gpu"] | None = None

    def __post_init__(self) -> None:
        _check_graph_files(self.files)


@dataclass(frozen=True)
class Component:
    """One graph of a bundle.

    ``files[0]`` is the ``.onnx`` file, the others are its external data. ``profile`` gives (min, opt, max)
    for every symbolic axis of the inputs. ``tolerances`` are those of the golden outputs, by name.
    ``variants`` holds the component in further precisions, by precision.
    """

    name: str = field(metadata=strict_json.INJECTED)
    precision: Precision
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(_IDENTIFIER.fullmatch(self.name)), "", f"has the name {self.name!r}, not an identifier")
        _one_of("precision", self.precision, get_args(Precision))
        _check_graph_files(self.files)
        for group, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            _require(bool(tensors), group, "is empty")
            names = [tensor.name for tensor in tensors]
            _require(len(set(names)) == len(names), group, f"names a tensor twice: {names}")
        for symbol, (low, best, high) in self.profile.items():
            ordered = 1 <= low <= best <= high
            _require(ordered, f"profile.{symbol}", f"is {(low, best, high)}, expected 1 <= min <= opt <= max")
        symbols = {axis for tensor in self.inputs for axis in tensor.shape if isinstance(axis, str)}
        for symbol in sorted(symbols - set(self.profile)):
            raise Invalid(f"profile.{symbol}", "is missing: it is an axis of an input")
        for symbol in sorted(set(self.profile) - symbols):
            raise Invalid(f"profile.{symbol}", "is not an axis of any input")
        outputs = {tensor.name for tensor in self.outputs}
        _require(outputs >= set(self.tolerances), "tolerances", f"names no output: {set(self.tolerances)}")
        for precision, variant in self.variants.items():
            where = f"variants.{precision}"
            _one_of(where, precision, get_args(Precision))
            _require(precision != self.precision, where, "is the component's own precision")
            _require(outputs >= set(variant.tolerances), f"{where}.tolerances", "names no output")

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions it can be had in, its own first."""
        return (self.precision, *self.variants)

    def at(self, precision: str) -> Component:
        """The component with the variant of this precision in its place; itself if that is its own.

        Raises
        ------
        BundleError
            It has no such variant.
        """
        if precision == self.precision:
            return self
        if precision not in self.variants:
            raise BundleError(
                f'The component "{self.name}" is not there in {precision}',
                f"it is in {', '.join(self.precisions)}",
                f"Make it: python -m export convert BUNDLE OUT --precision {precision}",
            )
        variant = self.variants[precision]
        own = Variant(self.files, self.tolerances)
        others = {key: other for key, other in self.variants.items() if key != precision}
        return dataclasses.replace(
            self,
            precision=cast(Precision, precision),
            files=variant.files,
            tolerances=variant.tolerances,
            variants={self.precision: own, **others},
        )


def _check_graph_files(files: tuple[str, ...]) -> None:
    _require(bool(files), "files", "is empty, expected the .onnx file")
    _require(files[0].endswith(".onnx"), "files[0]", f"is {files[0]!r}, expected an .onnx file")
    for index, path in enumerate(files):
        check_relative_path(path, f"files[{index}]")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: POSIX path relative to the bundle, size in bytes, lower-case hex SHA-256."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_relative_path(self.path, "path")
        _in_range("size", self.size, 0, 2**62)
        _require(bool(_SHA256.fullmatch(self.sha256)), "sha256", "is not 64 lower-case hexadecimal digits")


@dataclass(frozen=True)
class SchedulerSettings:
    """The training noise schedule and the sampler that the model is meant for (names as in diffusers)."""

    sampler: Literal["ddim", "euler_ancestral", "lcm"] = "ddim"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    original_inference_steps: int = 50

    def __post_init__(self) -> None:
        _in_range("num_train_timesteps", self.num_train_timesteps, 1, 100_000)
        _in_range("beta_start", self.beta_start, 1e-8, 0.999)
        _in_range("beta_end", self.beta_end, self.beta_start, 0.999)
        _in_range("steps_offset", self.steps_offset, 0, self.num_train_timesteps - 1)
        _in_range("original_inference_steps", self.original_inference_steps, 1, self.num_train_timesteps)


@dataclass(frozen=True)
class ZoneAgingDefaults:
    """What ``age`` uses where the caller says nothing: steps, strength in 0..1, guidance scale >= 0."""

    steps: int
    strength: float
    guidance_scale: float = 1.0
    sequential: bool = False

    def __post_init__(self) -> None:
        _check_sampling(self.steps, self.strength, self.guidance_scale)


@dataclass(frozen=True)
class TextCondition:
    """Condition by CLIP text; ``templates`` has ``full`` and ``zone``, and may have ``full_ethnicity``."""

    templates: dict[str, str]
    type: Literal["text"] = "text"
    zone_names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("full", "zone"):
            _require(name in self.templates, f"templates.{name}", "is missing")
        for name, text in self.templates.items():
            _require(len(text) <= 1000, f"templates.{name}", "is longer than 1000 characters")


@dataclass(frozen=True)
class LearnedCondition:
    """Condition by a learned encoder of (zone, score[, ancestry]); the lists give the index order."""

    zones: tuple[str, ...]
    type: Literal["learned"] = "learned"
    ancestries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_names(self.zones, "zones", allow_empty=False)
        _check_names(self.ancestries, "ancestries", allow_empty=True)


@dataclass(frozen=True)
class RefinerSettings:
    """The optional img2img pass over the whole face."""

    component: str
    strength: float
    steps: int
    prompt: str = ""
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_sampling(self.steps, self.strength, self.guidance_scale)


Curve: TypeAlias = tuple[tuple[float, float], ...]
"""A monotone piecewise-linear function: (x, y) with x strictly increasing and y not decreasing."""


@dataclass(frozen=True)
class SourceCurve:
    """A calibration for crops that have the score ``score`` (0..1) before they are aged."""

    score: float
    curve: Curve

    def __post_init__(self) -> None:
        _in_range("score", self.score, 0.0, 1.0)
        _check_curve(self.curve, "curve")
        for target, condition in self.curve:
            _in_range("curve", target, 0.0, 1.0)
            _in_range("curve", condition, 0.0, 1.0)


WIDEST_SIGMA = 64.0
"""Crop pixels: the widest blur that a setting may ask for."""

PASTE_SETTINGS = (
    "blur_sigma",
    "detail_sigma",
    "rise_sigma",
    "smooth_skin_rise_sigma",
    "chroma",
    "amplitude",
    "smooth_skin_amplitude",
)
"""Settings of conditioned mode that a checkpoint states and a bundle takes over."""


@dataclass(frozen=True)
class ZoneAgingSettings:
    """Everything the zone-aging runtime needs to know beside the graphs.

    ``blur_sigma`` is in crop pixels. ``detail_sigma`` (crop pixels, 0 is off) and ``chroma`` (0..1) confine
    what is pasted to detail: shading coarser than ``detail_sigma`` stays the source's, and changes of hue are
    scaled by ``chroma``; a wrinkle is a fine change of lightness. ``rise_sigma`` takes the place of
    ``detail_sigma`` where a score rises (None: the same), and ``amplitude`` (0..1) scales what is pasted
    there; ``smooth_skin_rise_sigma`` takes the place of the one on smooth skin, ``smooth_skin_amplitude``
    that of the other on skin of score 0 (None: the same). ``calibration[zone]`` maps a wanted target in 0..1
    to the score fed to the model, ``score_calibration[zone]`` the output of ScoreNet to a score in 0..1; an
    absent zone means identity.
    ``source_calibration[zone]``, curves by the score before, takes the place of ``calibration[zone]``:
    between two of them it is linear, before the first and after the last constant.
    """

    mode: Literal["plain", "conditioned"]
    latent_channels: int
    scheduler: SchedulerSettings
    defaults: ZoneAgingDefaults
    condition: TextCondition | LearnedCondition
    zones: tuple[str, ...]
    paste: Literal["blend", "residual"] = "blend"
    crop_size: int = 128
    vae_scale_factor: int = 8
    blur_sigma: float = 7.0
    detail_sigma: float = 0.0
    rise_sigma: float | None = None
    smooth_skin_rise_sigma: float | None = None
    chroma: float = 1.0
    amplitude: float = 1.0
    smooth_skin_amplitude: float | None = None
    calibration: dict[str, Curve] = field(default_factory=dict)
    score_calibration: dict[str, Curve] = field(default_factory=dict)
    source_calibration: dict[str, tuple[SourceCurve, ...]] = field(default_factory=dict)
    refiner: RefinerSettings | None = None

    def __post_init__(self) -> None:
        _in_range("latent_channels", self.latent_channels, 1, 256)
        _in_range("vae_scale_factor", self.vae_scale_factor, 1, 64)
        _in_range("crop_size", self.crop_size, 16, 4096)
        divides = self.crop_size % self.vae_scale_factor == 0
        _require(divides, "crop_size", f"is {self.crop_size}, not a multiple of {self.vae_scale_factor}")
        _in_range("blur_sigma", self.blur_sigma, 0.0, WIDEST_SIGMA)
        _in_range("detail_sigma", self.detail_sigma, 0.0, WIDEST_SIGMA)
        for name in ("rise_sigma", "smooth_skin_rise_sigma"):
            if (sigma := getattr(self, name)) is not None:
                _in_range(name, sigma, 0.0, WIDEST_SIGMA)
        _in_range("chroma", self.chroma, 0.0, 1.0)
        _in_range("amplitude", self.amplitude, 0.0, 1.0)
        if self.smooth_skin_amplitude is not None:
            _in_range("smooth_skin_amplitude", self.smooth_skin_amplitude, 0.0, 1.0)
        _check_names(self.zones, "zones", allow_empty=False)
        if isinstance(self.condition, LearnedCondition):
            for zone in self.zones:
                _require(zone in self.condition.zones, "condition.zones", f"lacks the zone {zone!r}")
        for key, curves in (("calibration", self.calibration), ("score_calibration", self.score_calibration)):
            for zone, curve in curves.items():
                _require(zone in self.zones, f"{key}.{zone}", "is not one of the bundle's zones")
                _check_curve(curve, f"{key}.{zone}")
        for zone, by_score in self.source_calibration.items():
            where = f"source_calibration.{zone}"
            _require(zone in self.zones, where, "is not one of the bundle's zones")
            scores = [entry.score for entry in by_score]
            _require(len(scores) > 0, where, "holds no curve")
            _require(all(a < b for a, b in itertools.pairwise(scores)), where, "does not rise in score")


@dataclass(frozen=True)
class FaceAnalysisSettings:
    """Thresholds in 0..1: confidence of the detector, of the landmarks (more where the detector is in doubt:
    `agesdk.faces.analyzer.SURE_MESH`), and overlap (IoU) of two faces."""

    detector_threshold: float = 0.5
    landmark_threshold: float = 0.5
    overlap_threshold: float = 0.3

    def __post_init__(self) -> None:
        for name in ("detector_threshold", "landmark_threshold", "overlap_threshold"):
            _in_range(name, getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True)
class AdaptiveNoiseSettings:
    """AdaNI, Cradle2Cane's first pass: the strength grows with the age gap ``d`` in years.

    ``two_thresholds``: ``strengths[0]`` for d <= t1, ``strengths[1]`` for d <= t2, else ``strengths[2]``;
    ``one_threshold``: ``strengths[0]`` for d <= t1, else ``strengths[1]``; ``fixed``: always ``fixed``. A
    prompt with an addition takes ``addition`` whatever the gap.
    """

    mode: Literal["two_thresholds", "one_threshold", "fixed"] = "two_thresholds"
    t1: float = 5.0
    t2: float = 30.0
    strengths: tuple[float, float, float] = (0.25, 0.5, 0.75)
    fixed: float = 0.5
    addition: float = 0.75

    def __post_init__(self) -> None:
        _in_range("t1", self.t1, 0.0, 1000.0)
        _in_range("t2", self.t2, self.t1, 1000.0)
        for index, strength in enumerate(self.strengths):
            _in_range(f"strengths[{index}]", strength, 1e-6, 1.0)
        _in_range("fixed", self.fixed, 1e-6, 1.0)
        _in_range("addition", self.addition, 1e-6, 1.0)


@dataclass(frozen=True)
class SvrSettings:
    """SVR-ArcFace: singular values of the identity embeddings become ``beta * s * exp(alpha * s)``.

    With ``strengths`` (the four-image variant) the pictures of two further first passes join in, at the first
    two of them that are not the first pass's own; without, the picture itself and its aged one are all.
    """

    alpha: float = 0.01
    beta: float = 1.1
    strengths: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _in_range("alpha", self.alpha, -10.0, 10.0)
        _in_range("beta", self.beta, 1e-6, 1e6)
        _require(len(self.strengths) <= 8, "strengths", "has more than 8 entries")
        for index, strength in enumerate(self.strengths):
            _in_range(f"strengths[{index}]", strength, 1e-6, 1.0)


@dataclass(frozen=True)
class LifespanAgingSettings:
    """Everything the lifespan-aging runtime needs to know beside the graphs (Cradle2Cane, NeurIPS 2025).

    ``ages`` is the inclusive range of the tables; None if the bundle carries text encoders only.
    ``face_feature`` names the output of ``face_encoder`` that is projected, ``rotate_clip`` how the CLIP
    embedding is turned towards the target age; None means that the bundle has no such identity token.
    ``clip_pixel_range`` is the range of pixels CLIP's normalisation is applied to: ``0..1`` as in training,
    ``0..255`` as in the published inference script. ``lora`` says how the second pass is told from the
    first: by the input ``lora_scale`` of ``denoise``, or by a second component ``denoise_identity``.
    """

    latent_channels: int
    scheduler: SchedulerSettings
    genders: tuple[str, ...]
    prompt: str
    ages: tuple[int, int] | None
    text_encoders: bool
    lora: Literal["switch", "fused"] = "switch"
    resolution: int = 512
    vae_scale_factor: int = 8
    steps: int = 4
    adaptive_noise: AdaptiveNoiseSettings = field(default_factory=AdaptiveNoiseSettings)
    identity_strength: float = 0.25
    face_feature: Literal["embedding", "hidden_state"] | None = "embedding"
    svr: SvrSettings | None = None
    rotate_clip: Literal["angle", "vector"] | None = "angle"
    clip_pixel_range: Literal["0..1", "0..255"] = "0..1"

    def __post_init__(self) -> None:
        _in_range("latent_channels", self.latent_channels, 1, 256)
        _in_range("vae_scale_factor", self.vae_scale_factor, 1, 64)
        _in_range("resolution", self.resolution, 64, 4096)
        divides = self.resolution % self.vae_scale_factor == 0
        _require(divides, "resolution", f"is {self.resolution}, not a multiple of {self.vae_scale_factor}")
        _in_range("steps", self.steps, 1, 1000)
        _in_range("identity_strength", self.identity_strength, 1e-6, 1.0)
        _check_names(self.genders, "genders", allow_empty=False)
        _require(len(self.prompt) <= 1000, "prompt", "is longer than 1000 characters")
        for placeholder in ("{age}", "{gender}"):
            _require(placeholder in self.prompt, "prompt", f"has no {placeholder}")
        bare = self.prompt.replace("{age}", "").replace("{gender}", "")
        _require("{" not in bare and "}" not in bare, "prompt", "has braces beside {age} and {gender}")
        if self.ages is not None:
            low, high = self.ages
            _require(0 <= low <= high <= 1000, "ages", f"is {self.ages}, expected 0 <= youngest <= oldest")
        _require(
            self.ages is not None or self.text_encoders, "ages", "is null, and there are no text encoders"
        )
        has_token = self.face_feature is not None or self.rotate_clip is not None
        _require(has_token, "face_feature", "and rotate_clip are both null: the second pass has no condition")
        _require(self.svr is None or self.face_feature is not None, "svr", "needs a face_feature")


Settings: TypeAlias = ZoneAgingSettings | LifespanAgingSettings | FaceAnalysisSettings
SETTINGS_OF_KIND: dict[str, tuple[str, type[Settings]]] = {
    "zone-aging": ("zone_aging", ZoneAgingSettings),
    "lifespan-aging": ("lifespan_aging", LifespanAgingSettings),
    "face-analysis": ("face_analysis", FaceAnalysisSettings),
}
"""For each kind of bundle, the manifest key of its settings and their class."""


@dataclass(frozen=True)
class Manifest:
    """The parsed ``manifest.json``. ``provenance`` is free JSON: recipe, data, licences, measured quality."""

    kind: Kind
    name: str
    version: str
    components: dict[str, Component]
    settings: Settings
    provenance: dict[str, Any] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require(self.schema == SCHEMA_VERSION, "schema", f"is {self.schema}, expected {SCHEMA_VERSION}")
        _one_of("kind", self.kind, tuple(SETTINGS_OF_KIND))
        key, settings_class = SETTINGS_OF_KIND[self.kind]
        _require(isinstance(self.settings, settings_class), key, f"does not belong to the kind {self.kind}")
        for label, text in (("name", self.name), ("version", self.version)):
            _require(bool(_NAME.fullmatch(text)), label, f"is {text!r}, expected letters, digits and . _ -")
        for name, component in self.components.items():
            _require(name == component.name, f"components.{name}", f"carries the name {component.name!r}")
        if self.files:
            self._check_files()
        if isinstance(self.settings, ZoneAgingSettings) and self.settings.refiner is not None:
            name = self.settings.refiner.component
            _require(name in self.components, f"{key}.refiner.component", f"is {name!r}, not a component")

    def _check_files(self) -> None:
        listed: set[str] = set()
        for index, entry in enumerate(self.files):
            # Compared without case: two names that differ only in case are one file on Windows and macOS.
            _require(entry.path.lower() not in listed, f"files[{index}].path", f"lists {entry.path!r} twice")
            listed.add(entry.path.lower())
        exact = {entry.path for entry in self.files}
        for name, component in self.components.items():
            graphs = {"": component.files}
            graphs |= {f"variants.{key}.": variant.files for key, variant in component.variants.items()}
            for key, files in graphs.items():
                for index, path in enumerate(files):
                    where = f"components.{name}.{key}files[{index}]"
                    _require(path in exact, where, f"is {path!r}, not in files")


def manifest_from_json(text: str) -> Manifest:
    """Parse a manifest; errors name the JSON path, a newer schema is told before anything else."""
    document = strict_json.parse(text)
    if not isinstance(document, dict):
        raise Invalid("", "is not a JSON object")
    schema = document.get("schema")
    if type(schema) is not int:
        raise Invalid("schema", "is missing" if schema is None else "is not an integer")
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"The bundle has schema {schema}",
            f"this agesdk reads schema {SCHEMA_VERSION}",
            "Upgrade agesdk: pip install --upgrade agesdk",
        )
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in SETTINGS_OF_KIND:
        problem = "is missing" if kind is None else f"is {json.dumps(kind)[:60]}"
        raise Invalid("kind", f"{problem}, expected one of {', '.join(SETTINGS_OF_KIND)}")
    key, settings_class = SETTINGS_OF_KIND[kind]
    if key not in document:
        raise Invalid(key, "is missing")
    if "settings" in document:
        raise Invalid("settings", "is not a known key", f"The settings of this kind stand under {key!r}.")
    if not document.get("files"):
        raise Invalid("files", "is missing or empty")
    settings = strict_json.decode(settings_class, document.pop(key), key)
    return strict_json.decode(_FileManifest, document).with_settings(settings)


def manifest_to_json(manifest: Manifest) -> str:
    """The text of ``manifest.json``: two-space indentation, keys in schema order, ASCII only."""
    body = strict_json.encode(manifest)
    settings = body.pop("settings")
    ordered = {"schema": body.pop("schema"), **body, SETTINGS_OF_KIND[manifest.kind][0]: settings}
    ordered["files"] = ordered.pop("files")
    return json.dumps(ordered, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class _FileManifest:
    """The manifest as it stands in the file, without the settings, whose key depends on the kind."""

    schema: int
    kind: Kind
    name: str
    version: str
    components: dict[str, Component]
    files: tuple[FileEntry, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def with_settings(self, settings: Settings) -> Manifest:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Manifest(settings=settings, **values)


def check_relative_path(path: str, where: str) -> None:
    """Refuse anything but a plain relative POSIX path, valid on every system."""
    parts = path.split("/")
    plain = (
        0 < len(path) <= 512
        and not any(part in ("", ".", "..") or part.endswith((".", " ")) for part in parts)
        and not any(ord(character) < 32 or character in '\\:*?"<>|\x7f' for character in path)
    )
    _require(plain, where, f"is {path!r}, not a plain relative path")
    _require(path.lower() != MANIFEST_NAME, where, "is the manifest itself")


def _check_names(names: tuple[str, ...], where: str, allow_empty: bool) -> None:
    _require(allow_empty or bool(names), where, "is empty")
    for index, name in enumerate(names):
        _require(bool(_IDENTIFIER.fullmatch(name)), f"{where}[{index}]", f"is {name!r}, not an identifier")
    _require(len(set(names)) == len(names), where, "names an entry twice")


def _check_curve(curve: Curve, where: str) -> None:
    _require(len(curve) >= 2, where, "needs at least two points")
    _require(all(math.isfinite(value) for point in curve for value in point), where, "is not finite")
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        _require(x0 < x1 and y0 <= y1, where, f"is not increasing between {(x0, y0)} and {(x1, y1)}")


def _check_sampling(steps: int, strength: float, guidance_scale: float) -> None:
    _in_range("steps", steps, 1, 1000)
    _in_range("strength", strength, 1e-6, 1.0)
    _in_range("guidance_scale", guidance_scale, 0.0, 50.0)


def _one_of(where: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, where, f"is {value!r}, expected one of {', '.join(choices)}")


def _in_range(where: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails too.
    _require(low <= value <= high, where, f"is {value}, expected {low} to {high}")


def _require(condition: bool, where: str, problem: str) -> None:
    if not condition:
        raise Invalid(where, problem)
