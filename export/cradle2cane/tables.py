"""Embeddings of the closed set of prompts: every age and gender, computed once at export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agesdk.lifespan_prompts import AGE_TEXT
from export.bundle_writer import BundleWriter
from export.checkpoint import load_tokenizer

from .graphs import PROMPT_TOKENS
from .source import Source

if TYPE_CHECKING:
    from .command import Options

PROMPTS_AT_ONCE = 8


def prompt_states(text: Any, tokenizer: Path, options: Options) -> dict[str, np.ndarray]:
    """One text encoder's second-last hidden states float32 [ages, genders, 77, D], and, of the one with a
    projection, the pooled embeddings [ages, genders, P]."""
    from .command import GENDERS, PROMPT

    ages = _ages(options)
    prompts = [PROMPT.format(age=age, gender=gender) for age in ages for gender in GENDERS]
    ids = _tokens(tokenizer, prompts)
    states, pooled = [], []
    with torch.no_grad():
        for part in ids.split(PROMPTS_AT_ONCE):
            result = text(part, output_hidden_states=True)
            states.append(result.hidden_states[-2].numpy())
            if hasattr(result, "text_embeds"):
                pooled.append(result.text_embeds.numpy())
    shape = (len(ages), len(GENDERS))
    found: dict[str, np.ndarray] = {}
    found[f"{tokenizer.name}_states"] = np.concatenate(states).reshape(*shape, PROMPT_TOKENS, -1)
    if pooled:
        found["pooled"] = np.concatenate(pooled).reshape(*shape, -1)
    return found


def age_features(clip: Any, source: Source, options: Options) -> dict[str, np.ndarray]:
    """CLIP's features of "N years old", each of length 1, float32 [ages, P]."""
    ids = _tokens(source.turbo / "tokenizer", [AGE_TEXT.format(age=age) for age in _ages(options)])
    parts = []
    with torch.no_grad():
        for part in ids.split(PROMPTS_AT_ONCE):
            parts.append(clip.text_projection(clip.text_model(part).pooler_output).numpy())
    features = np.concatenate(parts).astype(np.float64)
    return {"age_features": (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)}


def write_tables(writer: BundleWriter, found: dict[str, np.ndarray], options: Options) -> None:
    """``tables/prompts.npz``: prompt_embeds [ages, genders, 77, D], pooled_embeds [ages, genders, P]; and
    ``tables/age_texts.npz``: features [ages, P]. Stored in half precision in an fp16 bundle, but for the
    features."""
    dtype = np.float16 if options.precision == "fp16" else np.float32
    embeds = np.concatenate([found["tokenizer_states"], found["tokenizer_2_states"]], axis=-1)
    arrays = {"prompt_embeds": embeds.astype(dtype), "pooled_embeds": found["pooled"].astype(dtype)}
    writer.write_table("prompts", arrays)
    if "age_features" in found:
        writer.write_table("age_texts", {"features": found["age_features"]})


def _ages(options: Options) -> range:
    low, high = options.ages
    return range(low, high + 1)


def _tokens(folder: Path, prompts: list[str]) -> torch.Tensor:
    """int64 [prompts, 77], padded as the folder's tokenizer pads."""
    tokenizer = load_tokenizer(folder)
    encoded = tokenizer(
        prompts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids
