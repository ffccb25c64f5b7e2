"""The condition of the UNet, text or learned, behind one call.

``condition(zone, score, ancestry)`` gives float ``[B, T, D]`` hidden states. ``zone``: int64 [B], index of
the zone kind. ``score``: float32 [B] in 0..1; below 0 the condition names the zone only (the zone prompt,
which is also the null condition of guidance). ``ancestry``: one text per sample, empty or None where it is
not named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agesdk.faces.zones import ZONE_KINDS
from training.config import ConditionConfig


class LearnedCondition(nn.Module):
    """A trained encoder of zone, score and, where it knows any, ancestry.

    A text that is not one of the encoder's ancestries counts as not named.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self._index = {name: index for index, name in enumerate(config.ancestries)}

    def forward(self, zone: Tensor, score: Tensor, ancestry: Sequence[str] | None = None) -> Tensor:
        if not self._index:
            without: Tensor = self.encoder(zone, score)
            return without
        names = ancestry if ancestry is not None else [""] * len(zone)
        indices = [self._index.get(name, -1) for name in names]
        hidden: Tensor = self.encoder(zone, score, torch.tensor(indices, device=zone.device))
        return hidden


class PromptCondition(nn.Module):
    """Prompts through a frozen CLIP text encoder; every prompt is encoded once.

    The encoder is not registered as a submodule: it has no gradients and is no part of the training state.
    """

    def __init__(self, tokenizer: Any, text_encoder: nn.Module, config: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        self._frozen = (tokenizer, text_encoder.eval().requires_grad_(False))
        self._cache: dict[str, Tensor] = {}

    def prompt(self, zone: int, score: float, ancestry: str = "") -> str:
        """The paper's prompts; the score is a whole percentage."""
        kind = ZONE_KINDS[zone]
        name = self.config.zone_names.get(kind, kind.replace("_", " "))
        if score < 0.0:
            return self.config.zone_template.format(zone=name)
        template = self.config.full_ethnicity_template if ancestry else self.config.full_template
        return template.format(zone=name, score=round(100.0 * score), ethnicity=ancestry)

    def forward(self, zone: Tensor, score: Tensor, ancestry: Sequence[str] | None = None) -> Tensor:
        names = ancestry if ancestry is not None else [""] * len(zone)
        prompts = [
            self.prompt(int(z), float(s), name)
            for z, s, name in zip(zone.tolist(), score.tolist(), names, strict=True)
        ]
        missing = [text for text in dict.fromkeys(prompts) if text not in self._cache]
        if missing:
            self._encode(missing, zone.device)
        return torch.stack([self._cache[text] for text in prompts]).to(zone.device)

    @torch.no_grad()
    def _encode(self, prompts: list[str], device: torch.device) -> None:
        tokenizer, text_encoder = self._frozen
        text_encoder.to(device)
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.autocast(device.type, enabled=False):
            hidden = text_encoder(tokens.input_ids.to(device))[0]
        for text, state in zip(prompts, hidden):
            self._cache[text] = state.cpu()
