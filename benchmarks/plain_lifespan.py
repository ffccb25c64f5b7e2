"""The published method in plain diffusers, transformers, torch and Pillow, for cases without a recording.

Nothing of it comes from agesdk; ArcFace and the projections are the exporter's torch modules as they are
loaded, which `test_goldens` compares with the recorded embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

SIDE = 512
LATENT = (1, 4, 64, 64)
STEPS = 4


@dataclass(frozen=True)
class Outcome:
    """What the two passes made (no first picture where latents are chained), and the noise they drew, under
    agesdk's names."""

    aged: np.ndarray | None
    final: np.ndarray
    face_token_input: Tensor
    tokens: Tensor
    noise: dict[str, np.ndarray]


class PlainPipeline:
    """A model tree, loaded; `run` is one call of the script, on the CPU in float32."""

    def __init__(self, models: Path) -> None:
        from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
        from transformers import CLIPModel, CLIPTokenizer

        from export.cradle2cane.source import Source

        self.hparams: dict[str, Any] = yaml.safe_load((models / "Cradle2Cane/hparams.yml").read_text())
        variant = {"variant": self.hparams["variant"]} if self.hparams["variant"] else {}
        turbo = models / "sdxl-turbo"
        single: dict[str, Any] = {"torch_dtype": torch.float32, **variant}  # else some files stay as stored
        self.pipe: Any = StableDiffusionXLImg2ImgPipeline.from_pretrained(
            turbo,
            vae=AutoencoderKL.from_pretrained(models / "sdxl-vae-fp16-fix"),
            add_watermarker=False,
            **single,
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.plain = self.pipe.unet
        self.adapted: Any = UNet2DConditionModel.from_pretrained(turbo / "unet", **single)
        weights = self.adapted.state_dict()
        adapters = load_file(models / "Cradle2Cane/pytorch_lora_weights.safetensors")
        for key, down in adapters.items():
            if key.endswith(".lora.down.weight"):
                layer = key.removeprefix("unet.").removesuffix(".lora.down.weight")
                up = adapters[key.replace(".down.", ".up.")]
                weights[f"{layer}.weight"] += up.float() @ down.float()
        self.clip: Any = CLIPModel.from_pretrained(models / "clip-vit-large-patch14").float().eval()
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(models / "clip-vit-large-patch14")
        source = Source.open(models)
        self.arcface = source.load_arcface()
        self.face_projection = source.load_face_projection()
        self.clip_projection = source.load_clip_projection()

    @torch.no_grad()
    def run(
        self,
        image: Image.Image,
        source_age: int,
        target_age: int,
        gender: str,
        seed: int,
        one_threshold: bool = False,
        addition: str | None = None,
        latent_chaining: bool = False,
    ) -> Outcome:
        """The script, but for ``latent_chaining``: diffusers takes latents for a picture too."""
        strength = first_strength(self.hparams, abs(source_age - target_age), one_threshold)
        prompt = f"a face image of a {target_age} years old {gender}"
        if addition is not None:
            prompt, strength = f"{prompt}, {addition}", 0.75
        square = centred_square(image)
        generator = torch.Generator().manual_seed(seed)
        first = {"prompt": prompt, "image": square, "generator": generator}
        order = [("pass1", strength)]
        self.pipe.unet = self.plain
        aged = self._pass(strength=strength, output_type="latent" if latent_chaining else "pil", **first)
        pictures = [square, aged]
        if self.hparams["use_swr"] and self.hparams["use_four_image_swr"]:
            for label, other in further_passes(strength):
                pictures.append(self._pass(strength=other, **first))
                order.append((label, other))
        feature = self._face(pictures if self.hparams["use_swr"] else pictures[:1])
        turned = self._clip(square, source_age, target_age)
        tokens = torch.stack([self.face_projection(feature), self.clip_projection(turned)], dim=1)
        self.pipe.unet = self.adapted
        final = self._pass(
            prompt_embeds=tokens,
            pooled_prompt_embeds=self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[2],
            image=aged,
            strength=self.hparams["id_strength"],
            generator=generator,
        )
        order.append(("pass2", self.hparams["id_strength"]))
        noise = drawn_noise(seed, order, latent_chaining)
        first_picture = None if latent_chaining else np.asarray(aged)
        return Outcome(first_picture, np.asarray(final), feature[0], tokens[0], noise)

    def _pass(self, **arguments: Any) -> Any:
        made = self.pipe(num_inference_steps=STEPS, guidance_scale=1, **arguments).images
        return made if arguments.get("output_type") == "latent" else made[0]

    def _face(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The source's ArcFace feature, reweighted with those of the other pictures if there are any."""
        small = [np.asarray(picture.resize((112, 112), Image.Resampling.BILINEAR)) for picture in pictures]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
        hidden_state, embedding = self.arcface((pixels - 0.5) / 0.5)
        features = hidden_state if self.hparams["face_project_use_hidden_state"] else embedding
        if len(features) == 1:
            return torch.as_tensor(features)
        left, singular, right = torch.linalg.svd(features.T, full_matrices=False)
        singular = self.hparams["swr_beta"] * singular * torch.exp(self.hparams["swr_alpha"] * singular)
        return (left @ torch.diag(singular) @ right).T[:1]

    def _clip(self, square: Image.Image, source_age: int, target_age: int) -> Tensor:
        """Rotate-CLIP's feature, [1, P]; CLIP sees levels of 0..255, as in the script."""
        pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None]
        pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        pooled = self.clip.vision_model((pixels - mean) / deviation).pooler_output
        image = torch.nn.functional.normalize(self.clip.visual_projection(pooled))
        if source_age == target_age:
            return image
        texts = [f"{age} years old" for age in (source_age, target_age)]
        ids = self.clip_tokenizer(texts, padding=True, return_tensors="pt")
        pooled = self.clip.text_model(**ids).pooler_output
        source, target = torch.nn.functional.normalize(self.clip.text_projection(pooled))
        end = target
        if self.hparams["clip_map_model"] == "angle":
            angle = torch.arccos((source @ target).clamp(-1 + 1e-7, 1 - 1e-7))
            end = (torch.sin(angle / 2) * (target + source)) / torch.sin(angle)
        return torch.nn.functional.normalize(image + end - source)


def first_strength(hparams: Mapping[str, Any], gap: int, one_threshold: bool = False) -> float:
    """Adaptive noise injection: the strength of the first pass for a gap in years."""
    if not (one_threshold or hparams["use_adaptive_noise_inject"]):
        return float(hparams["aged_strength"])
    if gap <= hparams["t1"]:
        return 0.25
    return 0.5 if one_threshold or gap <= hparams["t2"] else 0.75


def further_passes(strength: float) -> list[tuple[str, float]]:
    """Labels and strengths of the further first passes of four-image SVR."""
    others = [other for other in (0.25, 0.5, 0.75) if other != strength][:2]
    return [(f"extra{number}", other) for number, other in enumerate(others, start=1)]


def centred_square(image: Image.Image) -> Image.Image:
    """The middle of the picture, 512 × 512."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def drawn_noise(seed: int, order: Sequence[tuple[str, float]], chained: bool) -> dict[str, np.ndarray]:
    """What passes of these labels and strengths draw from the seeded generator, one after the other; where
    latents are chained, the second pass encodes no picture, and its draw from the posterior is blank."""
    generator = torch.Generator().manual_seed(seed)
    names = [
        name
        for label, strength in order
        for name in (
            f"vae_sample_{label}",
            f"init_noise_{label}",
            *(f"ancestral_{label}_step{step}" for step in range(int(STEPS * strength))),
        )
    ]
    blank = {"vae_sample_pass2"} if chained else set()
    return {
        name: np.zeros(LATENT, np.float32)
        if name in blank
        else torch.randn(LATENT, generator=generator).numpy()
        for name in names
    }
