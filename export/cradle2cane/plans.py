"""The networks to load in order, the graphs made of each, and the tables computed with it while it is
loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk.bundle import LifespanAgingSettings
from export.checkpoint import read_config_file
from export.errors import CheckpointError
from export.graphs import Graph

from . import arcface, graphs, lora, projection, tables
from .source import Source

if TYPE_CHECKING:
    from .command import Options


@dataclass(frozen=True)
class Plan:
    """One network: how it is loaded, the components made of it, and its part of the tables."""

    what: str
    components: tuple[str, ...]
    load: Callable[[], Any]
    graphs: Callable[[Any], dict[str, Graph]]
    tables: Callable[[Any], dict[str, np.ndarray]] | None = None


def make_plans(source: Source, settings: LifespanAgingSettings, options: Options) -> list[Plan]:
    """All plans of a bundle, the largest network last.

    Raises
    ------
    CheckpointError
        CLIP's preprocessing is not the published one.
    """
    plans = [_vae(source, settings)]
    if settings.face_feature is not None:
        plans += [_face_encoder(source, settings), _face_projection(source)]
    if settings.rotate_clip is not None:
        plans += [_clip(source, settings, options), _clip_projection(source)]
    return [*plans, *_text(source, options), *_unet(source, settings, options)]


def _vae(source: Source, settings: LifespanAgingSettings) -> Plan:
    sizes = settings.latent_channels, settings.vae_scale_factor, settings.resolution
    return Plan(
        "autoencoder",
        ("vae_encoder", "vae_decoder"),
        source.load_vae,
        lambda vae: {
            "vae_encoder": graphs.LifespanVaeEncoder(vae, *sizes),
            "vae_decoder": graphs.LifespanVaeDecoder(vae, *sizes),
        },
    )


def _face_encoder(source: Source, settings: LifespanAgingSettings) -> Plan:
    hidden = settings.face_feature == "hidden_state"

    def make(network: arcface.IResNet) -> dict[str, Graph]:
        return {"face_encoder": graphs.FaceEncoder(arcface.folded(network), settings.resolution, hidden)}

    return Plan("ArcFace", ("face_encoder",), source.load_arcface, make)


def _face_projection(source: Source) -> Plan:
    def make(network: projection.Projection) -> dict[str, Graph]:
        sizes = source.face_width, source.token_width
        return {"face_projection": graphs.ProjectToToken(projection.folded(network), *sizes)}

    return Plan("face projection", ("face_projection",), source.load_face_projection, make)


def _clip_projection(source: Source) -> Plan:
    def make(network: projection.Projection) -> dict[str, Graph]:
        sizes = source.clip_width, source.token_width
        return {"clip_projection": graphs.ProjectToToken(projection.folded(network), *sizes)}

    return Plan("CLIP projection", ("clip_projection",), source.load_clip_projection, make)


def _clip(source: Source, settings: LifespanAgingSettings, options: Options) -> Plan:
    mean, std = _clip_normalisation(source)
    names = ("clip_image_encoder", *(("clip_text_encoder",) if options.text_graphs else ()))

    def make(clip: Any) -> dict[str, Graph]:
        made: dict[str, Graph] = {
            "clip_image_encoder": graphs.ClipImageEncoder(clip, settings.resolution, mean, std)
        }
        if options.text_graphs:
            made["clip_text_encoder"] = graphs.ClipTextEncoder(clip)
        return made

    return Plan(
        "CLIP",
        names,
        source.load_clip,
        make,
        (lambda clip: tables.age_features(clip, source, options)) if options.tables else None,
    )


def _text(source: Source, options: Options) -> list[Plan]:
    def first(text: Any) -> dict[str, Graph]:
        return {"text_encoder": graphs.PromptEncoder(text, pooled=False)} if options.text_graphs else {}

    def second(text: Any) -> dict[str, Graph]:
        return {"text_encoder_2": graphs.PromptEncoder(text, pooled=True)} if options.text_graphs else {}

    def table(folder: str) -> Callable[[Any], dict[str, np.ndarray]] | None:
        if not options.tables:
            return None
        return lambda text: tables.prompt_states(text, source.turbo / folder, options)

    names = (("text_encoder",), ("text_encoder_2",)) if options.text_graphs else ((), ())
    return [
        Plan("text encoder", names[0], source.load_text_encoder, first, table("tokenizer")),
        Plan("text encoder 2", names[1], source.load_text_encoder_2, second, table("tokenizer_2")),
    ]


def _unet(source: Source, settings: LifespanAgingSettings, options: Options) -> list[Plan]:
    tokens = (settings.face_feature is not None) + (settings.rotate_clip is not None)
    side = settings.resolution // settings.vae_scale_factor

    def graph(unet: Any, switch: lora.Switch | None) -> Graph:
        return graphs.LifespanDenoise(unet, settings.resolution, side, source.pooled_width, tokens, switch)

    def switched(unet: Any) -> dict[str, Graph]:
        return {"denoise": graph(unet, lora.make_switched(unet, source.load_lora()))}

    def plain(unet: Any) -> dict[str, Graph]:
        lora.check_fits(unet, source.load_lora())
        return {"denoise": graph(unet, None)}

    def merged(unet: Any) -> dict[str, Graph]:
        lora.merge(unet, source.load_lora())
        return {"denoise_identity": graph(unet, None)}

    def load() -> Any:
        return source.load_unet(options.bundle.resolve().parent)

    if settings.lora == "switch":
        return [Plan("UNet", ("denoise",), load, switched)]
    return [
        Plan("UNet", ("denoise",), load, plain),
        Plan("UNet with LoRA", ("denoise_identity",), load, merged),
    ]


def _clip_normalisation(source: Source) -> tuple[list[float], list[float]]:
    """CLIP's mean and deviation; the resize and the crop must be those that the graph has."""
    path = source.clip / "preprocessor_config.json"
    config = read_config_file(path)
    if config.get("resample", 3) != 3 or config.get("do_normalize", True) is not True:
        raise CheckpointError(f"{path} has another resampling or no normalisation", "CLIP's is bicubic")
    mean, std = config.get("image_mean"), config.get("image_std")
    for key, values in (("image_mean", mean), ("image_std", std)):
        if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, float) for v in values):
            raise CheckpointError(f"{path} sets {key} to {values!r}", "expected three numbers")
    assert mean is not None and std is not None
    return mean, std
