"""Prompts from templates, and tokens against transformers' CLIPTokenizer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from agesdk.bundle import TextCondition
from agesdk.diffusion.prompts import ClipTokenizer, full_prompt, null_prompt
from agesdk.errors import BundleError, UsageError
from tests.clip_vocabulary import clip_vocabulary_file

CONDITION = TextCondition(
    templates={
        "full": "image of {zone} wrinkles with an aging score of {score}%",
        "full_ethnicity": "image of {zone} wrinkles with an aging score of {score}%"
        " for a person of {ethnicity} ethnicity",
        "zone": "image of {zone}",
    },
    zone_names={"crows_feet": "crow's feet"},
)

PROMPTS = [
    "",
    "image of forehead wrinkles with an aging score of 70% for a person of Hispanic ethnicity",
    "image of crow's feet wrinkles with an aging score of 5%",
    "Utra realistic image of a human face",
    "  It's\tFORTY-two,\n café naïve — 100%!! they've   I'll ",
    "写真 of ünïcödé 🙂 _under_score_ 3.14",
    "wrinkle " * 120,
]


class TokenizerFolder:
    """What `ClipTokenizer` needs of a bundle: listed files in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_file(self, relative: str) -> bool:
        return (self.path / relative).is_file()

    def file_path(self, relative: str) -> Path:
        if not self.has_file(relative):
            raise BundleError(f"no file {relative!r}")
        return self.path / relative


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(256 - len(shown))]


def write_vocabulary(folder: Path, merges: list[tuple[str, str]]) -> None:
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge) for merge in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


_MERGES = "i m,a g,im ag,imag e</w>,o f</w>,w r,f o,fo r,for e,i n,in k,wr ink,l e,le s</w>,a n</w>,s c,sc o"
SMALL_MERGES = [tuple(merge.split()) for merge in _MERGES.split(",")]


def clip_merges() -> list[tuple[str, str]]:
    """The merges of CLIP's published vocabulary."""
    lines = gzip.decompress(clip_vocabulary_file().read_bytes()).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]


@pytest.fixture(scope="module", params=["small", "clip"])
def tokenizer_folder(request, tmp_path_factory):
    merges = SMALL_MERGES if request.param == "small" else clip_merges()
    path = tmp_path_factory.mktemp("bundle")
    write_vocabulary(path / "tokenizer", merges)
    return path


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_tokens_equal_transformers(tokenizer_folder, pad):
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tokenizer_folder / "tokenizer"
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}), "utf-8")
    reference = transformers.CLIPTokenizer.from_pretrained(folder, pad_token=pad)
    wanted = reference(PROMPTS, padding="max_length", max_length=77, truncation=True)["input_ids"]
    ids = ClipTokenizer(TokenizerFolder(tokenizer_folder))(PROMPTS)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, wanted)


def test_tokenizer_json_gives_the_same_tokens(tokenizer_folder, tmp_path):
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tokenizer_folder / "tokenizer"
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    reference.save_pretrained(tmp_path / "tokenizer")
    wanted = reference(PROMPTS, padding="max_length", max_length=77, truncation=True)["input_ids"]
    np.testing.assert_array_equal(ClipTokenizer(TokenizerFolder(tmp_path))(PROMPTS), wanted)


@pytest.mark.parametrize(
    "zone, score, ethnicity, text",
    [
        ("forehead", 0.7, None, "image of forehead wrinkles with an aging score of 70%"),
        ("upper_lip", 0.0, None, "image of upper lip wrinkles with an aging score of 0%"),
        (
            "crows_feet",
            1.0,
            "Hispanic",
            "image of crow's feet wrinkles with an aging score of 100% for a person of Hispanic ethnicity",
        ),
    ],
)
def test_full_prompts(zone, score, ethnicity, text):
    assert full_prompt(CONDITION, zone, score, ethnicity) == text


def test_guidance_leads_away_from_the_zone_prompt_or_the_bundles_own():
    assert null_prompt(CONDITION, "under_eye") == "image of under eye"
    assert null_prompt(TextCondition(templates={**CONDITION.templates, "null": ""}), "glabella") == ""


def test_braces_in_a_value_are_text():
    assert "{score.__class__}" in full_prompt(CONDITION, "forehead", 0.5, "{score.__class__}")


def test_unknown_placeholder_is_told():
    with pytest.raises(BundleError, match="age"):
        full_prompt(TextCondition(templates={"full": "{age}", "zone": ""}), "forehead", 0.5)


def test_ethnicity_without_a_template_is_told():
    with pytest.raises(UsageError, match="ethnicity"):
        full_prompt(TextCondition(templates={"full": "{zone}", "zone": ""}), "forehead", 0.5, "Hispanic")


def test_a_broken_tokenizer_is_told(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(BundleError, match="can not be read"):
        ClipTokenizer(TokenizerFolder(tmp_path))
    with pytest.raises(BundleError, match="vocab"):
        ClipTokenizer(TokenizerFolder(tmp_path / "nothing"))
