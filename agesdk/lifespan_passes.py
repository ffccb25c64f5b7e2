"""Both passes of lifespan aging for a batch of targets, on the backend's device.

A pass's start goes to the device once and its picture comes back once: latents stay there between steps, and
the first pass's picture goes from the decoder to the encoders that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agesdk.backends import Tensor
from agesdk.diffusion.schedule import Schedule
from agesdk.lifespan_method import reweight_singular_values, rotate_clip
from agesdk.lifespan_model import LifespanModel
from agesdk.lifespan_results import LifespanFace
from agesdk.lifespan_run import PASS_1, PASS_2, LifespanRun, check_same_batch, stacked
from agesdk.timing import Stopwatch
from agesdk.zone_run import Ticker


@dataclass(frozen=True, eq=False)
class Outcome:
    """Of B targets: final and first pictures, uint8 [B, S, S, 3]; the second pass's condition, float32 [B, 1
    or 2, D]; and what the projections got, float32 [B, N]. See `LifespanResult` for what may be None."""

    images: np.ndarray
    first_images: np.ndarray | None
    tokens: np.ndarray
    face_features: np.ndarray | None
    clip_features: np.ndarray | None


class Passes:
    """A batch of targets with the same schedules, ready to `run`.

    Parameters
    ----------
    noise:
        float32 [1, C, h, w] by the names of `LifespanModel.noise_names`; every target gets the same.
    """

    def __init__(
        self,
        model: LifespanModel,
        person: LifespanFace,
        runs: Sequence[LifespanRun],
        noise: Mapping[str, np.ndarray],
        ticker: Ticker,
        watch: Stopwatch,
    ) -> None:
        check_same_batch(runs)
        self._model, self._person, self._runs = model, person, runs
        self._noise, self._ticker, self._watch = noise, ticker, watch
        prompts = [model.prompts.embed(run.prompt, run.target_age, run.gender) for run in runs]
        self._prompts, self._pooled = (np.stack(arrays) for arrays in zip(*prompts))

    def run(self) -> Outcome:
        """Both passes, and the further first passes of four-image SVR between them."""
        model, run = self._model, self._runs[0]
        turned = self._turned_clip()
        latents = self._first_pass(PASS_1, run.schedules[PASS_1])
        aged = self._decode(latents) if run.first_picture else None
        further = [self._decode(self._first_pass(label, schedule)) for label, schedule in run.extra.items()]
        pictures = [] if aged is None else [aged, *further]
        features = face_token_inputs(model, self._person, pictures, len(self._runs), self._watch)
        with self._watch.stage("tokens"):
            tokens = self._tokens(features, turned)
        between = model.to_host(latents) if run.latent_chaining else self._encode(aged)
        final = self._decode(self._denoise(PASS_2, run.schedules[PASS_2], between, tokens))
        first_images = None if aged is None else model.to_host(aged)
        return Outcome(model.to_host(final), first_images, tokens, features, turned)

    def _first_pass(self, label: str, schedule: Schedule) -> Tensor:
        source = self._person.mean + self._person.std * self._noise[f"vae_sample_{label}"]
        return self._denoise(label, schedule, source, self._prompts)

    def _denoise(self, label: str, schedule: Schedule, latents: np.ndarray, condition: np.ndarray) -> Tensor:
        self._ticker.stage = label
        rows = len(self._runs)
        start = schedule.start_latents * latents + schedule.start_noise * self._noise[f"init_noise_{label}"]
        with self._watch.stage(f"denoise_{label}"):
            return self._model.denoise(
                schedule,
                np.ascontiguousarray(np.broadcast_to(start, (rows, *start.shape[1:]))),
                stacked(self._noise, label, schedule, rows),
                condition,
                self._pooled,
                identity=label == PASS_2,
                on_step=self._ticker.advance,
            )

    def _decode(self, latents: Tensor) -> Tensor:
        with self._watch.stage("vae_decoder"):
            images = self._model.decode(latents)
        self._ticker.advance(len(self._runs))
        return images

    def _encode(self, images: Tensor) -> np.ndarray:
        """A draw from the VAE's posterior, float32 [B, C, h, w]."""
        with self._watch.stage("vae_encoder"):
            mean, std = self._model.encode(images)
        self._ticker.advance(len(self._runs))
        return np.asarray(mean + std * self._noise[f"vae_sample_{PASS_2}"])

    def _turned_clip(self) -> np.ndarray | None:
        """Rotate-CLIP for every target, float32 [B, P]; always of the input picture, never of an aged one."""
        mode = self._model.settings.rotate_clip
        if mode is None or self._person.clip_features is None:
            return None
        feature = self._model.prompts.age_feature
        image = self._person.clip_features[0]
        return np.stack(
            [rotate_clip(image, feature(run.source_age), feature(run.target_age), mode) for run in self._runs]
        )

    def _tokens(self, features: np.ndarray | None, turned: np.ndarray | None) -> np.ndarray:
        """The second pass's condition, float32 [B, 1 or 2, D]: face token, CLIP token."""
        tokens = []
        if features is not None:
            tokens.append(self._model.face_tokens(features))
        if turned is not None:
            tokens.append(self._model.clip_tokens(turned))
        return np.stack(tokens, axis=1)


def face_token_inputs(
    model: LifespanModel, person: LifespanFace, pictures: Sequence[Tensor], rows: int, watch: Stopwatch
) -> np.ndarray | None:
    """What the face projection gets, float32 [rows, N]; None if the bundle has no face token.

    ArcFace's feature of the source, with SVR reweighted together with those of the first passes' pictures
    (uint8 [rows, S, S, 3] each, on host or device).
    """
    settings = model.settings
    if settings.face_feature is None:
        return None
    own = person.face_features[settings.face_feature]
    if settings.svr is None:
        return np.repeat(own, rows, axis=0)
    with watch.stage("face_encoder"):
        others = [model.face_features(images)[settings.face_feature] for images in pictures]
    svr = settings.svr
    with watch.stage("svr"):
        return np.stack(
            [
                reweight_singular_values([own[0], *(other[i] for other in others)], svr.alpha, svr.beta)
                for i in range(rows)
            ]
        )
