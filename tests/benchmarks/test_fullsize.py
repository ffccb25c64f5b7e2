"""The full-size checkpoint has the published sizes; its tokenizer is CLIP's."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from agesdk.errors import UsageError
from benchmarks import fullsize


def parameters(make: Any, config: dict[str, Any]) -> int:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make(config).parameters())


def test_networks_have_the_parameters_of_stable_diffusion_1_5() -> None:
    """859.5 M, 83.7 M and 123.1 M are the counts of the published weights."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    unet = parameters(lambda c: diffusers.UNet2DConditionModel(**c), fullsize.unet_config("sd15"))
    vae = parameters(lambda c: diffusers.AutoencoderKL(**c), fullsize.vae_config("sd15"))
    text = parameters(
        lambda c: transformers.CLIPTextModel(transformers.CLIPTextConfig(**c)),
        fullsize.text_config("sd15", 49408),
    )
    assert (unet, vae, text) == (859_520_964, 83_653_863, 123_060_480)


def test_vocabulary_is_bytes_then_merges_then_specials() -> None:
    vocabulary = fullsize.clip_vocabulary(["i n", "t h", "th e</w>"])
    assert len(vocabulary) == 512 + 3 + 2
    assert (vocabulary["!"], vocabulary["!</w>"], vocabulary["in"]) == (0, 256, 512)
    assert (vocabulary["the</w>"], vocabulary[fullsize.START], vocabulary[fullsize.END]) == (514, 515, 516)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"version\na b\n"), gzip.compress(b"x" * 100)])
def test_another_file_than_clips_vocabulary_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vocabulary.gz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not CLIP's vocabulary"):
        fullsize.read_clip_merges(path)


def test_full_size_without_vocabulary_says_where_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fullsize.main(["sd15", str(tmp_path / "out")]) == 2
    assert "clip-anytorch==2.6.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
