"""Age held-out faces to every target, and measure each crop and each face."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from agesdk.errors import FaceError, ImageError
from agesdk.faces.frames import extract_crop
from agesdk.faces.skin import SkinTone, skin_mask, skin_tone
from agesdk.faces.zones import CROP_SIZE, ZONES, Zone, crop_transform, landmarks_in_crop
from agesdk.imaging import read_image
from benchmarks.quality import metrics
from benchmarks.quality.age import AgeNetwork, age_chips
from benchmarks.quality.identity import (
    CROP_BLOCK,
    FACE_BLOCK,
    IdentityNetwork,
    distances,
    identity_chip,
)
from benchmarks.quality.population import Population, Portrait
from benchmarks.quality.records import TARGETS, CropRecord, FaceRecord
from training.zones import MINIMUM_SKIN, STORED_SIZE

if TYPE_CHECKING:
    from agesdk.zone_aging import ZoneAger

logger = logging.getLogger(__name__)

SINGLE_ZONE = "glabella"
"""The zone aged alone to see that the rest stays."""

Crop = NDArray[np.uint8]
Features = NDArray[np.float32]


class JudgeFunction(Protocol):
    """Scores float [N] of crops uint8 [128, 128, 3], each of the zone kind named for it."""

    def __call__(self, crops: Sequence[Crop], kinds: Sequence[str]) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class Instruments:
    """What the measurements are made with; None leaves a measurement out."""

    population: Population
    identity: IdentityNetwork
    age: AgeNetwork | None = None
    judge: JudgeFunction | None = None


@dataclass(frozen=True, eq=False)
class FaceMeasurement:
    """The records of one face, and the features that Fréchet distances need. None stands for the source.

    Parameters
    ----------
    crops:
        Measured zones.
    crop_features:
        By zone name and target, float32 [128]: :data:`~benchmarks.quality.identity.CROP_BLOCK`.
    face_features:
        By target, float32 [256]: :data:`~benchmarks.quality.identity.FACE_BLOCK`.
    """

    face: FaceRecord
    crops: list[CropRecord]
    crop_features: dict[tuple[str, float | None], Features]
    face_features: dict[float | None, Features]


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of one face, by target (None: the source), and the box of the face (x0, y0, x1, y1)."""

    by_target: dict[float | None, NDArray[np.uint8]]
    bbox: tuple[float, float, float, float]


def measure_faces(
    ager: ZoneAger,
    portraits: Sequence[Portrait],
    instruments: Instruments,
    seed: int = 0,
    targets: Sequence[float] = TARGETS,
    look: Callable[[FaceRecord, Pictures], object] | None = None,
    progress: Callable[[], object] | None = None,
) -> tuple[list[FaceMeasurement], dict[str, str]]:
    """Measure every portrait in which the runtime finds a face.

    Parameters
    ----------
    look:
        Called with every face's pictures, which are not kept.
    progress:
        Called after every portrait.

    Returns
    -------
    (measurements, failures)
        Failures: the reason by file, for pictures that can not be read or show no usable face.
    """
    measurements: list[FaceMeasurement] = []
    failures: dict[str, str] = {}
    for portrait in portraits:
        try:
            measurement, pictures = measure_face(ager, portrait, instruments, seed, targets)
            measurements.append(measurement)
            if look:
                look(measurement.face, pictures)
        except (FaceError, ImageError) as error:
            logger.warning("%s is left out: %s", portrait.file, error)
            failures[portrait.file] = str(error)
        if progress:
            progress()
    return measurements, failures


def measure_face(
    ager: ZoneAger, portrait: Portrait, instruments: Instruments, seed: int, targets: Sequence[float]
) -> tuple[FaceMeasurement, Pictures]:
    """Age one face with all zones at each target, and measure it."""
    source = read_image(portrait.path)
    started = time.perf_counter()
    prepared = ager.prepare(source)
    seconds_prepare = time.perf_counter() - started
    seconds: list[float] = []
    pictures: dict[float | None, NDArray[np.uint8]] = {None: source}
    for target in targets:
        started = time.perf_counter()
        pictures[target] = ager.age(prepared, target, seed=seed).image
        seconds.append(time.perf_counter() - started)
    single = ager.age(prepared, {SINGLE_ZONE: max(targets)}, seed=seed).image
    landmarks = prepared.face.landmarks
    tone = skin_tone(source, landmarks)
    lightness, ita = face_skin_tone(source, landmarks, tone)
    chips = [identity_chip(picture, landmarks) for picture in pictures.values()]
    features = instruments.identity.features(chips, FACE_BLOCK)
    embeddings = dict(zip(pictures, instruments.identity.project(features)))
    ages = {target: _age(instruments.age, picture, landmarks) for target, picture in pictures.items()}
    skipped = tuple(prepared.skipped)
    record = FaceRecord(
        file=portrait.file,
        group=metrics.ita_group(ita),
        lightness=lightness,
        ita=ita,
        age_label=portrait.age,
        identity=tuple(float(distances(embeddings[None], embeddings[target])) for target in targets),
        age_source=ages[None],
        age=tuple(ages[target] for target in targets),
        outside_unchanged=unchanged_outside(source, pictures[max(targets)], landmarks, ZONES),
        single_unchanged=unchanged_outside(
            source, single, landmarks, [zone for zone in ZONES if zone.name == SINGLE_ZONE]
        ),
        size_kept=all(picture.shape == source.shape for picture in pictures.values()),
        seconds_prepare=seconds_prepare,
        seconds_age=statistics.median(seconds),
        megapixels=source.shape[0] * source.shape[1] / 1e6,
        skipped=skipped,
    )
    measurement = FaceMeasurement(record, [], {}, dict(zip(pictures, features)))
    for zone in ZONES:
        source_crop, mask = crop_and_mask(source, zone, landmarks, tone)
        if zone.name in skipped or float(mask.mean()) < MINIMUM_SKIN:
            continue
        aged = [crop_and_mask(pictures[target], zone, landmarks, tone)[0] for target in targets]
        label = instruments.population.label(portrait.file, zone.name)
        label = float(prepared.scores[zone.name]) if np.isnan(label) else label
        measurement.crops.append(measure_crop(record, zone, label, source_crop, aged, mask, instruments))
        crop_features = instruments.identity.features([source_crop, *aged], CROP_BLOCK)
        keys = [(zone.name, target) for target in (None, *targets)]
        measurement.crop_features.update(zip(keys, crop_features))
    return measurement, Pictures(pictures, prepared.face.bbox)


def measure_crop(
    face: FaceRecord,
    zone: Zone,
    label: float,
    source: Crop,
    aged: Sequence[Crop],
    mask: NDArray[np.float32],
    instruments: Instruments,
) -> CropRecord:
    """Measure one zone.

    Parameters
    ----------
    source, aged:
        uint8 [128, 128, 3], the latter one per target.
    mask:
        float32 [128, 128], skin share of the source, used for the results too: a mask that followed the
        result would measure other pixels.
    """
    index = instruments.population.indices[zone.kind]
    judged = [float("nan")] * (len(aged) + 1)
    if instruments.judge is not None:
        scores = instruments.judge([source, *aged], [zone.kind] * (len(aged) + 1))
        judged = [float(score) for score in scores]
    return CropRecord(
        file=face.file,
        zone=zone.name,
        kind=zone.kind,
        group=face.group,
        label=label,
        wrinkles_source=index(source, mask),
        wrinkles=tuple(index(crop, mask) for crop in aged),
        psnr=tuple(metrics.psnr(source, crop) for crop in aged),
        low_pass=tuple(metrics.low_pass_psnr(source, crop) for crop in aged),
        judged_source=judged[0],
        judged=tuple(judged[1:]),
    )


def crop_and_mask(
    image: NDArray[np.uint8], zone: Zone, landmarks: NDArray[np.floating], tone: SkinTone
) -> tuple[Crop, NDArray[np.float32]]:
    """A zone's crop uint8 [128, 128, 3] and skin share float32 [128, 128], sampled as ``prepare-zones``
    does."""
    margin = (STORED_SIZE - CROP_SIZE) // 2
    inner = slice(margin, margin + CROP_SIZE)
    transform = crop_transform(landmarks, zone, STORED_SIZE, STORED_SIZE / CROP_SIZE)
    crop = extract_crop(image, transform, STORED_SIZE)
    mask = skin_mask(crop, landmarks_in_crop(landmarks, transform), tone)
    mask = np.rint(mask * 255) / 255
    return np.ascontiguousarray(crop[inner, inner]), np.ascontiguousarray(mask[inner, inner], np.float32)


def face_skin_tone(
    image: NDArray[np.uint8], landmarks: NDArray[np.floating], tone: SkinTone
) -> tuple[float, float]:
    """L* and ITA (degrees) of bare skin under the eyes and on the cheeks, where light falls most evenly."""
    pixels = []
    for zone in ZONES:
        if zone.kind in ("under_eye", "nasolabial"):
            crop, mask = crop_and_mask(image, zone, landmarks, tone)
            pixels.append(crop[mask > 0.9])
    skin = np.concatenate(pixels)
    return metrics.skin_lightness(skin) if len(skin) else (tone.lightness, float("nan"))


def unchanged_outside(
    source: NDArray[np.uint8],
    result: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    zones: Sequence[Zone],
) -> bool:
    """Whether every pixel outside the zones' crop squares (and two pixels more) is bit-identical."""
    if source.shape != result.shape:
        return False
    inside = np.zeros(source.shape[:2], np.uint8)
    for zone in zones:
        transform = crop_transform(landmarks, zone)
        corners = np.array([[-0.5, -0.5], [127.5, -0.5], [127.5, 127.5], [-0.5, 127.5]])
        square = np.round(corners @ transform[:, :2].T + transform[:, 2]).astype(np.int32)
        cv2.fillConvexPoly(inside, square, 1)
        cv2.polylines(inside, [square], True, 1, 5)
    return not bool((source != result).any(axis=2)[inside == 0].any())


def _age(network: AgeNetwork | None, image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float:
    return network.age(age_chips(image, landmarks)) if network is not None else float("nan")


def seconds_at_one_megapixel(ager: ZoneAger, portrait: Portrait, repeats: int = 3) -> dict[str, float]:
    """Wall-clock seconds of one portrait scaled to 1,000 × 1,000 pixels (or as many): prepare, age all zones,
    both.

    The median of `repeats`.
    """
    image = read_image(portrait.path)
    scale = (1e6 / (image.shape[0] * image.shape[1])) ** 0.5
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    samples: dict[str, list[float]] = {"prepare": [], "age": []}
    for _ in range(repeats):
        started = time.perf_counter()
        prepared = ager.prepare(image)
        middle = time.perf_counter()
        ager.age(prepared, 0.95, seed=0)
        samples["prepare"].append(middle - started)
        samples["age"].append(time.perf_counter() - middle)
    medians: Mapping[str, float] = {name: statistics.median(values) for name, values in samples.items()}
    return {**medians, "total": sum(medians.values())}
