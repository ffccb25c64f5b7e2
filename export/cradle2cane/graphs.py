"""The graphs of a lifespan-aging bundle, as torch modules ready for export; see `export.graphs`.

Symbols: B batch, T condition tokens, D their width, P width of the pooled prompt embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agesdk.bundle import TensorSpec
from agesdk.resample import Taps, pillow_taps, torch_taps
from export.graphs import Graph, Sizes, VaeDecoder, VaeEncoder, draw_pictures, option

from . import arcface
from .lora import Switch

BATCH: tuple[int, int, int] = (1, 1, 8)
"""Pictures in one call: mostly one; a sweep batches where memory allows."""

PROMPT_TOKENS = 77

_LOW_BITS = 11


class Resize(nn.Module):
    """uint8 [B, S, S, 3] -> levels float32 [B, 3, target, target], whole numbers in 0..255.

    The two rounded passes of Pillow or torch (`agesdk.resample`) as products with constant matrices. Weights
    are split into a high and a low part of 11 bits each: both, all products and all sums are whole numbers
    that float32 (and TensorFloat32, which has 11 bits) holds exactly, so the result is the same on every
    device.
    """

    def __init__(self, taps: Taps, size: int) -> None:
        super().__init__()
        weights = torch.from_numpy(taps.matrix(size))
        high = torch.div(weights, 2**_LOW_BITS, rounding_mode="floor")
        self.register_buffer("high", high.float())
        self.register_buffer("low", (weights - high * 2**_LOW_BITS).float())
        self.unit = float(2 ** (taps.bits - _LOW_BITS))

    def forward(self, image: Tensor) -> Tensor:
        # TensorRT knows uint8 at the edges only: the cast comes before anything else.
        levels = image.to(torch.float32).permute(0, 3, 1, 2)
        levels = self._across(levels)
        return self._across(levels.transpose(2, 3)).transpose(2, 3)

    def _across(self, levels: Tensor) -> Tensor:
        high: Tensor = levels @ self.high.T  # type: ignore[operator]
        low: Tensor = levels @ self.low.T  # type: ignore[operator]
        sums = high + torch.floor(low / float(2**_LOW_BITS))
        return torch.floor((sums + self.unit / 2.0) / self.unit).clamp(0.0, 255.0)


class LifespanVaeEncoder(VaeEncoder):
    """`export.graphs.VaeEncoder` for whole pictures."""

    def __init__(self, vae: nn.Module, latent_channels: int, factor: int, side: int) -> None:
        super().__init__(vae, latent_channels, factor, (side, side, side))
        self.profile = {"batch": BATCH}

    def parity_sizes(self) -> list[dict[str, int]]:
        return [{"batch": 2}, {"batch": 1}]


class LifespanVaeDecoder(VaeDecoder):
    """`export.graphs.VaeDecoder` for whole pictures."""

    def __init__(self, vae: nn.Module, latent_channels: int, factor: int, side: int) -> None:
        super().__init__(vae, latent_channels, factor, (side, side, side))
        self.profile = {"batch": BATCH}

    def parity_sizes(self) -> list[dict[str, int]]:
        return [{"batch": 2}, {"batch": 1}]


class LifespanDenoise(Graph):
    """One sampler step of SDXL's UNet; coefficients as of `export.graphs.Denoise`.

    ``next = c_sample * sample + c_out * unet(c_in * sample, timestep, condition) + c_noise * noise``. The
    size conditions (original size, crop, target size) are constants: the published pipeline always states the
    picture's own. With a switch, ``lora_scale`` [B] scales the LoRA row by row: 0 in the first pass, 1 in the
    second.
    """

    network = "unet"

    def __init__(
        self,
        unet: nn.Module,
        resolution: int,
        side: int,
        pooled_width: int,
        fewest_tokens: int,
        switch: Switch | None,
    ) -> None:
        super().__init__()
        self.unet: Any = unet
        self.switch = switch
        channels, width = int(option(unet, "in_channels")), int(option(unet, "cross_attention_dim"))
        size = [float(resolution)] * 2
        self.register_buffer("time_ids", torch.tensor([[*size, 0.0, 0.0, *size]]))
        latent = ("batch", channels, side, side)
        inputs = [
            TensorSpec("sample", "float32", latent),
            TensorSpec("noise", "float32", latent),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("encoder_hidden_states", "float32", ("batch", "tokens", width)),
            TensorSpec("text_embeds", "float32", ("batch", pooled_width)),
            TensorSpec("coeffs", "float32", ("batch", 4)),
        ]
        if switch is not None:
            inputs.append(TensorSpec("lora_scale", "float32", ("batch",)))
        self.inputs = tuple(inputs)
        self.outputs = (TensorSpec("next_sample", "float32", latent),)
        self.profile = {"batch": BATCH, "tokens": (fewest_tokens, PROMPT_TOKENS, PROMPT_TOKENS)}

    def forward(
        self,
        sample: Tensor,
        noise: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        coeffs: Tensor,
        lora_scale: Tensor | None = None,
    ) -> Tensor:
        c_in, c_sample, c_out, c_noise = coeffs[:, :, None, None, None].unbind(1)
        if self.switch is None or lora_scale is None:
            output = self._predict(c_in * sample, timestep, encoder_hidden_states, text_embeds)
        else:
            with self.switch.at(lora_scale):
                output = self._predict(c_in * sample, timestep, encoder_hidden_states, text_embeds)
        next_sample: Tensor = c_sample * sample + c_out * output + c_noise * noise
        return next_sample

    def _predict(self, model_input: Tensor, timestep: Tensor, hidden: Tensor, text_embeds: Tensor) -> Tensor:
        time_ids = self.time_ids.expand(model_input.shape[0], -1)  # type: ignore[operator]
        output: Tensor = self.unet(
            model_input,
            timestep,
            hidden,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return output

    def parity_sizes(self) -> list[dict[str, int]]:
        """A prompt for one picture, and identity tokens for a batch."""
        return [
            {"batch": 2, "tokens": self.profile["tokens"][0]},
            {"batch": 1, "tokens": PROMPT_TOKENS},
        ]

    def example_sizes(self) -> dict[str, int]:
        return {"batch": 2, "tokens": 7}

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = {spec.name: torch.randn(self.shape(spec, sizes), generator=generator) for spec in self.inputs}
        drawn["timestep"] = torch.randint(0, 1000, drawn["timestep"].shape, generator=generator).float()
        signs = torch.tensor([1.0, 1.0, -1.0, 1.0])
        drawn["coeffs"] = torch.rand(drawn["coeffs"].shape, generator=generator) * signs
        if "lora_scale" in drawn:
            drawn["lora_scale"] = (torch.arange(sizes["batch"]) % 2 == 0).float()
        return drawn


class FaceEncoder(Graph):
    """image uint8 [B, S, S, 3] -> embedding float32 [B, 512], and hidden_state [B, 25088] where it is needed.

    Pillow's bilinear resize to 112 × 112 and ArcFace's normalisation are inside; outputs are not normalised.
    """

    network = "face_network"

    def __init__(self, network: arcface.IResNet, side: int, with_hidden_state: bool) -> None:
        super().__init__()
        self.face_network = network
        self.resize = Resize(pillow_taps(side, arcface.INPUT_SIDE, "bilinear"), side)
        self.with_hidden_state = with_hidden_state
        self.inputs = (TensorSpec("image", "uint8", ("batch", side, side, 3)),)
        outputs = [TensorSpec("embedding", "float32", ("batch", arcface.EMBEDDING))]
        if with_hidden_state:
            outputs.append(TensorSpec("hidden_state", "float32", ("batch", arcface.HIDDEN)))
        self.outputs = tuple(outputs)
        self.profile = {"batch": BATCH}

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pixels = self.resize(image) / 127.5 - 1.0
        hidden_state, embedding = self.face_network(pixels)
        return (embedding, hidden_state) if self.with_hidden_state else embedding

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        return {"image": draw_pictures(self.shape(self.inputs[0], sizes), generator)}


class ClipImageEncoder(Graph):
    """image uint8 [B, S, S, 3], pixel_scale float32 [B] -> features float32 [B, P], not normalised.

    torchvision's bicubic resize of 8-bit pictures is inside. ``pixel_scale`` multiplies the levels before
    CLIP's mean and deviation: 1/255 as CLIP was trained, 1 as the published inference script calls it.
    """

    network = "clip"

    def __init__(self, clip: nn.Module, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.clip: Any = clip
        config: Any = clip.config
        target = int(config.vision_config.image_size)
        self.resize = Resize(torch_taps(side, target, "bicubic"), side)
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None])
        self.register_buffer("std", torch.tensor(list(std))[:, None, None])
        width = int(config.projection_dim)
        self.inputs = (
            TensorSpec("image", "uint8", ("batch", side, side, 3)),
            TensorSpec("pixel_scale", "float32", ("batch",)),
        )
        self.outputs = (TensorSpec("features", "float32", ("batch", width)),)
        self.profile = {"batch": BATCH}

    def forward(self, image: Tensor, pixel_scale: Tensor) -> Tensor:
        levels = self.resize(image) * pixel_scale[:, None, None, None]
        pixels = (levels - self.mean) / self.std  # type: ignore[operator]
        pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        features: Tensor = self.clip.visual_projection(pooled)
        return features

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        scale = torch.full((sizes["batch"],), 1.0 / 255.0)
        return {"image": draw_pictures(self.shape(self.inputs[0], sizes), generator), "pixel_scale": scale}


class ProjectToToken(Graph):
    """features float32 [B, N] -> token float32 [B, D]."""

    network = "projection"

    def __init__(self, projection: nn.Module, size_in: int, size_out: int) -> None:
        super().__init__()
        self.projection = projection
        self.inputs = (TensorSpec("features", "float32", ("batch", size_in)),)
        self.outputs = (TensorSpec("token", "float32", ("batch", size_out)),)
        self.profile = {"batch": BATCH}

    def forward(self, features: Tensor) -> Tensor:
        token: Tensor = self.projection(features)
        return token

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        return {"features": torch.randn(self.shape(self.inputs[0], sizes), generator=generator)}


class _Text(Graph):
    """A CLIP text model: input_ids int64 [B, 77] in."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vocabulary = int(config.vocab_size)
        self.width = int(config.hidden_size)
        self.inputs = (TensorSpec("input_ids", "int64", ("batch", PROMPT_TOKENS)),)
        self.profile = {"batch": BATCH}

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        """Start, words, one end token, padding."""
        ids = torch.randint(1, self.vocabulary - 2, self.shape(self.inputs[0], sizes), generator=generator)
        ids[:, 0] = self.vocabulary - 2
        ids[:, 12:] = 0
        ids[:, 11] = self.vocabulary - 1
        return {"input_ids": ids}


class PromptEncoder(_Text):
    """input_ids -> hidden_states float32 [B, 77, D]: the second-last layer, without the final norm; and, of
    the second encoder, pooled float32 [B, P]: the projected state at the end token."""

    network = "text"

    def __init__(self, text: nn.Module, pooled: bool) -> None:
        super().__init__(text.config)
        self.text: Any = text
        self.pooled = pooled
        outputs = [TensorSpec("hidden_states", "float32", ("batch", PROMPT_TOKENS, self.width))]
        if pooled:
            config: Any = text.config
            width = int(config.projection_dim)
            outputs.append(TensorSpec("pooled", "float32", ("batch", width)))
        self.outputs = tuple(outputs)

    def forward(self, input_ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        result = self.text(input_ids, output_hidden_states=True)
        hidden_states: Tensor = result.hidden_states[-2]
        return (hidden_states, result.text_embeds) if self.pooled else hidden_states


class ClipTextEncoder(_Text):
    """input_ids -> features float32 [B, P] in CLIP's joint space, not normalised."""

    network = "clip"

    def __init__(self, clip: nn.Module) -> None:
        config: Any = clip.config
        super().__init__(config.text_config)
        self.clip: Any = clip
        width = int(config.projection_dim)
        self.outputs = (TensorSpec("features", "float32", ("batch", width)),)

    def forward(self, input_ids: Tensor) -> Tensor:
        features: Tensor = self.clip.text_projection(self.clip.text_model(input_ids).pooler_output)
        return features
