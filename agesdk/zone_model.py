"""The networks of a zone-aging bundle, called by what they do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agesdk.backends import Engine, Tensor, load_engine, run_batched
from agesdk.backends.base import batch_slices
from agesdk.bundle import Bundle, LearnedCondition, ZoneAgingSettings
from agesdk.diffusion.conditioning import make_conditioning
from agesdk.diffusion.denoiser import denoise
from agesdk.diffusion.schedule import Schedule
from agesdk.errors import BundleError, UsageError
from agesdk.faces.zones import ZONES
from agesdk.precision import EngineSet, Load, all_finite, choose


class ZoneModel:
    """Encoder, decoder, denoiser, condition and ScoreNet; images are uint8, latents scaled.

    Attributes
    ----------
    bundle, settings:
        The bundle and its settings.
    engines:
        The opened components.
    conditioning:
        See `agesdk.diffusion.conditioning`.
    """

    def __init__(self, bundle: Bundle, load: Load) -> None:
        settings = bundle.settings
        if not isinstance(settings, ZoneAgingSettings):
            raise BundleError(
                f"{bundle.path} is not a zone-aging bundle", f"its kind is {bundle.manifest.kind}"
            )
        self.bundle = bundle
        self.settings = settings
        self.engines = EngineSet(bundle, load)
        self.conditioning = make_conditioning(bundle, settings, self.engines.__getitem__)
        for name in ("vae_encoder", "vae_decoder", "denoise", "score_net"):
            self.engines[name]
        condition = settings.condition
        self._zone_order = condition.zones if isinstance(condition, LearnedCondition) else settings.zones
        takes_mask = any(spec.name == "mask" for spec in self.engines["denoise"].inputs)
        if takes_mask != (settings.mode == "conditioned"):
            raise BundleError(
                f"{bundle.path} declares the mode {settings.mode}",
                f"its denoiser {'takes' if takes_mask else 'does not take'} a mask",
                "Export the bundle again",
            )

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | os.PathLike[str] | None = None,
        backend: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
        precision: str = "auto",
    ) -> ZoneModel:
        """Open a zone-aging bundle; see `ZoneAger.load`."""
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle, kind="zone-aging")
        load = functools.partial(load_engine, backend=backend, provider=provider, threads=threads)
        return cls(choose(bundle, precision, backend, provider), load)

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, H, W, 3] to mean and std, float32 [B, C, h, w]."""
        outputs = self.engines.checked(
            "vae_encoder",
            lambda engine: run_batched(engine, {"image": images}),
            lambda outputs: all_finite(*outputs.values()),
        )
        return outputs["mean"], outputs["std"]

    def decode(self, latents: Tensor) -> np.ndarray:
        """float32 [B, C, h, w], on the host or as `denoise` returns them, to uint8 [B, H, W, 3]."""
        return self.engines.decoded(lambda engine: run_batched(engine, {"latents": latents})["image"])

    def scores(self, latents: np.ndarray, kinds: Sequence[str]) -> list[float]:
        """Aging scores in 0..1 of clean latents float32 [B, C, h, w] of zones of the given kinds."""
        index = np.array([self._zone_order.index(kind) for kind in kinds], dtype=np.int64)
        raw = run_batched(self.engines["score_net"], {"latents": latents, "zone": index})["score"]
        curves = self.settings.score_calibration
        return [min(1.0, max(0.0, _along(curves.get(kind), float(value)))) for kind, value in zip(kinds, raw)]

    def condition_score(self, kind: str, target: float, before: float) -> float:
        """The score to give the model so that a crop which has the score ``before`` gets the target score."""
        curves = self.settings.source_calibration.get(kind)
        if curves is None:
            return _along(self.settings.calibration.get(kind), target)
        known = [entry.score for entry in curves]
        return float(np.interp(before, known, [_along(entry.curve, target) for entry in curves]))

    def age(
        self,
        schedule: Schedule,
        kinds: Sequence[str],
        condition_scores: Sequence[float],
        latents: np.ndarray,
        noise: np.ndarray,
        guidance_scale: float,
        ethnicity: str | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Latents of zones moved to scores; arrays as in `agesdk.diffusion.denoiser.denoise`."""
        condition = self.conditioning.full(kinds, condition_scores, ethnicity)
        null = self.conditioning.null(kinds) if guidance_scale > 1.0 else None
        return self.denoise(
            "denoise", schedule, latents, noise, condition, null, guidance_scale, extra, on_step
        )

    def denoise(
        self,
        component: str,
        schedule: Schedule,
        latents: np.ndarray,
        noise: np.ndarray,
        condition: np.ndarray,
        null_condition: np.ndarray | None,
        guidance_scale: float,
        extra: Mapping[str, np.ndarray] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """`agesdk.diffusion.denoiser.denoise` with one of the bundle's denoisers.

        The result is finite, and on the host if the decoder does not take all of it at once.
        """

        def run(engine: Engine) -> Tensor:
            nonlocal on_step
            report, on_step = on_step, None  # what is repeated in fp32 is not reported twice
            return denoise(
                engine, schedule, latents, noise, condition, null_condition, guidance_scale, extra, report
            )

        def is_sound(made: Tensor) -> bool:
            # float32 does not overflow here, and to look would cost a copy from the device.
            exact = self.engines.bundle.component(component).precision == "fp32"
            on_device = not isinstance(made, np.ndarray)
            return (exact and on_device) or all_finite(self.engines[component].to_host(made))

        made = self.engines.checked(component, run, is_sound)
        whole = len(batch_slices(self.engines["vae_decoder"], len(latents))) == 1
        return made if whole else self.engines[component].to_host(made)

    def noise_shape(self, schedule: Schedule) -> tuple[int, int, int, int]:
        """Shape [N, C, h, w] of one zone's noise.

        In plain mode the first of the N arrays draws the latent from the VAE's posterior; then follow the
        noise of the start and that of the steps which take some, in their order.
        """
        side = self.settings.crop_size // self.settings.vae_scale_factor
        count = int(self.settings.mode == "plain") + 1 + schedule.noisy_steps
        return (count, self.settings.latent_channels, side, side)

    def draw_noise(self, schedule: Schedule, seed: int) -> dict[str, np.ndarray]:
        """float32 noise by zone name: one draw [zones, N, C, h, w] of numpy's default generator.

        The zones are those of the table that the bundle knows, in table order, treated or not, so a zone's
        noise does not depend on what is done to others. It lies in the frame of the model, where right-side
        zones are mirrored.
        """
        names = [zone.name for zone in ZONES if zone.kind in self.settings.zones]
        shape = (len(names), *self.noise_shape(schedule))
        drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        return dict(zip(names, drawn))

    def check_noise(self, noise: Mapping[str, np.ndarray], names: Sequence[str], schedule: Schedule) -> None:
        """Raise `UsageError` where a zone's noise is missing or has another shape than `noise_shape`."""
        wanted = self.noise_shape(schedule)
        for name in names:
            if name not in noise:
                raise UsageError(
                    f"The noise of the zone {name} is missing", fix="Pass it, or pass a seed instead"
                )
            shape = np.shape(noise[name])
            if shape != wanted:
                raise UsageError(f"The noise of the zone {name} has the shape {shape}", f"{wanted} is needed")


def _along(curve: Sequence[tuple[float, float]] | None, value: float) -> float:
    """The value on a piecewise-linear curve, constant beyond its ends; unchanged if there is no curve."""
    if curve is None:
        return value
    x, y = np.array(curve, dtype=np.float64).T
    return float(np.interp(value, x, y))
