"""Tiny models with random weights, as torch modules and as the bundles of their graphs, and a real face."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agesdk.bundle import (
    Bundle,
    Component,
    LearnedCondition,
    Manifest,
    RefinerSettings,
    SchedulerSettings,
    TextCondition,
    ZoneAgingDefaults,
    ZoneAgingSettings,
    write_manifest,
)
from agesdk.faces import Face, FaceAnalyzer
from agesdk.faces.zones import ZONE_KINDS
from agesdk.imaging import read_image
from agesdk.zone_aging import ZoneAger

torch = pytest.importorskip("torch")

PORTRAIT = Path(__file__).parents[2] / "agesdk/data/astronaut.jpg"
SCHEDULER = SchedulerSettings()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trace(graph: Any, folder: Path, name: str) -> Component:
    """A component from one of `export.graphs`' modules, by torch's tracer: seconds, not half a minute."""
    path = folder / "components" / name / "model.onnx"
    path.parent.mkdir(parents=True)
    example = graph.eval().draw(graph.example_sizes(), torch.Generator().manual_seed(0))
    axes = {
        spec.name: {i: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in (*graph.inputs, *graph.outputs)
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(path),
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            dynamic_axes=axes,
            opset_version=18,
            dynamo=False,
        )
    files = (path.relative_to(folder).as_posix(),)
    return Component(name, "fp32", files, graph.inputs, graph.outputs, graph.profile)


@dataclass(frozen=True)
class Tiny:
    """Modules by name and the bundle made of them."""

    modules: dict[str, Any]
    bundle: Bundle

    def ager(self, **settings: Any) -> ZoneAger:
        """An ager of the bundle with some settings changed."""
        changed = replace(self.bundle.manifest, settings=replace(self.bundle.settings, **settings))
        return ZoneAger.load(Bundle(self.bundle.path, changed), threads=1)


@pytest.fixture(scope="session")
def sd(tmp_path_factory) -> Tiny:
    """Stable Diffusion's layout in miniature (AutoencoderKL, UNet2DConditionModel, CLIP); plain mode."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    from benchmarks.fullsize import (
        TINY_MERGES,
        clip_vocabulary,
        text_config,
        unet_config,
        vae_config,
        write_tokenizer,
    )
    from export import graphs
    from training.scorenet import ScoreNet, ScoreNetConfig

    torch.manual_seed(3)
    vocabulary = clip_vocabulary(TINY_MERGES)
    modules = {
        "vae": diffusers.AutoencoderKL(**vae_config("tiny")),
        "unet": diffusers.UNet2DConditionModel(**unet_config("tiny")),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**text_config("tiny", len(vocabulary)))
        ),
        "score_net": ScoreNet(ScoreNetConfig(latent_channels=4, channels=(8, 8, 8))),
    }
    for module in modules.values():
        module.eval().requires_grad_(False)
    folder = tmp_path_factory.mktemp("sd")
    write_tokenizer(folder / "tokenizer", TINY_MERGES, vocabulary)
    sides = (128, 192, 256)
    components = [
        trace(graphs.VaeEncoder(modules["vae"], 4, 8, sides), folder, "vae_encoder"),
        trace(graphs.VaeDecoder(modules["vae"], 4, 8, sides), folder, "vae_decoder"),
        trace(graphs.TextEncoder(modules["text_encoder"]), folder, "text_encoder"),
        trace(graphs.Denoise(modules["unet"], 4, (16, 16, 16), (77, 16), False), folder, "denoise"),
        trace(graphs.Denoise(modules["unet"], 4, (16, 24, 32), (77, 16), False), folder, "refiner_denoise"),
        trace(graphs.ScoreNet(modules["score_net"], 4, 16, len(ZONE_KINDS)), folder, "score_net"),
    ]
    settings = ZoneAgingSettings(
        mode="plain",
        latent_channels=4,
        scheduler=SCHEDULER,
        defaults=ZoneAgingDefaults(steps=10, strength=0.3),
        condition=TextCondition(
            {
                "full": "image of {zone} wrinkles with an aging score of {score}%",
                "full_ethnicity": "image of {zone} with a score of {score}% of {ethnicity} ethnicity",
                "zone": "image of {zone}",
            }
        ),
        zones=ZONE_KINDS,
        refiner=RefinerSettings("refiner_denoise", strength=0.1, steps=20, prompt="a human face"),
    )
    return Tiny(modules, _bundle(folder, components, settings))


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Tiny:
    """The small model's layout in miniature: learned condition, conditioned mode, residual paste."""
    from export import graphs
    from training.autoencoder import SmallVAE, SmallVAEConfig
    from training.scorenet import ScoreNet, ScoreNetConfig
    from training.unet import ConditionEncoder, ConditionEncoderConfig, SmallUNet, SmallUNetConfig

    torch.manual_seed(4)
    modules = {
        "vae": SmallVAE(SmallVAEConfig(4, (8, 8), (1, 1), (8, 8, 8), (1, 1, 1))),
        "unet": SmallUNet(SmallUNetConfig(4, 9, (8, 16), 1, 2, 2, 8, 16)),
        "condition_encoder": ConditionEncoder(ConditionEncoderConfig(8, 2, 8, 3)),
        "score_net": ScoreNet(ScoreNetConfig(4, (8, 8, 8))),
    }
    for module in modules.values():
        module.eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("small")
    components = [
        trace(graphs.VaeEncoder(modules["vae"], 4, 8, (128,) * 3), folder, "vae_encoder"),
        trace(graphs.VaeDecoder(modules["vae"], 4, 8, (128,) * 3), folder, "vae_decoder"),
        trace(graphs.ConditionEncoder(modules["condition_encoder"], 8), folder, "condition_encoder"),
        trace(graphs.Denoise(modules["unet"], 4, (16, 16, 16), (2, 8), True), folder, "denoise"),
        trace(graphs.ScoreNet(modules["score_net"], 4, 16, 8), folder, "score_net"),
    ]
    settings = ZoneAgingSettings(
        mode="conditioned",
        paste="residual",
        latent_channels=4,
        scheduler=replace(SCHEDULER, prediction_type="v_prediction", timestep_spacing="trailing"),
        defaults=ZoneAgingDefaults(steps=5, strength=0.8, guidance_scale=3.0),
        condition=LearnedCondition(ZONE_KINDS),
        zones=ZONE_KINDS,
        blur_sigma=7.0,
    )
    return Tiny(modules, _bundle(folder, components, settings))


def _bundle(folder: Path, components: list[Component], settings: ZoneAgingSettings) -> Bundle:
    named = {component.name: component for component in components}
    write_manifest(folder, Manifest("zone-aging", "tiny", "1", named, settings))
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def portrait() -> tuple[np.ndarray, Face]:
    """The packaged portrait, enlarged so that a crop pixel is smaller than a picture pixel, and its face."""
    import cv2

    image = cv2.resize(read_image(PORTRAIT)[:320, :320], (960, 960), interpolation=cv2.INTER_CUBIC)
    return image, FaceAnalyzer.load(threads=1).detect(image)[0]
