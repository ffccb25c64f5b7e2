"""What tells the model the zone and the wanted score: one interface for CLIP text and for a learned encoder.

Both give `encoder_hidden_states`, float32 [batch, tokens, width], and both keep what they have encoded: a
slider moved back and forth, or twelve zones aged to a few targets, encode every condition once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from agesdk.backends.base import Engine, did_you_mean, listed, run_batched
from agesdk.bundle import Bundle, LearnedCondition, TextCondition, ZoneAgingSettings
from agesdk.diffusion.prompts import ClipTokenizer, full_prompt, null_prompt
from agesdk.errors import BundleError, UsageError

CACHED_CONDITIONS = 256
"""Rows kept; of CLIP's size (77 × 768 float32) that is 60 MB."""

_Key = TypeVar("_Key", bound=Hashable)


class Conditioning(Protocol):
    """Encodes conditions of zones, a row each; zones are kinds such as ``crows_feet``."""

    def full(self, zones: Sequence[str], scores: Sequence[float], ethnicity: str | None = None) -> np.ndarray:
        """float32 [len(zones), tokens, width]: zone and aging score in 0..1, and an ethnicity where one is
        given.

        Raises `UsageError` when an ethnicity is given that the bundle has no condition for.
        """
        ...

    def null(self, zones: Sequence[str]) -> np.ndarray:
        """float32 [len(zones), tokens, width]: what classifier-free guidance leads away from."""
        ...


def make_conditioning(
    bundle: Bundle, settings: ZoneAgingSettings, load: Callable[[str], Engine]
) -> TextConditioning | LearnedConditioning:
    """The conditioning that the manifest declares; ``load`` opens a component by name."""
    if isinstance(settings.condition, TextCondition):
        return TextConditioning(settings.condition, ClipTokenizer(bundle), load("text_encoder"))
    return LearnedConditioning(settings.condition, load("condition_encoder"))


class TextConditioning:
    """Prompts through a CLIP text encoder."""

    def __init__(
        self, condition: TextCondition, tokenizer: Callable[[Sequence[str]], np.ndarray], encoder: Engine
    ) -> None:
        self._condition = condition
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._cache: _RowCache[str] = _RowCache(self._encode)

    def full(self, zones: Sequence[str], scores: Sequence[float], ethnicity: str | None = None) -> np.ndarray:
        return self.prompts(
            [full_prompt(self._condition, zone, score, ethnicity) for zone, score in zip(zones, scores)]
        )

    def null(self, zones: Sequence[str]) -> np.ndarray:
        return self.prompts([null_prompt(self._condition, zone) for zone in zones])

    def prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """float32 [len(prompts), 77, width]: any text."""
        return self._cache.rows(prompts)

    def _encode(self, prompts: list[str]) -> np.ndarray:
        return run_batched(self._encoder, {"input_ids": self._tokenizer(prompts)})["encoder_hidden_states"]


class LearnedConditioning:
    """Zone index and score through a small learned encoder; a score below 0 stands for "any score"."""

    def __init__(self, condition: LearnedCondition, encoder: Engine) -> None:
        self._condition = condition
        self._encoder = encoder
        self._takes_ancestry = any(spec.name == "ancestry" for spec in encoder.inputs)
        if condition.ancestries and not self._takes_ancestry:
            raise BundleError(
                "The bundle names ancestries, but its condition_encoder has no input for them",
                fix="Export the bundle again",
            )
        self._cache: _RowCache[tuple[int, float, int]] = _RowCache(self._encode)

    def full(self, zones: Sequence[str], scores: Sequence[float], ethnicity: str | None = None) -> np.ndarray:
        ancestry = self._ancestry(ethnicity)
        return self._cache.rows(
            [(self._zone(zone), float(score), ancestry) for zone, score in zip(zones, scores)]
        )

    def null(self, zones: Sequence[str]) -> np.ndarray:
        return self._cache.rows([(self._zone(zone), -1.0, -1) for zone in zones])

    def _zone(self, zone: str) -> int:
        return self._condition.zones.index(zone)

    def _ancestry(self, ethnicity: str | None) -> int:
        if ethnicity is None:
            return -1
        if ethnicity not in self._condition.ancestries:
            known = listed(self._condition.ancestries)
            raise UsageError(
                f'The ethnicity "{ethnicity}" is not one the bundle knows',
                f"it knows {known}" if known else "it knows none",
                did_you_mean(ethnicity, self._condition.ancestries) or "Leave the ethnicity out",
            )
        return self._condition.ancestries.index(ethnicity)

    def _encode(self, keys: list[tuple[int, float, int]]) -> np.ndarray:
        feeds: dict[str, np.ndarray] = {
            "zone": np.array([zone for zone, _, _ in keys], dtype=np.int64),
            "score": np.array([score for _, score, _ in keys], dtype=np.float32),
        }
        if self._takes_ancestry:
            feeds["ancestry"] = np.array([ancestry for _, _, ancestry in keys], dtype=np.int64)
        return run_batched(self._encoder, feeds)["encoder_hidden_states"]


class _RowCache(OrderedDict[_Key, np.ndarray]):
    """Rows by key, the least recently used forgotten first; what is missing is encoded in one batch."""

    def __init__(self, encode: Callable[[list[_Key]], np.ndarray]) -> None:
        super().__init__()
        self._encode_missing = encode

    def rows(self, keys: Sequence[_Key]) -> np.ndarray:
        missing = [key for key in dict.fromkeys(keys) if key not in self]
        fresh = dict(zip(missing, self._encode_missing(missing))) if missing else {}
        stacked = np.stack([fresh[key] if key in fresh else self[key] for key in keys])
        for key in dict.fromkeys(keys):
            if key in fresh:
                self[key] = fresh[key].copy()
            self.move_to_end(key)
        while len(self) > CACHED_CONDITIONS:
            self.popitem(last=False)
        return stacked
