"""The per-frame autoencoder of a world: RGB frames to a small grid of latent tokens and back.

Pixel-unshuffle, then residual pairs of 3 x 3 convolutions at two scales; the decoder mirrors it with pixel-shuffle. ReLU,
no normalisation inside, channels in multiples of 64: element-wise work is dear on a CPU and matrix products are not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.kept import Kept


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; frames are [height, width], multiples of ``patch * 2 ** (len(channels) - 1)``."""

    height: int = 96
    width: int = 128
    channels: tuple[int, ...] = (64, 128)
    latent_channels: int = 8
    patch: int = 4
    encoder_blocks: int = 1
    decoder_blocks: int = 2

    @property
    def stride(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one frame's latent."""
        return self.latent_channels, self.height // self.stride, self.width // self.stride


class ResidualPair(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Encoder(nn.Sequential):
    """RGB in [-1, 1], [batch, 3, height, width], to unscaled latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        layers: list[nn.Module] = [nn.PixelUnshuffle(config.patch)]
        inputs = 3 * config.patch**2
        for level, channels in enumerate(config.channels):
            if level > 0:
                layers.append(nn.PixelUnshuffle(2))
                inputs *= 4
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
            layers.extend(ResidualPair(channels) for _ in range(config.encoder_blocks))
            inputs = channels
        layers.append(nn.Conv2d(inputs, config.latent_channels, 3, padding=1))
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """Latents to RGB, about [-1, 1], [batch, 3, height, width]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        layers: list[nn.Module] = []
        inputs = config.latent_channels
        for level, channels in reversed(list(enumerate(config.channels))):
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
            layers.extend(ResidualPair(channels) for _ in range(config.decoder_blocks))
            outputs = config.channels[level - 1] * 4 if level > 0 else 3 * config.patch**2
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
            layers.append(nn.PixelShuffle(2 if level > 0 else config.patch))
            inputs = outputs // 4
        super().__init__(*layers)


class Autoencoder(nn.Module):
    """Encode uint8 frames to latents of about unit variance and decode them again.

    ``latent_mean`` [channels] and ``latent_matrix`` [channels, channels] give what the transformer sees its scale; they are set from data after training,
    such that a squared error in latents is about as large as the squared error that it makes in the picture. (Latents as trained spread the picture
    evenly over all channels; a denoiser then takes fine texture for as important as walls.)
    """

    latent_mean: Tensor
    latent_matrix: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self._kept = Kept()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")  # keeps the signal's size from layer to layer
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        for pair in (module for module in self.modules() if isinstance(module, ResidualPair)):
            nn.init.kaiming_uniform_(pair.conv1.weight, nonlinearity="relu")
            nn.init.zeros_(pair.conv2.weight)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_matrix", torch.zeros(config.latent_channels, config.latent_channels))
        self.latent_matrix.diagonal().fill_(1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype its weights have."""
        return next(self.decoder.parameters()).dtype

    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames [..., height, width, 3] to float32 latents [..., channels, h, w]."""
        flat = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2)
        rgb = (flat.float() / 127.5 - 1).to(self.dtype).contiguous(memory_format=torch.channels_last)
        z = _mix(self.latent_matrix.float(), self.encoder(rgb).float() - self.latent_mean.float()[:, None, None])
        return z.reshape(*frames.shape[:-3], *self.config.latent_shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [..., channels, h, w] to uint8 frames [..., height, width, 3]."""
        rgb = self.to_rgb(latents.reshape(-1, *latents.shape[-3:]))
        frames = ((rgb + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return frames.reshape(*latents.shape[:-3], *frames.shape[-3:])

    def to_rgb(self, latents: Tensor) -> Tensor:
        """Decode latents [batch, channels, h, w] to float32 RGB, about [-1, 1], [batch, 3, height, width]; gradients pass."""
        z = _mix(self._unmix(), latents.float()) + self.latent_mean.float()[:, None, None]
        return self.decoder(z.to(self.dtype).contiguous(memory_format=torch.channels_last)).float()

    def _unmix(self) -> Tensor:
        """Return the inverse of the matrix of latents, float32; computed once."""
        return self._kept("inverse", lambda: torch.linalg.inv(self.latent_matrix.float()), self.latent_matrix)


def _mix(matrix: Tensor, latents: Tensor) -> Tensor:
    """Multiply the channels of latents [batch, channels, h, w] by a matrix, in float32 even under autocast."""
    with torch.autocast(latents.device.type, enabled=False):
        return (matrix @ latents.flatten(2)).view_as(latents)
