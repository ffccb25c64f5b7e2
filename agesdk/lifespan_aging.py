"""`LifespanAger`: a face at any age, by two passes of few-step image-to-image.

The method is Cradle2Cane's ("From Cradle to Cane", NeurIPS 2025) on SDXL-turbo. The first pass reaches the
age: its strength grows with the age gap (AdaNI). The second restores the identity: with LoRA on, and
conditioned by two identity tokens (SVR-ArcFace and Rotate-CLIP) instead of the prompt.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from agesdk.bundle import Bundle
from agesdk.errors import TargetError, UsageError
from agesdk.faces.align import aligned, ffhq_transform
from agesdk.faces.analyzer import FaceAnalyzer, select_face
from agesdk.faces.types import Face
from agesdk.imaging import ImageSource, read_picture
from agesdk.lifespan_blend import blend
from agesdk.lifespan_model import IDENTITY_ENCODERS, ClipPixelRange, LifespanModel
from agesdk.lifespan_passes import Passes
from agesdk.lifespan_results import Identity, LifespanFace, LifespanResult
from agesdk.lifespan_run import LifespanRun, Overrides, draw_noise, resolve
from agesdk.resample import centred_square, centred_transform, resize
from agesdk.timing import Stopwatch
from agesdk.zone_run import Progress, Ticker

__all__ = ["Identity", "LifespanAger", "LifespanFace", "LifespanResult"]


class LifespanAger:
    """Takes a face to another age; made by `LifespanAger.load`.

    ::

        ager = agesdk.LifespanAger.load("bundles/cradle2cane")
        person = ager.prepare("portrait.jpg")
        result = ager.age(person, source_age=31, target_age=70, gender="female", seed=7)
        result.save("seventy.png")
    """

    def __init__(
        self, model: LifespanModel, load_analyzer: Callable[[], FaceAnalyzer], low_memory: bool = False
    ) -> None:
        self.model = model
        self.low_memory = low_memory
        self._load_analyzer = load_analyzer

    @classmethod
    def load(
        cls,
        bundle: Bundle | str | os.PathLike[str],
        backend: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
        text: Literal["tables", "graphs"] | None = None,
        low_memory: bool = False,
        precision: str = "auto",
    ) -> LifespanAger:
        """Open a lifespan-aging bundle; its components are loaded when they are first used.

        Parameters
        ----------
        bundle:
            A bundle or its folder.
        backend, provider, threads:
            Where it runs; see `agesdk.backends.load_engine`.
        text:
            Where prompt embeddings come from: the bundle's tables or its text encoders (which free prompts
            and additions need). None takes the tables if there are any.
        low_memory:
            The identity encoders leave memory when a face is prepared or aged, and are loaded again when they
            are needed.
        precision:
            As of `ZoneAger.load`.

        Raises
        ------
        BundleError
            Not a valid lifespan-aging bundle, or altered, or without what ``text`` asks for.
        BackendError
            The backend or provider is not available; there is no silent fallback.
        UsageError
            No such backend, provider or precision; a provider of a native backend; threads below 1.
        """
        model = LifespanModel.open(bundle, backend, provider, threads, text, precision)
        return cls(model, lambda: FaceAnalyzer.load(None, backend, provider, threads), low_memory)

    @cached_property
    def analyzer(self) -> FaceAnalyzer:
        """The embedded face analysis, opened when it is first needed."""
        return self._load_analyzer()

    def prepare(
        self,
        image: ImageSource,
        align: bool = False,
        face: int | Face | None = None,
        clip_pixel_range: ClipPixelRange | None = None,
    ) -> LifespanFace:
        """Take the square to age, and compute once what depends on the person only.

        Parameters
        ----------
        image:
            A path, the bytes of a file, or uint8 [H, W, 3] RGB.
        align:
            Find the face and take an FFHQ-style square around it, level. Without it the square is the middle
            of the picture, as published, and nothing looks for a face.
        face:
            With ``align``: index of the face, largest first, or a `Face` found before; None: see
            `select_face`.
        clip_pixel_range:
            The range of pixels that CLIP sees; None takes the bundle's.

        Raises
        ------
        ImageError
            The picture can not be read or is beyond the limits.
        FaceError
            With ``align``: no face, no such index, a face too small or turned away.
        """
        watch = Stopwatch()
        settings = self.model.settings
        with watch.stage("read"):
            picture = read_picture(image.copy() if isinstance(image, np.ndarray) else image)
        if face is not None and not align:
            raise UsageError("A face was chosen without align", fix="Pass align=True")
        with watch.stage("crop"):
            if align and not isinstance(face, Face):
                face = select_face(self.analyzer.detect(picture.pixels), face)
            found = face if isinstance(face, Face) else None
            square, transform = _square(picture.pixels, found, settings.resolution)
        batch = square[None]
        with watch.stage("vae_encoder"):
            mean, std = self.model.encode(batch)
        face_features: dict[str, np.ndarray] = {}
        if settings.face_feature is not None:
            with watch.stage("face_encoder"):
                face_features = self.model.face_features(batch)
        pixel_range = settings.clip_pixel_range if clip_pixel_range is None else clip_pixel_range
        clip_features = None
        if settings.rotate_clip is not None:
            with watch.stage("clip_image_encoder"):
                clip_features = self.model.clip_features(batch, pixel_range)
        if self.low_memory:
            self.model.release(*IDENTITY_ENCODERS)
        return LifespanFace(
            square,
            picture.pixels,
            transform,
            found,
            mean,
            std,
            face_features,
            clip_features,
            pixel_range,
            watch.timings(),
            self.model,
            picture.icc_profile,
        )

    def age(
        self,
        person: LifespanFace,
        source_age: float,
        target_age: float,
        gender: str,
        *,
        seed: int | None = None,
        noise: Mapping[str, np.ndarray] | None = None,
        strength: float | None = None,
        identity_strength: float | None = None,
        steps: int | None = None,
        thresholds: tuple[float, float] | None = None,
        one_threshold: bool | None = None,
        addition: str | None = None,
        prompt: str | None = None,
        latent_chaining: bool = False,
        progress: Progress | None = None,
    ) -> LifespanResult:
        """The person at another age.

        Parameters
        ----------
        person:
            From `prepare`; it can be aged many times.
        source_age, target_age:
            Whole years. The age gap decides the strength of the first pass.
        gender:
            One of the bundle's (``female``, ``male``), for the prompt.
        seed:
            Makes the result repeatable; None draws one, which the result tells.
        noise:
            float32 [1, C, h, w] by name, instead of a seed; see `LifespanModel.noise_names`.
        strength, identity_strength, steps:
            Of the first and the second pass, with diffusers' meaning; None takes AdaNI's and the bundle's.
        thresholds, one_threshold:
            AdaNI's t1 and t2 in years, and whether t2 counts; None takes the bundle's.
        addition:
            Appended to the prompt after a comma (``"wearing glasses"``); needs text encoders, and raises the
            strength to the bundle's for additions.
        prompt:
            A free prompt instead of the bundle's; needs text encoders.
        latent_chaining:
            The second pass starts from the first one's latents: no decoding, rounding and encoding between
            them. Not the published method.
        progress:
            Called with units done, units in all and the stage. Returning False cancels.

        Raises
        ------
        TargetError, UsageError
            An age outside the bundle's, an unknown gender, a number out of range, a prompt without encoders.
        Cancelled
            The callback returned False.
        """
        wanted = Overrides(
            strength, identity_strength, steps, thresholds, one_threshold, addition, prompt, latent_chaining
        )
        self._check_person(person)
        run = resolve(self.model, source_age, target_age, gender, wanted)
        if noise is not None and seed is not None:
            raise UsageError("Both a seed and noise were given", fix="Give one of them")
        seed = _checked_seed(seed) if noise is None else None
        ticker = Ticker(progress, run.units)
        return self._age(person, [run], seed, noise, ticker)[0]

    def sweep(
        self,
        person: LifespanFace,
        source_age: float,
        ages: Iterable[float],
        gender: str,
        *,
        seed: int | None = None,
        batch: int = 1,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Iterator[LifespanResult]:
        """The person at many ages, with the same noise, one result after the other, in the order of ``ages``.

        Parameters
        ----------
        batch:
            The most pictures made at once; neighbours of one strength share a batch. More than 1 pays off on
            a GPU, and takes that much more memory.
        settings:
            As of `age`, but for ``noise``.

        Raises
        ------
        TargetError, UsageError
            As of `age`, for any of the ages, before the first is made.
        """
        if batch < 1:
            raise UsageError(f"A batch of {batch} is too small", fix="Give 1 or more")
        self._check_person(person)
        wanted = Overrides(**settings)
        runs = [resolve(self.model, source_age, age, gender, wanted) for age in ages]
        for run in runs:
            self._check_texts(run)
        seed = _checked_seed(seed)
        ticker = Ticker(progress, sum(run.units for run in runs))
        parts = _parts(runs, min(batch, self.model.largest_batch()))
        return (result for part in parts for result in self._age(person, part, seed, None, ticker))

    def blend(self, result: LifespanResult, face: int | None = None) -> np.ndarray:
        """The whole photograph with the face aged, uint8 [H, W, 3]: seam-free, in the photograph's colours.

        Parameters
        ----------
        face:
            Index of the face, largest first; None takes that which the square was aligned to, else as
            `select_face` does.

        Raises
        ------
        FaceError
            No face, no such index, a face too small or turned away.
        """
        person = result.person
        found = person.face
        if found is None or face is not None:
            found = select_face(self.analyzer.detect(person.picture), face)
        return blend(person.picture, person.image, result.image, person.transform, found.landmarks)

    def _age(
        self,
        person: LifespanFace,
        runs: Sequence[LifespanRun],
        seed: int | None,
        given: Mapping[str, np.ndarray] | None,
        ticker: Ticker,
    ) -> list[LifespanResult]:
        """Both passes for a batch of targets with the same strengths."""
        model, watch = self.model, Stopwatch()
        if given is None:
            assert seed is not None
            noise = draw_noise(model, runs[0], seed)
        else:
            noise = model.check_noise(given, runs[0].noise_schedules)
        outcome = Passes(model, person, runs, noise, ticker, watch).run()
        if self.low_memory:
            model.release(*IDENTITY_ENCODERS)
        timings = watch.timings()
        return [
            LifespanResult(
                image=outcome.images[i],
                first_pass_image=_row(outcome.first_images, i),
                source_age=run.source_age,
                target_age=run.target_age,
                gender=run.gender,
                seed=seed,
                settings={**run.described(model), "clip_pixel_range": person.clip_pixel_range},
                timings=timings,
                tokens=outcome.tokens[i],
                face_token_input=_row(outcome.face_features, i),
                clip_embedding=_row(outcome.clip_features, i),
                person=person,
            )
            for i, run in enumerate(runs)
        ]

    def _check_texts(self, run: LifespanRun) -> None:
        """Raise where the bundle has no prompt or age text for the run."""
        self.model.prompts.embed(run.prompt, run.target_age, run.gender)
        if self.model.settings.rotate_clip is not None:
            self.model.prompts.age_feature(run.source_age)
            self.model.prompts.age_feature(run.target_age)

    def _check_person(self, person: LifespanFace) -> None:
        if person.model is not self.model:
            raise UsageError("The face was prepared by another ager", fix="Prepare it with this one")


def _square(pixels: np.ndarray, face: Face | None, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The square to age, uint8 [side, side, 3], and the map from its pixels to the picture's, float64 [2,
    3]."""
    if face is not None:
        transform = ffhq_transform(face.landmarks, side)
        return aligned(pixels, transform, side), transform
    return resize(centred_square(pixels), side), centred_transform(pixels.shape[:2], side)


def _parts(runs: Sequence[LifespanRun], batch: int) -> list[list[LifespanRun]]:
    """Consecutive runs with the same schedules, at most ``batch`` together."""
    parts: list[list[LifespanRun]] = []
    for run in runs:
        last = parts[-1] if parts else None
        if last and len(last) < batch and last[0].schedules == run.schedules and last[0].extra == run.extra:
            last.append(run)
        else:
            parts.append([run])
    return parts


def _row(rows: np.ndarray | None, index: int) -> np.ndarray | None:
    return None if rows is None else rows[index]


def _checked_seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise UsageError(f"The seed is {seed!r}, not a whole number")
    if seed < 0:
        raise TargetError(f"The seed {seed} is negative", "", "Give a whole number of 0 or more")
    return seed
