"""The graphs of a zone-aging bundle, as torch modules ready for export.

Each module wraps a network of a checkpoint so that pictures go in and out as uint8 (normalisation, scaling
factor and rounding are inside) and one sampler step is one call. A graph knows its tensors (`inputs`,
`outputs`, with symbolic dimensions), the sizes it will be used with (`profile`) and how to draw realistic
inputs (`draw`), so that export, parity and goldens need nothing else.

Symbols: B batch, C latent channels, h and w latent height and width, T condition tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agesdk.bundle import TensorSpec

from .errors import CheckpointError

Sizes = Mapping[str, int]
"""Symbol of a dimension -> its size in one call."""

Profile = dict[str, tuple[int, int, int]]
"""Symbol of a dimension -> smallest, usual and largest size."""

WAVE: tuple[int, int, int] = (1, 4, 12)
"""Crops in one call: a wave of non-overlapping zones, at most all twelve."""

GUIDED_WAVE: tuple[int, int, int] = (1, 8, 24)
"""The same for the denoiser, which sees every crop twice under classifier-free guidance."""


class Graph(nn.Module):
    """A module with the names and shapes of its tensors.

    `network` is the attribute that holds the wrapped network; `multiples` says of which number a symbolic
    size must be a multiple.
    """

    network: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: Profile
    multiples: Mapping[str, int] = {}

    def axis(self, symbol: str) -> Any:
        """The symbolic axis for torch.export; one that must be a multiple of n is traced as n times
        another."""
        low, _, high = self.profile[symbol]
        factor = self.multiples.get(symbol, 1)
        if factor == 1:
            return torch.export.Dim(symbol, min=low, max=high)
        return factor * torch.export.Dim(f"{symbol}_{factor}", min=low // factor, max=high // factor)

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        """Inputs of the kind the runtime will feed, one per input spec, in order."""
        raise NotImplementedError

    def example_sizes(self) -> dict[str, int]:
        """Sizes to trace with: never 0 or 1, which tracing would take for constants."""
        return {symbol: max(low, 2) for symbol, (low, _, _) in self.profile.items()}

    def parity_sizes(self) -> list[dict[str, int]]:
        """Sizes to compare with torch at: the traced ones first, then others, one crop and height unlike
        width."""
        traced = self.example_sizes()
        spatial = [symbol for symbol in self.profile if symbol != "batch"]
        wider = {symbol: traced[symbol] + self.multiples.get(symbol, 1) for symbol in spatial[1:]}
        return [traced, {**traced, **wider, "batch": 1}, {**traced, "batch": 3}]

    @staticmethod
    def shape(spec: TensorSpec, sizes: Sizes) -> list[int]:
        return [size if isinstance(size, int) else sizes[size] for size in spec.shape]


class VaeEncoder(Graph):
    """image uint8 [B, H, W, 3] RGB -> mean, std float32 [B, C, h, w], scaled: img2img takes ``mean + std *
    noise``.

    Parameters
    ----------
    vae:
        ``SmallVAE`` or diffusers' ``AutoencoderKL``.
    factor:
        Pixels per latent pixel.
    sides:
        Smallest, usual and largest height and width in pixels; fixed if all are the same.
    """

    network = "vae"

    def __init__(
        self, vae: nn.Module, latent_channels: int, factor: int, sides: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.vae: Any = vae
        self.scale, self.shift = latent_scaling(vae)
        self.diffusers = hasattr(vae, "quant_conv")
        (height, width), spatial = _axes(("height", "width"), sides)
        latent = ("batch", latent_channels, *_axes(("h", "w"), tuple(side // factor for side in sides))[0])
        self.inputs = (TensorSpec("image", "uint8", ("batch", height, width, 3)),)
        self.outputs = (TensorSpec("mean", "float32", latent), TensorSpec("std", "float32", latent))
        self.profile = {"batch": WAVE, **spatial}
        self.multiples = dict.fromkeys(spatial, factor)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # TensorRT knows uint8 at the edges only: the cast comes before anything else.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0
        if not self.diffusers:
            mean, std = self.vae.encode(pixels)
            return mean, std
        posterior = self.vae.encode(pixels).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        return {"image": draw_pictures(self.shape(self.inputs[0], sizes), generator)}


class VaeDecoder(Graph):
    """latents float32 [B, C, h, w], scaled -> image uint8 [B, H, W, 3] RGB, rounded half to even, clipped.

    Parameters as of `VaeEncoder`.
    """

    network = "vae"

    def __init__(
        self, vae: nn.Module, latent_channels: int, factor: int, sides: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.vae: Any = vae
        self.scale, self.shift = latent_scaling(vae)
        self.diffusers = hasattr(vae, "quant_conv")
        latent, spatial = _axes(("h", "w"), tuple(side // factor for side in sides))
        (height, width), _ = _axes(("height", "width"), sides)
        self.inputs = (TensorSpec("latents", "float32", ("batch", latent_channels, *latent)),)
        self.outputs = (TensorSpec("image", "uint8", ("batch", height, width, 3)),)
        self.profile = {"batch": WAVE, **spatial}

    def forward(self, latents: Tensor) -> Tensor:
        if self.diffusers:
            pixels = self.vae.decode(latents / self.scale + self.shift, return_dict=False)[0]
        else:
            pixels = self.vae.decode(latents)
        levels: Tensor = (pixels * 127.5 + 127.5).clamp(0.0, 255.0).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        return {"latents": torch.randn(self.shape(self.inputs[0], sizes), generator=generator)}


class Denoise(Graph):
    """One sampler step: UNet and the linear update of DDIM, Euler ancestral and LCM in one graph.

    ``next = c_sample * sample + c_out * unet(c_in * sample, timestep, condition) + c_noise * noise`` with
    ``coeffs[:, 0..3] = c_in, c_sample, c_out, c_noise``. With ``conditioned``, the UNet sees the channel
    concatenation of ``c_in * sample``, the masked latents of the source and the mask.
    """

    network = "unet"

    def __init__(
        self,
        unet: nn.Module,
        latent_channels: int,
        sides: tuple[int, int, int],
        hidden: Sequence[int | str],
        conditioned: bool,
    ) -> None:
        """``sides``: smallest, usual and largest latent side; ``hidden``: T and D of the condition.

        Raises
        ------
        CheckpointError
            The UNet does not take these channels or this condition.
        """
        super().__init__()
        self.unet: Any = unet
        self.diffusers = hasattr(unet, "conv_norm_out")
        self.conditioned = conditioned
        _check_unet(
            unet, latent_channels, 2 * latent_channels + 1 if conditioned else latent_channels, hidden[-1]
        )
        spatial_axes, spatial = _axes(("h", "w"), sides)
        latent = ("batch", latent_channels, *spatial_axes)
        inputs = [
            TensorSpec("sample", "float32", latent),
            TensorSpec("noise", "float32", latent),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("encoder_hidden_states", "float32", ("batch", *hidden)),
            TensorSpec("coeffs", "float32", ("batch", 4)),
        ]
        if conditioned:
            inputs += [
                TensorSpec("masked_latents", "float32", latent),
                TensorSpec("mask", "float32", ("batch", 1, *spatial_axes)),
            ]
        self.inputs = tuple(inputs)
        self.outputs = (TensorSpec("next_sample", "float32", latent),)
        self.profile = {"batch": GUIDED_WAVE, **spatial}
        self.multiples = dict.fromkeys(spatial, 8)

    def forward(
        self,
        sample: Tensor,
        noise: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        coeffs: Tensor,
        masked_latents: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        c_in, c_sample, c_out, c_noise = coeffs[:, :, None, None, None].unbind(1)
        model_input = c_in * sample
        if masked_latents is not None and mask is not None:
            model_input = torch.cat([model_input, masked_latents, mask], dim=1)
        if self.diffusers:
            output = self.unet(model_input, timestep, encoder_hidden_states, return_dict=False)[0]
        else:
            output = self.unet(model_input, timestep, encoder_hidden_states)
        next_sample: Tensor = c_sample * sample + c_out * output + c_noise * noise
        return next_sample

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = {spec.name: torch.randn(self.shape(spec, sizes), generator=generator) for spec in self.inputs}
        drawn["timestep"] = torch.randint(0, 1000, drawn["timestep"].shape, generator=generator).float()
        drawn["coeffs"] = torch.rand(drawn["coeffs"].shape, generator=generator) * torch.tensor(
            [1.0, 1.0, -1.0, 1.0]
        )
        if self.conditioned:
            drawn["mask"] = torch.rand(drawn["mask"].shape, generator=generator)
        return drawn


class TextEncoder(Graph):
    """input_ids int64 [B, 77] -> encoder_hidden_states float32 [B, 77, D] (the CLIP text model's last hidden
    state)."""

    network = "text_model"

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model: Any = text_model
        self.vocabulary = int(option(text_model, "vocab_size"))
        tokens, token_width = (int(option(text_model, n)) for n in ("max_position_embeddings", "hidden_size"))
        self.inputs = (TensorSpec("input_ids", "int64", ("batch", tokens)),)
        self.outputs = (TensorSpec("encoder_hidden_states", "float32", ("batch", tokens, token_width)),)
        self.profile = {"batch": GUIDED_WAVE}

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden_states: Tensor = self.text_model(input_ids, return_dict=False)[0]
        return hidden_states

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        shape = self.shape(self.inputs[0], sizes)
        return {"input_ids": torch.randint(0, self.vocabulary, shape, generator=generator)}


class ConditionEncoder(Graph):
    """zone int64 [B], score float32 [B] (below 0: no score, the null condition) -> float32 [B, T, D].

    An encoder that knows ancestries also takes ancestry int64 [B], -1 where it is not named.
    """

    network = "encoder"

    def __init__(self, encoder: nn.Module, zones: int) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.zones = zones
        self.ancestries = len(option(encoder, "ancestries"))
        with torch.no_grad():
            _, tokens, token_width = encoder(torch.zeros(1, dtype=torch.int64), torch.zeros(1)).shape
        self.inputs = (TensorSpec("zone", "int64", ("batch",)), TensorSpec("score", "float32", ("batch",)))
        if self.ancestries:
            self.inputs += (TensorSpec("ancestry", "int64", ("batch",)),)
        self.outputs = (TensorSpec("encoder_hidden_states", "float32", ("batch", tokens, token_width)),)
        self.profile = {"batch": GUIDED_WAVE}

    def forward(self, zone: Tensor, score: Tensor, ancestry: Tensor | None = None) -> Tensor:
        hidden_states: Tensor = self.encoder(zone, score, ancestry)
        return hidden_states

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        score = torch.rand(sizes["batch"], generator=generator)
        score[::2] = -1.0
        drawn = {
            "zone": torch.randint(0, self.zones, (sizes["batch"],), generator=generator),
            "score": score.flip(0),
        }
        if self.ancestries:
            drawn["ancestry"] = torch.randint(-1, self.ancestries, (sizes["batch"],), generator=generator)
        return drawn


class ScoreNet(Graph):
    """latents float32 [B, C, h, w] (clean, scaled mean), zone int64 [B] -> score float32 [B] in 0..1."""

    network = "score_net"

    def __init__(self, score_net: nn.Module, latent_channels: int, side: int, zones: int) -> None:
        super().__init__()
        self.score_net: Any = score_net
        self.zones = zones
        self.inputs = (
            TensorSpec("latents", "float32", ("batch", latent_channels, side, side)),
            TensorSpec("zone", "int64", ("batch",)),
        )
        self.outputs = (TensorSpec("score", "float32", ("batch",)),)
        self.profile = {"batch": WAVE}

    def forward(self, latents: Tensor, zone: Tensor) -> Tensor:
        score: Tensor = self.score_net(latents, zone)
        return score

    def draw(self, sizes: Sizes, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "latents": torch.randn(self.shape(self.inputs[0], sizes), generator=generator),
            "zone": torch.randint(0, self.zones, (sizes["batch"],), generator=generator),
        }


def latent_scaling(vae: nn.Module) -> tuple[float, float]:
    """Scale and shift between the autoencoder's latents and those the UNet sees: ``(latents - shift) *
    scale``.

    The small autoencoder normalises its latents itself, so it has neither.
    """
    scale, shift = option(vae, "scaling_factor"), option(vae, "shift_factor")
    return (1.0 if scale is None else float(scale)), (0.0 if shift is None else float(shift))


def draw_pictures(shape: list[int], generator: torch.Generator) -> Tensor:
    """Smooth gradients with noise, uint8: closer to photographs than white noise, and it reaches 0 and
    255."""
    batch, height, width, channels = shape
    corners = torch.rand([batch, channels, 4, 4], generator=generator) * 320.0 - 32.0
    smooth = torch.nn.functional.interpolate(
        corners, size=(height, width), mode="bicubic", align_corners=True
    )
    noisy = smooth + 6.0 * torch.randn(smooth.shape, generator=generator)
    return noisy.clamp(0.0, 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def option(module: nn.Module, name: str) -> Any:
    """An entry of a module's configuration, whichever kind of object that is; None if it has no such
    entry."""
    config: Any = module.config
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _axes(
    symbols: tuple[str, str], sides: tuple[int, ...]
) -> tuple[tuple[int, int] | tuple[str, str], dict[str, tuple[int, int, int]]]:
    """Two spatial axes and their profile: fixed sizes with no profile if smallest and largest are the
    same."""
    low, usual, high = sides
    if low == high:
        return (low, low), {}
    return symbols, dict.fromkeys(symbols, (low, usual, high))


def _check_unet(unet: nn.Module, latent_channels: int, in_channels: int, token_width: int | str) -> None:
    wanted_by_name = {
        "in_channels": in_channels,
        "out_channels": latent_channels,
        "latent_channels": latent_channels,
        "cross_attention_dim": token_width,
        "condition_width": token_width,
    }
    for name, wanted in wanted_by_name.items():
        have = option(unet, name)
        if isinstance(have, int) and have != wanted:
            raise CheckpointError(
                f"The UNet's {name} is {have}, but the checkpoint's other parts need {wanted}",
                "mode, autoencoder or text encoder belong to another UNet",
            )
