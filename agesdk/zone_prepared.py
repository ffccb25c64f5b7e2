"""A face made ready for aging: its zones' crops and everything that does not depend on the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from agesdk.bundle import ZoneAgingSettings
from agesdk.faces.frames import extract_crop, to_image
from agesdk.faces.skin import SkinTone, blur_inside, skin_mask, skin_tone
from agesdk.faces.types import Face
from agesdk.faces.zones import ZONES, Zone, crop_transform, feather_mask, landmarks_in_crop
from agesdk.imaging import Picture
from agesdk.timing import StageTimings, Stopwatch
from agesdk.zone_model import ZoneModel

MIN_INSIDE = 0.5
"""Least share of a zone that must lie in the picture."""

MIN_SKIN = 0.15
"""Least share of a zone that must show bare skin."""


@dataclass(eq=False)
class ZoneCrop:
    """A zone's crop in one state of the picture, and what was computed of it (None until it is needed).

    Attributes
    ----------
    transform:
        float64 [2, 3], crop pixels to image pixels; mirrors right-side zones.
    pixels:
        uint8 [S, S, 3] RGB.
    skin:
        float32 [S, S], share of bare skin, of the source picture.
    mean, std:
        float32 [C, h, w], the VAE's posterior, scaled.
    masked_latents:
        float32 [C, h, w]: the latent of the crop with its skin blurred (conditioned mode).
    round_trip:
        uint8 [S, S, 3]: the crop through the autoencoder (residual paste).
    """

    zone: Zone
    transform: np.ndarray
    pixels: np.ndarray
    skin: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    masked_latents: np.ndarray | None = None
    round_trip: np.ndarray | None = None

    @property
    def paste_mask(self) -> np.ndarray:
        """float32 [S, S]: how much each pixel may change: the zone's feather, where there is skin."""
        return np.asarray(self.skin * feather_mask(self.zone, len(self.pixels)))

    def retaken(self, picture: np.ndarray) -> ZoneCrop:
        """The same crop of a later state of the picture: itself, with all that is known, if nothing changed
        in it.
        """
        pixels = extract_crop(picture, self.transform, len(self.pixels))
        if np.array_equal(pixels, self.pixels):
            return self
        return replace(self, pixels=pixels, mean=None, std=None, masked_latents=None, round_trip=None)


@dataclass(eq=False)
class PreparedFace:
    """A face that can be aged many times; made by `ZoneAger.prepare`.

    Attributes
    ----------
    image:
        uint8 [H, W, 3] RGB, the source; not to be changed.
    face:
        The detected face.
    scores:
        Aging score in 0..1 by zone, from the bundle's ScoreNet.
    skipped:
        Why by zone, for the zones that can not be treated.
    timings:
        Seconds by stage of the preparation.
    """

    image: np.ndarray
    face: Face
    scores: dict[str, float]
    skipped: dict[str, str]
    timings: StageTimings
    crops: dict[str, ZoneCrop]
    model: ZoneModel
    icc_profile: bytes | None = None


def take_crops(
    picture: Picture, face: Face, kinds: Sequence[str], size: int
) -> tuple[dict[str, ZoneCrop], dict[str, str]]:
    """The crops of all zones of the given kinds, and why some have none."""
    image = picture.pixels
    tone = skin_tone(image, face.landmarks)
    crops: dict[str, ZoneCrop] = {}
    skipped: dict[str, str] = {}
    for zone in ZONES:
        if zone.kind not in kinds:
            skipped[zone.name] = "the bundle's model does not know this zone"
            continue
        crop = _take(image, face, zone, tone, size)
        feather = feather_mask(zone, size)
        total = float(feather.sum())
        inside = float((feather * _inside(crop.transform, size, image.shape)).sum()) / total
        skin = float(crop.paste_mask.sum()) / total
        if inside < MIN_INSIDE:
            skipped[zone.name] = f"only {100 * inside:.0f} % of it lies in the picture"
        elif skin < MIN_SKIN:
            skipped[zone.name] = f"only {100 * skin:.0f} % of it is bare skin: covered or out of sight"
        else:
            crops[zone.name] = crop
    return crops, skipped


def complete(
    crops: Sequence[ZoneCrop], model: ZoneModel, watch: Stopwatch, scores_only: bool = False
) -> None:
    """Compute what is missing in the crops, everything of a kind in one batch.

    ``scores_only`` stops at what ScoreNet needs.
    """
    conditioned = model.settings.mode == "conditioned" and not scores_only
    residual = model.settings.paste == "residual" and not scores_only
    plain = [crop for crop in crops if crop.mean is None]
    blurred = [crop for crop in crops if conditioned and crop.masked_latents is None]
    if plain or blurred:
        sigma = model.settings.blur_sigma
        pictures = [crop.pixels for crop in plain]
        pictures += [blur_inside(crop.pixels, crop.skin, sigma) for crop in blurred]
        with watch.stage("vae_encoder"):
            mean, std = model.encode(np.stack(pictures))
        for crop, crop_mean, crop_std in zip(plain, mean, std):
            crop.mean, crop.std = crop_mean, crop_std
        for crop, crop_mean in zip(blurred, mean[len(plain) :]):
            crop.masked_latents = crop_mean
    undecoded = [crop for crop in crops if residual and crop.round_trip is None]
    if undecoded:
        with watch.stage("vae_decoder"):
            decoded = model.decode(np.stack([_known(crop.mean) for crop in undecoded]))
        for crop, image in zip(undecoded, decoded):
            crop.round_trip = image


def denoiser_inputs(
    crops: Sequence[ZoneCrop], drawn: np.ndarray, settings: ZoneAgingSettings
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """What the denoiser starts from, of completed crops.

    Parameters
    ----------
    drawn:
        float32 [N, B, C, h, w]: the crops' noise, see `ZoneModel.noise_shape`.

    Returns
    -------
    (latents, noise, extra)
        float32 [B, C, h, w]; float32 [N or N - 1, B, C, h, w], without what drew the latents from the VAE's
        posterior; and the inputs of conditioned mode.
    """
    latents = np.stack([_known(crop.mean) for crop in crops])
    if settings.mode == "plain":
        std = np.stack([_known(crop.std) for crop in crops])
        return latents + std * drawn[0], drawn[1:], {}
    masked = np.stack([_known(crop.masked_latents) for crop in crops])
    mask = np.stack([latent_mask(crop.skin, settings.vae_scale_factor) for crop in crops])
    return latents, drawn, {"masked_latents": masked, "mask": mask}


def score(crops: Mapping[str, ZoneCrop], model: ZoneModel, watch: Stopwatch) -> dict[str, float]:
    """Aging scores in 0..1 by zone."""
    if not crops:
        return {}
    complete(list(crops.values()), model, watch, scores_only=True)
    with watch.stage("score_net"):
        latents = np.stack([_known(crop.mean) for crop in crops.values()])
        scores = model.scores(latents, [crop.zone.kind for crop in crops.values()])
    return dict(zip(crops, scores))


def latent_mask(skin: np.ndarray, factor: int) -> np.ndarray:
    """The mean of the mask over every latent pixel, float32 [1, h, w]."""
    side = len(skin) // factor
    return np.asarray(cv2.resize(skin, (side, side), interpolation=cv2.INTER_AREA))[None]


def _take(image: np.ndarray, face: Face, zone: Zone, tone: SkinTone, size: int) -> ZoneCrop:
    transform = crop_transform(face.landmarks, zone, size)
    pixels = extract_crop(image, transform, size)
    skin = skin_mask(pixels, landmarks_in_crop(face.landmarks, transform), tone)
    return ZoneCrop(zone, transform, pixels, skin)


def _inside(transform: np.ndarray, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """bool [size, size]: the crop's pixels that lie in the picture."""
    last = size - 1.0
    corners = to_image(transform, np.array([[0.0, 0.0], [last, 0.0], [0.0, last], [last, last]]))
    if (corners > -0.5).all() and (corners < np.array([shape[1], shape[0]]) - 0.5).all():
        return np.ones((size, size), bool)
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    points = to_image(transform, np.stack([columns, rows], axis=-1))
    inside = (points > -0.5) & (points < np.array([shape[1], shape[0]]) - 0.5)
    return np.asarray(inside.all(axis=-1))


def _known(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array
