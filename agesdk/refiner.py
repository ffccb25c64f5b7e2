"""The refiner: a last, very weak image-to-image pass over the whole face, which LDLA uses to harmonise the
zones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from agesdk.diffusion.conditioning import TextConditioning
from agesdk.diffusion.schedule import make_schedule
from agesdk.errors import BundleError, UsageError
from agesdk.faces.frames import extract_crop, make_frame
from agesdk.faces.paste import add_change, matched_change
from agesdk.faces.types import Face
from agesdk.faces.zones import landmarks_in_crop
from agesdk.timing import Stopwatch
from agesdk.zone_model import ZoneModel

_MARGIN = 1.5
"""Side of the refined square in sizes of the face."""

_SIDE_STEP = 64
"""The square's side in pixels is a multiple of this: UNets halve latents of 8 pixels three times."""


class Refiner:
    """The bundle's refiner, ready to run; raises `UsageError` where the bundle has none."""

    def __init__(self, model: ZoneModel) -> None:
        settings = model.settings.refiner
        if settings is None:
            raise UsageError(f"The bundle {model.bundle.path} has no refiner", fix="Leave refine out")
        if not isinstance(model.conditioning, TextConditioning):
            raise BundleError(
                f"The refiner of {model.bundle.path} needs a prompt", "the bundle has no text encoder"
            )
        self._model = model
        self._settings = settings
        self._conditioning = model.conditioning
        self._engine = model.engines[settings.component]
        self._schedule = make_schedule(model.settings.scheduler, settings.steps, settings.strength)

    @property
    def units(self) -> int:
        """Units of progress of one run."""
        return len(self._schedule.steps)

    def draw_noise(self, face: Face, seed: int) -> np.ndarray:
        """float32 [N, C, h, w] for this face: the posterior's, the start's, then that of the steps."""
        shape = self._noise_shape(self._side(face))
        return np.random.default_rng([seed, 1]).standard_normal(shape, dtype=np.float32)

    def refine(
        self,
        picture: np.ndarray,
        face: Face,
        noise: Mapping[str, np.ndarray],
        on_step: Callable[[int], None],
        watch: Stopwatch,
    ) -> None:
        """Refine the face in the picture, uint8 [H, W, 3], in place; ``noise["refiner"]`` as `draw_noise`."""
        side = self._side(face)
        drawn = self._checked(noise, side)
        with watch.stage("refiner"):
            frame = _face_frame(face, side)
            source = extract_crop(picture, frame, side)
            mean, std = self._model.encode(source[None])
            latents = mean + std * drawn[0]
            scale = self._settings.guidance_scale
            refined = self._model.denoise(
                self._settings.component,
                self._schedule,
                latents,
                drawn[1:, None],
                self._conditioning.prompts([self._settings.prompt]),
                self._conditioning.prompts([""]) if scale > 1.0 else None,
                scale,
                on_step=on_step,
            )
            result = self._model.decode(refined)[0]
            reference = self._model.decode(mean)[0] if self._model.settings.paste == "residual" else source
            mask = _face_mask(landmarks_in_crop(face.landmarks, frame), side)
            add_change(picture, matched_change(result, reference, mask), mask, frame)

    def _checked(self, noise: Mapping[str, np.ndarray], side: int) -> np.ndarray:
        wanted = self._noise_shape(side)
        if "refiner" not in noise or np.shape(noise["refiner"]) != wanted:
            raise UsageError(
                "The noise of the refiner is missing or has another shape", f"{wanted} is needed at 'refiner'"
            )
        return np.asarray(noise["refiner"], np.float32)

    def _noise_shape(self, side: int) -> tuple[int, int, int, int]:
        settings = self._model.settings
        latent = side // settings.vae_scale_factor
        return (2 + self._schedule.noisy_steps, settings.latent_channels, latent, latent)

    def _side(self, face: Face) -> int:
        """Side of the refined square: the face's own resolution, within what the refiner takes at ease."""
        axis = self._engine.inputs[0].shape[2]
        factor = self._model.settings.vae_scale_factor
        if isinstance(axis, int):
            return axis * factor
        low, usual, _ = (side * factor for side in self._engine.profile[axis])
        wanted = round(_MARGIN * face.size / _SIDE_STEP) * _SIDE_STEP
        return int(min(max(wanted, low), usual))


def _face_frame(face: Face, side: int) -> np.ndarray:
    """The upright square around the face, float64 [2, 3], its pixels to the picture's."""
    points = face.landmarks[:, :2].astype(np.float64)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return make_frame(centre, _MARGIN * face.size, side, np.deg2rad(face.pose.roll))


def _face_mask(landmarks: np.ndarray, side: int) -> np.ndarray:
    """float32 [side, side]: 1 inside the face, falling to 0 at its outline."""
    hull = cv2.convexHull(landmarks.astype(np.float32))[:, 0]
    inside = cv2.fillPoly(np.zeros((side, side), np.uint8), [np.round(hull).astype(np.int32)], 1)
    inside[[0, -1]] = 0
    inside[:, [0, -1]] = 0
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip(np.asarray(distance, np.float32) / (0.08 * side), 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ramp), np.float32)
