"""Streaming decode: the latent blocks of one stream to frames, each as soon as it is there.

Wan 2.1's video autoencoder is causal in time: its convolutions look at the frame at hand and two before. Kept from call to call, these features make
decoding block by block the same computation as decoding the whole video at once. The first latent frame of a stream is one frame, every later one four;
so a first block of three is 9 frames, a later one 12.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """Turns the latent blocks of one stream into frames; a small one can be plugged in for Wan's (see `world_model.wan.parts.Parts`)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents [frames, channels, h, w] to uint8 frames [n, height, width, 3]; n is 4 per latent, 1 for the stream's first."""
        ...

    def snapshot(self) -> Any:
        """Return what it remembers; decoding on must not change what was returned."""
        ...

    def restore(self, saved: Any) -> None:
        """Go back to a snapshot, which stays valid."""
        ...


class CausalDecoder:
    """Wan 2.1's decoder with its features kept between calls.

    Args:
        autoencoder: diffusers' `AutoencoderKLWan`; it may be shared, for everything that changes is here.
    """

    def __init__(self, autoencoder: Any) -> None:
        self.autoencoder = autoencoder
        weight = autoencoder.post_quant_conv.weight
        self.mean, self.std = (
            torch.tensor(numbers, device=weight.device)[:, None, None] for numbers in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
        )
        self.dtype = weight.dtype
        self.places = sum(isinstance(module, type(autoencoder.post_quant_conv)) for module in autoencoder.decoder.modules())
        self.features: list[Any] | None = None  # one place per causal convolution; its tensors are replaced, never changed

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents of the stream, see `Decoder.decode`."""
        z = (latents.float() * self.std + self.mean).to(self.dtype)
        z = self.autoencoder.post_quant_conv(z.transpose(0, 1)[None])  # [1, c, f, h, w]
        frames = []
        for i in range(z.shape[2]):
            first = self.features is None
            self.features = self.features or [None] * self.places
            rgb = self.autoencoder.decoder(z[:, :, i : i + 1], feat_cache=self.features, feat_idx=[0], first_chunk=first)
            frames.append(((rgb[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8))
        return torch.cat(frames, 1).permute(1, 2, 3, 0)

    def snapshot(self) -> Any:
        """Return what it remembers."""
        return None if self.features is None else list(self.features)

    def restore(self, saved: Any) -> None:
        """Go back to a snapshot."""
        self.features = None if saved is None else list(saved)
