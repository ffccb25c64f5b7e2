"""`ZoneAger`: zone-wise aging by latent diffusion.

The method is LDLA's ("Locally Controlled Face Aging with Latent Diffusion Models"): every zone of the face is
cropped, noised part of the way, denoised under a condition that names the zone and the wanted aging score,
and put back; the next zone is taken from the picture so far. Zones that do not overlap run together
(`agesdk.waves`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.errors import TargetError, UsageError
from agesdk.faces.analyzer import FaceAnalyzer, select_face
from agesdk.faces.paste import (
    add_change,
    change_share,
    confine_to_detail,
    detail_width,
    finest_detail,
    matched_change,
    missing_grain,
    restore,
)
from agesdk.faces.types import Face
from agesdk.faces.zones import ZONES, Targets, crop_transform, feather_mask, resolve_targets
from agesdk.imaging import ImageSource, read_picture
from agesdk.refiner import Refiner
from agesdk.timing import Stopwatch
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import PreparedFace, ZoneCrop, complete, denoiser_inputs, score, take_crops
from agesdk.zone_results import AgingResult, ZoneResult
from agesdk.zone_run import Progress, Run, Ticker, resolve

__all__ = ["AgingResult", "PreparedFace", "Progress", "ZoneAger", "ZoneResult"]


class ZoneAger:
    """Ages the zones of a face to target scores; made by `ZoneAger.load`.

    ::

        ager = agesdk.ZoneAger.load()
        face = ager.prepare("portrait.jpg")
        result = ager.age(face, {"forehead": 0.8, "crows_feet": 0.5}, seed=7)
        result.save("older.png")
    """

    def __init__(self, model: ZoneModel, load_analyzer: Callable[[], FaceAnalyzer]) -> None:
        self.model = model
        self._load_analyzer = load_analyzer

    @classmethod
    def load(
        cls,
        bundle: Bundle | str | os.PathLike[str] | None = None,
        backend: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
        precision: str = "auto",
    ) -> ZoneAger:
        """Open a zone-aging bundle.

        Parameters
        ----------
        bundle:
            A bundle or its folder; None opens the embedded one.
        backend, provider, threads:
            Where it runs; see `agesdk.backends.load_engine`.
        precision:
            ``auto``: what the bundle prefers on this device; or ``fp32``, ``fp16``, ``int8`` of every
            component that the bundle carries in it. `AgingResult.settings` says which ran.

        Raises
        ------
        BundleError
            Not a valid zone-aging bundle, or altered.
        BackendError
            The backend or provider is not available; there is no silent fallback.
        UsageError
            No such backend, provider or precision; a provider of a native backend; threads below 1.
        """
        model = ZoneModel.open(bundle, backend, provider, threads, precision)
        return cls(model, lambda: FaceAnalyzer.load(None, backend, provider, threads))

    @cached_property
    def analyzer(self) -> FaceAnalyzer:
        """The embedded face analysis, opened when it is first needed."""
        return self._load_analyzer()

    def prepare(self, image: ImageSource, face: int | Face | None = None) -> PreparedFace:
        """Find the face, take its zones, encode and score them: all that does not depend on targets.

        Parameters
        ----------
        image:
            A path, the bytes of a file, or uint8 [H, W, 3] RGB, which is not copied: leave
            it unchanged while the prepared face is used.
        face:
            Index of the face, largest first; or a `Face` found before. None: see `select_face`.

        Raises
        ------
        ImageError
            The picture can not be read or is beyond the limits.
        FaceError
            No face, no such index, a face too small or turned away.
        """
        watch = Stopwatch()
        with watch.stage("read"):
            picture = read_picture(image)
        if not isinstance(face, Face):
            with watch.stage("face_analysis"):
                face = select_face(self.analyzer.detect(picture.pixels), face)
        settings = self.model.settings
        with watch.stage("crops"):
            crops, skipped = take_crops(picture, face, settings.zones, settings.crop_size)
        scores = score(crops, self.model, watch)
        return PreparedFace(
            picture.pixels, face, scores, skipped, watch.timings(), crops, self.model, picture.icc_profile
        )

    def age(
        self,
        face: PreparedFace,
        targets: Targets,
        *,
        strength: float | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        ethnicity: str | None = None,
        seed: int | None = None,
        noise: Mapping[str, np.ndarray] | None = None,
        refine: bool = False,
        sequential: bool | None = None,
        progress: Progress | None = None,
    ) -> AgingResult:
        """Age the zones to their targets.

        Parameters
        ----------
        face:
            From `prepare`; it can be aged many times.
        targets:
            Aging score in 0..1 by zone ("forehead"), kind ("crows_feet": both sides) or group ("top", "left",
            "all"); the more specific name wins. One number is for all zones. None: the zone stays as it is,
            bit-identical but for its soft rim, whatever a treated neighbour or the refiner does there. A zone
            that is not named is not treated, but a treated neighbour's overlap changes it.
        strength, steps, guidance_scale:
            Image-to-image settings with diffusers' meaning; None takes the bundle's.
        ethnicity:
            Named in the prompt, where the bundle has one that names it; of a learned condition one of the
            ancestries that it knows. At most 200 characters.
        seed:
            Makes the result repeatable; None draws one, which the result tells.
        noise:
            By zone name float32 [N, C, h, w] (and ``"refiner"``), instead of a seed; see
            `ZoneModel.noise_shape`.
        refine:
            Finish with the bundle's refiner over the whole face: all of it but zones set to None may change.
        sequential:
            One zone at a time, in the order of the waves, for comparison: the result is the same.
        progress:
            Called with units done, units in all and the stage. Returning False cancels.

        Raises
        ------
        ZoneError, TargetError, UsageError
            An unknown zone, a number out of range, a combination that makes no sense.
        Cancelled
            The callback returned False; nothing is changed or written.
        """
        watch = Stopwatch()
        if face.model is not self.model:
            raise UsageError("The face was prepared by another ager", fix="Prepare it with this one")
        resolved = resolve_targets(targets)
        wanted = resolved.scores
        run = resolve(face, wanted, strength, steps, guidance_scale, ethnicity, sequential)
        refiner = Refiner(self.model) if refine else None
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
            raise UsageError(f"The seed is {seed!r}, not a whole number")
        if seed is not None and seed < 0:
            raise TargetError(f"The seed {seed} is negative", "", "Give a whole number of 0 or more")
        if noise is None:
            seed = secrets.randbits(32) if seed is None else seed
            noise = self.model.draw_noise(run.schedule, seed)
            if refiner is not None:
                noise["refiner"] = refiner.draw_noise(face.face, seed)
        else:
            if seed is not None:
                raise UsageError("Both a seed and noise were given", fix="Give one of them")
            self.model.check_noise(noise, run.zones, run.schedule)
        units = len(run.zones) * (len(run.schedule.steps) + 2) + (refiner.units if refiner else 0)
        ticker = Ticker(progress, units)

        picture = face.image.copy()
        results: dict[str, ZoneResult] = {}
        for number, wave in enumerate(run.waves):
            ticker.stage = f"wave {number + 1} of {len(run.waves)}"
            aims = [(face.scores[name], wanted[name]) for name in wave]
            crops = [face.crops[name] for name in wave]
            made = self._age_wave(picture, crops, aims, run, noise, ticker, watch, changed=number > 0)
            for name, crop in zip(wave, made):
                results[name] = ZoneResult(face.scores[name], wanted[name], None, None, number, crop)
        if refiner is not None:
            ticker.stage = "refiner"
            refiner.refine(picture, face.face, noise, ticker.advance, watch)
        with watch.stage("paste"):
            _keep(picture, face, resolved.kept)
        after = score({name: face.crops[name].retaken(picture) for name in results}, self.model, watch)
        return AgingResult(
            image=picture,
            zones=_in_order(face, wanted, results, after),
            seed=seed,
            settings=run.described(self.model, resolved, refine),
            timings=watch.timings(),
            icc_profile=face.icc_profile,
        )

    def _age_wave(
        self,
        picture: np.ndarray,
        sources: Sequence[ZoneCrop],
        aims: Sequence[tuple[float, float]],
        run: Run,
        noise: Mapping[str, np.ndarray],
        ticker: Ticker,
        watch: Stopwatch,
        changed: bool,
    ) -> np.ndarray:
        """Age one wave in the picture, in place; what the model made of the crops, uint8 [B, S, S, 3].

        ``aims``: score before and target of each crop. ``changed``: whether the picture is no longer that of
        which the crops were taken.
        """
        settings = self.model.settings
        with watch.stage("crops"):
            crops = [crop.retaken(picture) for crop in sources] if changed else list(sources)
        complete(crops, self.model, watch)
        ticker.advance(len(crops))

        kinds = [crop.zone.kind for crop in crops]
        drawn = np.stack([np.asarray(noise[crop.zone.name], np.float32) for crop in crops], axis=1)
        latents, drawn, extra = denoiser_inputs(crops, drawn, settings)
        with watch.stage("denoise"):
            aged = self.model.age(
                run.schedule,
                kinds,
                [run.condition_scores[crop.zone.name] for crop in crops],
                latents,
                drawn,
                run.guidance_scale,
                run.ethnicity,
                extra,
                ticker.advance,
            )
        with watch.stage("vae_decoder"):
            made = self.model.decode(aged)
        with watch.stage("paste"):
            for crop, result, aim in zip(crops, made, aims):
                mask = crop.paste_mask
                add_change(picture, zone_change(crop, result, *aim, settings, mask), mask, crop.transform)
        ticker.advance(len(crops))
        return made


def zone_change(
    crop: ZoneCrop,
    result: np.ndarray,
    before: float,
    target: float,
    settings: ZoneAgingSettings,
    mask: np.ndarray,
) -> np.ndarray:
    """What is added to a crop when what the model made of it is pasted, float32 [S, S, 3] in levels.

    Parameters
    ----------
    crop:
        Completed.
    result:
        uint8 [S, S, 3].
    before, target:
        Scores in 0..1: the crop's, and the wanted one.
    mask:
        float32 [S, S] in 0..1: how much each pixel may change.
    """
    if crop.round_trip is not None:
        difference = result.astype(np.float32) - crop.round_trip
        if settings.detail_sigma > 0.0:
            difference += finest_detail(crop.pixels, crop.round_trip, before - target)
    else:
        difference = matched_change(result, crop.pixels, mask)
        difference += missing_grain(result, crop.pixels, mask, seed=ZONES.index(crop.zone))
    widths = (settings.detail_sigma, settings.rise_sigma, settings.smooth_skin_rise_sigma)
    sigma = detail_width(before, target, *widths)
    difference = confine_to_detail(difference, crop.pixels, mask, sigma, settings.chroma)
    return difference * change_share(before, target, settings.amplitude, settings.smooth_skin_amplitude)


def _keep(picture: np.ndarray, face: PreparedFace, names: Sequence[str]) -> None:
    """Put zones of the source back into the picture, in place, under their feather masks."""
    for zone in ZONES:
        if zone.name in names:
            restore(picture, face.image, feather_mask(zone), crop_transform(face.face.landmarks, zone))


def _in_order(
    face: PreparedFace,
    wanted: Mapping[str, float],
    results: Mapping[str, ZoneResult],
    after: Mapping[str, float],
) -> dict[str, ZoneResult]:
    """Results of all zones with a target, in table order, with the scores of the finished picture."""
    ordered = {}
    for name, target in wanted.items():
        if name in results:
            made = results[name]
            ordered[name] = ZoneResult(made.score_before, target, after[name], None, made.wave, made.crop)
        else:
            ordered[name] = ZoneResult(face.scores.get(name), target, None, face.skipped[name])
    return ordered
