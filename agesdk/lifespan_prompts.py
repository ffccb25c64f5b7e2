"""What the first pass is told, and the texts that Rotate-CLIP compares: from tables, or by text encoders.

Both kinds have one interface. Tables need no text encoder at run time, and cover the bundle's ages and
genders; encoders take any text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np

from agesdk.backends import Engine, run_batched
from agesdk.bundle import Bundle, LifespanAgingSettings
from agesdk.diffusion.prompts import ClipTokenizer
from agesdk.errors import BundleError, TargetError, UsageError
from agesdk.lifespan_method import unit

AGE_TEXT = "{age} years old"
MAX_AGE = 150
"""Largest age that a free text is made of; beyond it a number is a mistake."""


class Prompts(Protocol):
    """Embeddings of prompts (for SDXL's UNet) and of ages (in CLIP's joint space)."""

    def embed(self, prompt: str, age: int, gender: str) -> tuple[np.ndarray, np.ndarray]:
        """Prompt embeddings float32 [77, D] and the pooled one [P]. ``prompt`` is the template filled with
        age and gender, or another text."""
        ...

    def age_feature(self, age: int) -> np.ndarray:
        """float32 [P], of length 1: CLIP's feature of "N years old"."""
        ...


class PromptTables:
    """Prompts from ``tables/prompts.npz`` and ``tables/age_texts.npz``, read when they are first needed."""

    def __init__(self, bundle: Bundle, settings: LifespanAgingSettings) -> None:
        assert settings.ages is not None
        self._bundle = bundle
        self._settings = settings
        self._low, self._high = settings.ages

    @cached_property
    def _prompts(self) -> tuple[np.ndarray, np.ndarray]:
        table = self._bundle.table("prompts")
        leading = (self._high - self._low + 1, len(self._settings.genders))
        for name in ("prompt_embeds", "pooled_embeds"):
            if name not in table or table[name].shape[:2] != leading:
                raise BundleError(
                    f"The table prompts of {self._bundle.path} does not hold {name} of {leading[0]} ages and "
                    f"{leading[1]} genders",
                    fix="Export the bundle again",
                )
        return table["prompt_embeds"], table["pooled_embeds"]

    @cached_property
    def _age_features(self) -> np.ndarray:
        features = self._bundle.table("age_texts").get("features")
        if features is None or len(features) != self._high - self._low + 1:
            raise BundleError(
                f"The table age_texts of {self._bundle.path} does not hold every age", fix="Export it again"
            )
        return np.asarray(features, np.float32)

    def embed(self, prompt: str, age: int, gender: str) -> tuple[np.ndarray, np.ndarray]:
        if prompt != self._settings.prompt.format(age=age, gender=gender):
            raise UsageError(
                "The bundle has no text encoders",
                "its prompts are tables of ages and genders",
                "Leave prompt and addition out, or export the bundle with --text both",
            )
        index = self._index(age), self._settings.genders.index(gender)
        states, pooled = self._prompts
        return states[index].astype(np.float32), pooled[index].astype(np.float32)

    def age_feature(self, age: int) -> np.ndarray:
        feature: np.ndarray = self._age_features[self._index(age)]
        return feature

    def _index(self, age: int) -> int:
        if not self._low <= age <= self._high:
            raise TargetError(
                f"The age {age} is out of range",
                f"the bundle's tables hold {self._low} to {self._high}",
                "Give such an age, or export the bundle with other --ages",
            )
        return age - self._low


class PromptEncoders:
    """Prompts by the bundle's text encoders; what was encoded is kept."""

    def __init__(self, bundle: Bundle, engine: Callable[[str], Engine]) -> None:
        self._bundle = bundle
        self._engine = engine
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._ages: dict[int, np.ndarray] = {}

    @cached_property
    def _tokenizers(self) -> tuple[ClipTokenizer, ClipTokenizer]:
        return ClipTokenizer(self._bundle), ClipTokenizer(self._bundle, "tokenizer_2")

    def embed(self, prompt: str, age: int, gender: str) -> tuple[np.ndarray, np.ndarray]:
        if prompt not in self._kept:
            first, second = (tokenizer([prompt]) for tokenizer in self._tokenizers)
            states = run_batched(self._engine("text_encoder"), {"input_ids": first})["hidden_states"]
            found = run_batched(self._engine("text_encoder_2"), {"input_ids": second})
            embeds = np.concatenate([states, found["hidden_states"]], axis=-1)
            self._kept[prompt] = embeds[0], found["pooled"][0]
        return self._kept[prompt]

    def age_feature(self, age: int) -> np.ndarray:
        if not 0 <= age <= MAX_AGE:
            raise TargetError(f"The age {age} is out of range", fix=f"Give 0 to {MAX_AGE}")
        if age not in self._ages:
            ids = self._tokenizers[0]([AGE_TEXT.format(age=age)])
            feature = run_batched(self._engine("clip_text_encoder"), {"input_ids": ids})["features"][0]
            self._ages[age] = unit(feature.astype(np.float64)).astype(np.float32)
        return self._ages[age]
