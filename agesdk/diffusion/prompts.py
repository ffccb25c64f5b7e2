"""Prompts and their tokens, for bundles whose condition is CLIP text.

Templates come from the manifest and have the placeholders ``{zone}``, ``{score}`` (whole percent) and
``{ethnicity}``, as in "image of {zone} wrinkles with an aging score of {score}%". Tokens are CLIP's byte-pair
encoding (Radford et al. 2021; lower-cased, at most 77 tokens with start and end), through the `tokenizers`
package, which is imported only here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk.bundle import Bundle, TextCondition
from agesdk.errors import BackendError, BundleError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LDLA_TEMPLATES = {
    "full": "image of {zone} wrinkles with an aging score of {score}%",
    "full_ethnicity": "image of {zone} wrinkles with an aging score of {score}%"
    " for a person of {ethnicity} ethnicity",
    "zone": "image of {zone}",
}
"""The paper's prompts."""

MAX_TOKENS = 77
"""CLIP's context length."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

_log = logging.getLogger(__name__)


def full_prompt(condition: TextCondition, zone: str, score: float, ethnicity: str | None = None) -> str:
    """The prompt of a zone kind with an aging score in 0..1, naming the ethnicity where one is given.

    Raises `UsageError` when an ethnicity is given and the bundle has no template for one.
    """
    name = "full" if ethnicity is None else "full_ethnicity"
    if name not in condition.templates:
        raise UsageError(
            "An ethnicity was given.", "The bundle has no prompt that names one.", "Leave the ethnicity out."
        )
    values = {
        "zone": _words(condition, zone),
        "score": f"{round(100.0 * score)}",
        "ethnicity": ethnicity or "",
    }
    return _fill(condition.templates[name], values)


def null_prompt(condition: TextCondition, zone: str) -> str:
    """The prompt of a zone kind without a score: LDLA's L_zone trains it, and guidance leads away from it.

    A template ``null`` takes its place where the bundle has one (an empty one for plain Stable Diffusion).
    """
    template = condition.templates.get("null", condition.templates["zone"])
    return _fill(template, {"zone": _words(condition, zone)})


def _words(condition: TextCondition, zone: str) -> str:
    return condition.zone_names.get(zone, zone.replace("_", " "))


def _fill(template: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise BundleError(
                f'The prompt template "{template}" has the placeholder {match[0]}',
                f"the placeholders are {', '.join(values)}",
            )
        return values[match[1]]

    return _PLACEHOLDER.sub(value, template)


class ClipTokenizer:
    """CLIP's tokenizer from a bundle's ``tokenizer/`` folder, or another of its folders.

    The folder has ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``. The padding token is the
    ``pad_token`` of ``tokenizer_config.json`` or ``special_tokens_map.json``, and the end token where neither
    names one.
    """

    def __init__(self, bundle: Bundle, folder: str = "tokenizer") -> None:
        self._tokenizer = _load(bundle, folder)
        pad = _pad_token(bundle, folder)
        pad_id = self._tokenizer.token_to_id(pad)
        if pad_id is None:
            raise BundleError(
                f"The tokenizer of {bundle.path} has no token {pad!r}", "it is named as the padding"
            )
        # transformers takes a pad token in a text for padding too, as in "100%!" where "!" pads.
        self._tokenizer.add_special_tokens([_START, _END, pad])
        self._tokenizer.enable_padding(length=MAX_TOKENS, pad_id=pad_id, pad_token=pad)
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """int64 [len(prompts), 77]: start, words, end, padding; longer prompts are cut."""
        encodings = self._tokenizer.encode_batch(list(prompts))
        for prompt, encoding in zip(prompts, encodings):
            if encoding.overflowing:
                _log.warning("the prompt %.60r... is longer than %d tokens and was cut", prompt, MAX_TOKENS)
        return np.array([encoding.ids for encoding in encodings], dtype=np.int64)


def _load(bundle: Bundle, folder: str) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise BackendError(
            f"{bundle.path} is conditioned by text, and the package tokenizers is not installed",
            str(error),
            "Run `pip install 'agesdk[text]'`",
        ) from None
    try:
        if bundle.has_file(f"{folder}/tokenizer.json"):
            return tokenizers.Tokenizer.from_file(str(bundle.file_path(f"{folder}/tokenizer.json")))
        vocabulary = str(bundle.file_path(f"{folder}/vocab.json"))
        merges = str(bundle.file_path(f"{folder}/merges.txt"))
        return _clip_tokenizer(*tokenizers.models.BPE.read_file(vocabulary, merges))
    except BundleError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise BundleError(f"The tokenizer of {bundle.path} can not be read", str(error)) from None


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=_END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, vocabulary[_START]), (_END, vocabulary[_END])]
    )
    return tokenizer


def _pad_token(bundle: Bundle, folder: str) -> str:
    for name in (f"{folder}/tokenizer_config.json", f"{folder}/special_tokens_map.json"):
        if not bundle.has_file(name):
            continue
        try:
            document: Any = json.loads(bundle.file_path(name).read_text("utf-8"))
        except ValueError as error:
            raise BundleError(f"{bundle.file_path(name)} is not JSON", str(error)) from None
        token = document.get("pad_token") if isinstance(document, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return _END
