"""The networks of a lifespan-aging bundle, called by what they do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from agesdk.backends import Engine, Tensor, load_engine, run_batched
from agesdk.bundle import Bundle, LifespanAgingSettings
from agesdk.diffusion.denoiser import run_steps
from agesdk.diffusion.schedule import Schedule
from agesdk.errors import BundleError, UsageError
from agesdk.lifespan_prompts import PromptEncoders, Prompts, PromptTables
from agesdk.precision import EngineSet, Load, all_finite, choose

IDENTITY_ENCODERS = ("face_encoder", "clip_image_encoder")
"""What a face needs once, when it is prepared."""

ClipPixelRange = Literal["0..1", "0..255"]


class LifespanModel:
    """Components opened when they are first used; images are uint8, latents scaled.

    Attributes
    ----------
    bundle, settings:
        The bundle and its settings.
    engines:
        The opened components.
    prompts:
        See `agesdk.lifespan_prompts`.
    """

    def __init__(self, bundle: Bundle, load: Load, text: Literal["tables", "graphs"] | None = None) -> None:
        settings = bundle.settings
        if not isinstance(settings, LifespanAgingSettings):
            raise BundleError(
                f"{bundle.path} is not a lifespan-aging bundle", f"its kind is {bundle.manifest.kind}"
            )
        self.bundle = bundle
        self.settings = settings
        self.engines = EngineSet(bundle, load)
        for name in self._needed():
            bundle.component(name)
        self.prompts = self._make_prompts(text)

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | os.PathLike[str],
        backend: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
        text: Literal["tables", "graphs"] | None = None,
        precision: str = "auto",
    ) -> LifespanModel:
        """Open a lifespan-aging bundle; see `LifespanAger.load`."""
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, kind="lifespan-aging")
        load = functools.partial(load_engine, backend=backend, provider=provider, threads=threads)
        return cls(choose(bundle, precision, backend, provider), load, text)

    def engine(self, name: str) -> Engine:
        """A component, opened now if it is not."""
        return self.engines[name]

    def release(self, *names: str) -> None:
        """Let components leave memory; they are opened again when they are needed."""
        self.engines.release(*names)

    def encode(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, S, S, 3], on the host or as `decode` returns them, to mean and std, float32 [B, C, h,
        w]."""
        outputs = self.engines.checked(
            "vae_encoder",
            lambda engine: run_batched(engine, {"image": images}),
            lambda outputs: all_finite(*outputs.values()),
        )
        return outputs["mean"], outputs["std"]

    def face_features(self, images: Tensor) -> dict[str, np.ndarray]:
        """ArcFace of uint8 [B, S, S, 3], on the host or as `decode` returns them: embedding float32 [B, 512],
        and hidden_state [B, 25088] if the bundle projects that."""
        return run_batched(self.engine("face_encoder"), {"image": images})

    def clip_features(self, images: np.ndarray, pixel_range: ClipPixelRange) -> np.ndarray:
        """CLIP of uint8 [B, S, S, 3]: float32 [B, P], not normalised."""
        scale = np.full(len(images), 1.0 if pixel_range == "0..255" else 1.0 / 255.0, np.float32)
        return run_batched(self.engine("clip_image_encoder"), {"image": images, "pixel_scale": scale})[
            "features"
        ]

    def face_tokens(self, features: np.ndarray) -> np.ndarray:
        """float32 [B, 512 or 25088] to tokens [B, D]."""
        return run_batched(self.engine("face_projection"), {"features": features})["token"]

    def clip_tokens(self, features: np.ndarray) -> np.ndarray:
        """float32 [B, P] to tokens [B, D]."""
        return run_batched(self.engine("clip_projection"), {"features": features})["token"]

    def denoise(
        self,
        schedule: Schedule,
        start: np.ndarray,
        fresh: np.ndarray,
        hidden_states: np.ndarray,
        pooled: np.ndarray,
        identity: bool,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """One pass over a batch; clean latents float32 [B, C, h, w] stay on the device, for `decode`.

        Parameters
        ----------
        start:
            float32 [B, C, h, w]: noised latents; the other arrays have B rows too, ``fresh`` in its second
            axis.
        identity:
            The second pass: with LoRA.
        """
        part = {"encoder_hidden_states": hidden_states, "text_embeds": pooled}
        name = "denoise"
        if self.settings.lora == "switch":
            part["lora_scale"] = np.full(len(start), float(identity), np.float32)
        elif identity:
            name = "denoise_identity"

        def run(engine: Engine) -> Tensor:
            nonlocal on_step
            report, on_step = on_step, None  # what is repeated in fp32 is not reported twice
            return run_steps(engine, schedule, start, fresh, part, on_step=report)

        def is_sound(latents: Tensor) -> bool:
            # float32 does not overflow here, and to look would cost a copy from the device.
            exact = self.engines.bundle.component(name).precision == "fp32"
            return exact or all_finite(self.to_host(latents))

        return self.engines.checked(name, run, is_sound)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as `denoise` returns them to uint8 [B, S, S, 3], which stay on the device."""
        return self.engines.decoded(lambda engine: engine.run({"latents": latents})["image"])

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """What `denoise` or `decode` returned, as an array."""
        return self.engine("denoise").to_host(tensor)

    def largest_batch(self) -> int:
        """The most pictures that every component of both passes takes at once."""
        names = ["vae_encoder", "denoise", "vae_decoder"]
        if self.settings.svr is not None:
            names.append("face_encoder")
        return min(self.bundle.component(name).profile["batch"][2] for name in names)

    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w]."""
        side = self.settings.resolution // self.settings.vae_scale_factor
        return self.settings.latent_channels, side, side

    def noise_names(self, schedules: Mapping[str, Schedule]) -> list[str]:
        """Names of the noise arrays, each float32 [1, C, h, w], that passes with these schedules need.

        ``vae_sample_PASS`` draws from the VAE's posterior, ``init_noise_PASS`` starts the pass, and
        ``ancestral_PASS_stepN`` is added after step N; the last step takes none.
        """
        return [
            name
            for label, schedule in schedules.items()
            for name in (
                f"vae_sample_{label}",
                f"init_noise_{label}",
                *(f"ancestral_{label}_step{i}" for i, step in enumerate(schedule.steps) if step.c_noise),
            )
        ]

    def check_noise(
        self, noise: Mapping[str, np.ndarray], schedules: Mapping[str, Schedule]
    ) -> dict[str, np.ndarray]:
        """The arrays that are needed, float32 [1, C, h, w]; `UsageError` where one is missing or
        misshapen."""
        shape = (1, *self.latent_shape())
        checked = {}
        for name in self.noise_names(schedules):
            if name not in noise:
                raise UsageError(f"The noise {name} is missing", fix="Pass it, or pass a seed instead")
            array = np.asarray(noise[name], np.float32)
            if array.shape not in (shape, shape[1:]) or not np.isfinite(array).all():
                raise UsageError(
                    f"The noise {name} is not finite or has the shape {array.shape}", f"{shape} is needed"
                )
            checked[name] = array.reshape(shape)
        return checked

    def _needed(self) -> list[str]:
        names = ["vae_encoder", "denoise", "vae_decoder"]
        if self.settings.lora == "fused":
            names.append("denoise_identity")
        if self.settings.face_feature is not None:
            names += ["face_encoder", "face_projection"]
        if self.settings.rotate_clip is not None:
            names += ["clip_image_encoder", "clip_projection"]
        if self.settings.text_encoders:
            names += ["text_encoder", "text_encoder_2"]
            if self.settings.rotate_clip is not None:
                names.append("clip_text_encoder")
        return names

    def _make_prompts(self, text: Literal["tables", "graphs"] | None) -> Prompts:
        has_tables, has_graphs = self.settings.ages is not None, self.settings.text_encoders
        if text == "graphs" and not has_graphs:
            raise BundleError(f"{self.bundle.path} has no text encoders", fix="Export it with --text both")
        if text == "tables" and not has_tables:
            raise BundleError(f"{self.bundle.path} has no prompt tables", fix="Export it with --text both")
        if text == "graphs" or not has_tables:
            # Not `self.engine`: a cycle would keep gigabytes until the garbage collector comes by.
            return PromptEncoders(self.bundle, self.engines.__getitem__)
        return PromptTables(self.bundle, self.settings)
