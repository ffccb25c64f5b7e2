"""What lifespan aging takes and returns: a prepared face, and its picture at another age."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agesdk.faces.types import Face
from agesdk.imaging import write_image
from agesdk.lifespan_method import cosine
from agesdk.lifespan_model import ClipPixelRange, LifespanModel
from agesdk.timing import StageTimings


@dataclass(frozen=True, eq=False)
class LifespanFace:
    """A face made ready for aging: all that depends on the person only.

    Attributes
    ----------
    image:
        uint8 [S, S, 3] RGB: the square that is aged.
    picture:
        uint8 [H, W, 3] RGB: the whole photograph.
    transform:
        float64 [2, 3], pixels of ``image`` to pixels of ``picture``.
    face:
        The face that was found, where the square was aligned to it.
    mean, std:
        float32 [1, C, h, w]: the VAE's posterior, scaled.
    face_features:
        ArcFace's outputs by name, float32 [1, N]; empty if the bundle has no face token.
    clip_features:
        float32 [1, P], not normalised; None if the bundle has no CLIP token.
    timings:
        Seconds by stage.
    icc_profile:
        The photograph's colour profile.
    """

    image: np.ndarray
    picture: np.ndarray
    transform: np.ndarray
    face: Face | None
    mean: np.ndarray
    std: np.ndarray
    face_features: dict[str, np.ndarray]
    clip_features: np.ndarray | None
    clip_pixel_range: ClipPixelRange
    timings: StageTimings
    model: LifespanModel = field(repr=False)
    icc_profile: bytes | None = None


@dataclass(frozen=True)
class Identity:
    """Cosine similarity of ArcFace embeddings with the source's, after the first pass (None if that picture
    was not made) and in the final picture."""

    first_pass: float | None
    final: float


@dataclass(frozen=True, eq=False)
class LifespanResult:
    """A face at another age and how it came about.

    Attributes
    ----------
    image:
        uint8 [S, S, 3] RGB: the final picture.
    first_pass_image:
        uint8 [S, S, 3]: what the first pass handed over; None with latent chaining, which makes no such
        picture unless SVR needs it.
    source_age, target_age:
        In years.
    seed:
        Reproduces the result with the same settings; None if the noise was passed in.
    settings:
        Everything else the result depends on, as JSON values: strengths, steps, prompt...
    timings:
        Seconds by stage; pictures made in one batch share them.
    face_token_input, clip_embedding:
        float32 [N]: what the projections got (after SVR and Rotate-CLIP); None without such a token.
    tokens:
        float32 [1 or 2, D]: the second pass's condition, face token first.
    """

    image: np.ndarray
    first_pass_image: np.ndarray | None
    source_age: int
    target_age: int
    gender: str
    seed: int | None
    settings: dict[str, Any]
    timings: StageTimings
    tokens: np.ndarray
    face_token_input: np.ndarray | None
    clip_embedding: np.ndarray | None
    person: LifespanFace = field(repr=False)

    def identity(self) -> Identity | None:
        """How much of the source's identity the pictures keep, measured now by the bundle's ArcFace; None if
        it has none."""
        if not self.person.face_features:
            return None
        source = self.person.face_features["embedding"][0]
        pictures = [picture for picture in (self.first_pass_image, self.image) if picture is not None]
        found = self.person.model.face_features(np.stack(pictures))["embedding"]
        similar = [cosine(source, embedding) for embedding in found]
        return Identity(similar[0] if len(similar) == 2 else None, similar[-1])

    def save(self, path: str | os.PathLike[str], picture: np.ndarray | None = None) -> None:
        """Write the picture (.png, .jpg or .webp), marked as made with AI, with seed and settings.

        Parameters
        ----------
        picture:
            uint8 [H, W, 3]: the photograph with the face put back (`LifespanAger.blend`), to be written
            instead.

        Raises
        ------
        OutputError
            The folder is not writable or the suffix unknown; nothing half-written is left.
        """
        whole = picture is None
        write_image(
            path,
            self.image if picture is None else picture,
            {"seed": self.seed, **self.settings},
            digital_source="trainedAlgorithmicMedia" if whole else "compositeWithTrainedAlgorithmicMedia",
            icc_profile=self.person.icc_profile,
        )
