"""Motion compensation: most of the next frame is the last one, moved.

Tokens are large (a patch of latents each) and a picture moves by less than a token per frame. So the network does not paint every frame anew: for each
position of the latent grid it says where in the frame before its content was (optical flow, by backward warping), and what to add to that (newly
revealed or sharpened content). Where places are remembered it also says where in the picture remembered the content is, and how much of it to take. Before it
has learnt anything it holds the picture almost still, and what it does not touch stays for ever: a share of the frame before, however near to one, would fade
within seconds. So does an error stay that is handed on from frame to frame; a world may be bound to take a part of what it remembers. The flow comes from the
transformer's tokens, which have seen actions, noise and context, refined by convolutions at the latents' own resolution. Latents must bear to be moved by
fractions of a position; the autoencoder is trained for it.

In a window only the first frame has a finished frame before it; the others take the estimate that the last pass made of the frame before them. So every
frame learns and makes the same small step.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

RECALLS = 1.0  # how much is taken of what is remembered before anything is learnt, as a logit


class ModulatedPair(nn.Module):
    """x + conv(relu(modulated conv(relu(x)))), x [b, c, h, w], modulated by e [b, d]."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(dim, 2 * channels)
        for zero in (self.conv2.weight, self.modulation.weight, self.modulation.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e)[..., None, None].chunk(2, 1)
        return x + self.conv2(F.relu(torch.addcmul(shift, self.conv1(F.relu(x)), 1 + scale)))


class Motion(nn.Module):
    """Predict frames as the warped frame before plus a residual, at the latents' resolution.

    Args:
        latent_channels, dim, patch_size: of the transformer.
        channels: width of the convolutions.
        blocks: residual pairs after the warp.
        recalls: whether it is given remembered frames, too.
        least: how much of these it takes in any case.
    """

    def __init__(
        self, latent_channels: int, dim: int, patch_size: tuple[int, int], channels: int, blocks: int, recalls: bool = False, least: float = 0.0
    ) -> None:
        super().__init__()
        self.patch, self.least = patch_size, least
        self.from_tokens = nn.Linear(dim, channels * math.prod(patch_size))
        self.look = nn.Conv2d((2 + recalls) * latent_channels, channels, 3, padding=1)
        self.search = ModulatedPair(channels, dim)
        self.flow = nn.Conv2d(channels, 2 + 3 * recalls, 3, padding=1)  # for the frame before; for what is remembered, and how much of it is taken
        self.compare = nn.Conv2d((1 + recalls) * latent_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ModulatedPair(channels, dim) for _ in range(blocks))
        self.leave = nn.Conv2d(channels, latent_channels, 3, padding=1)
        for conv in (self.flow, self.leave):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, before: Tensor, tokens: Tensor, e: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Return what it makes of the frames, [b, f, c, h, w] in float32.

        Args:
            x: noisy frames [b, f, c, h, w].
            before: for each of them the frame before it, as far as it is known, same shape.
            tokens: [b, f, n, d] of these frames after the transformer's blocks.
            e: time and action vectors [b, f, d].
            recalled: what is remembered of these frames' places, same shape as x, if anything can be.
        """
        p, q = self.patch
        rows = x.shape[3] // p
        told = rearrange(self.from_tokens(tokens), "b f (h w) (p q c) -> (b f) c (h p) (w q)", h=rows, p=p, q=q)
        e, sources = e.flatten(0, 1), [source.flatten(0, 1).float() for source in (before, recalled) if source is not None]
        features = self.search(self.look(_last(torch.cat([x.flatten(0, 1), *sources], 1).to(told.dtype))) + told, e)
        moves = self.flow(F.relu(features)).float()
        warped = [warp(source, moves[:, 2 * n : 2 * n + 2]) for n, source in enumerate(sources)]
        features = features + self.compare(_last(torch.cat(warped, 1).to(told.dtype)))
        made = warped[0]
        if recalled is not None:
            made = torch.lerp(made, warped[1], self.least + (1 - self.least) * torch.sigmoid(moves[:, 4:] + RECALLS))
        for block in self.blocks:
            features = block(features, e)
        return (made + self.leave(F.relu(features)).float()).unflatten(0, x.shape[:2])


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Warp images [n, c, h, w] backward by a flow [n, 2, h, w]: right and down, in positions, from where each position takes its content (bicubic)."""
    height, width = images.shape[2:]
    here = torch.stack(torch.meshgrid(torch.arange(width, device=flow.device), torch.arange(height, device=flow.device), indexing="xy"))
    return resample(images, ((flow + (here + 0.5)) * (2 / flow.new_tensor([[[width]], [[height]]])) - 1).permute(0, 2, 3, 1))


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images [n, c, h, w] bicubically at the places of a grid [n, h, w, 2] (as `F.grid_sample` takes them); what lies outside is the border."""
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
