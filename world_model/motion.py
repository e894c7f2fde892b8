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
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.packing import Product, joined_product

RECALLS = 1.0  # how much is taken of what is remembered before anything is learnt, as a logit


class ModulatedPair(nn.Module):
    """x + conv(relu(modulated conv(relu(x)))), x [b, c, h, w]; `modulation` makes shift and scale of time and action vectors."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(dim, 2 * channels)
        for zero in (self.conv2.weight, self.modulation.weight, self.modulation.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return the same shape as x, scaled and shifted by [b, c, 1, 1] each."""
        return x + self.conv2(F.relu(torch.addcmul(shift, self.conv1(F.relu(x)), scale)))


class Motion(nn.Module):
    """Predict frames as the warped frame before plus a residual, at the latents' resolution.

    Args:
        latent_channels, dim, patch_size: of the transformer.
        channels: width of the convolutions.
        blocks: residual pairs after the warp.
        recalls: whether it is given remembered frames, too.
    """

    packed: Product | None = None

    def __init__(self, latent_channels: int, dim: int, patch_size: tuple[int, int], channels: int, blocks: int, recalls: bool = False) -> None:
        super().__init__()
        self.patch = patch_size
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

    def forward(
        self,
        x: Tensor,
        before: Tensor,
        tokens: Tensor,
        e: Tensor,
        recalled: Tensor | None = None,
        refined: int | None = None,
        least: Tensor | float = 0.0,
    ) -> Tensor:
        """Return what it makes of the frames, [b, f, c, h, w] in float32.

        Args:
            x: noisy frames [b, f, c, h, w].
            before: for each of them the frame before it, as far as it is known, same shape.
            tokens: [b, f, n, d] of these frames after the transformer's blocks.
            e: time and action vectors [b, f, d].
            recalled: what is remembered of these frames' places, same shape as x, if anything can be.
            refined: to how many of the first frames it adds something (default: all); the others are only moved.
            least: how much it takes of what is remembered in any case, everywhere or at each position [1, 1, h, w].
        """
        p, q = self.patch
        rows = x.shape[3] // p
        told = rearrange(self.from_tokens(tokens), "b f (h w) (p q c) -> (b f) (h p) (w q) c", h=rows, p=p, q=q).permute(0, 3, 1, 2)  # channels last
        scales, shifts = self.modulations(e.flatten(0, 1))
        sources = [source.flatten(0, 1).float() for source in (before, recalled) if source is not None]
        features = self.search(self.look(_last(torch.cat([x.flatten(0, 1), *sources], 1).to(told.dtype))) + told, scales[0], shifts[0])
        moves = self.flow(F.relu(features)).float()
        warped = [warp(source, moves[:, 2 * n : 2 * n + 2]) for n, source in enumerate(sources)]
        made = warped[0]
        if recalled is not None:
            made = torch.lerp(made, warped[1], least + (1 - least) * torch.sigmoid(moves[:, 4:] + RECALLS))
        made = made.unflatten(0, x.shape[:2])
        if refined == 0:
            return made

        def first(frames: Tensor, axis: int = 0) -> Tensor:
            return frames if refined is None else frames.unflatten(axis, x.shape[:2]).narrow(axis + 1, 0, refined).flatten(axis, axis + 1)

        features = first(features) + self.compare(_last(first(torch.cat(warped, 1)).to(told.dtype)))
        for block, scale, shift in zip(self.blocks, first(scales[1:], 1), first(shifts[1:], 1), strict=True):
            features = block(features, scale, shift)
        added = self.leave(F.relu(features)).float().unflatten(0, (len(x), -1))
        return torch.cat([made[:, :refined] + added, made[:, added.shape[1] :]], 1)

    @property
    def pairs(self) -> list[ModulatedPair]:
        """All residual pairs, in the order that they are run."""
        return [self.search, *self.blocks]  # type: ignore[list-item]

    def modulations(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return all pairs' scales (about one) and shifts, [pairs, n, c, 1, 1] each, of vectors e [n, d]."""
        if self.packed is None or torch.is_grad_enabled():
            told = torch.stack([pair.modulation(e) for pair in self.pairs])
        else:
            told = self.packed(e).unflatten(1, (len(self.pairs), -1)).transpose(0, 1)
        scale, shift = told[..., None, None].chunk(2, 2)
        return 1 + scale, shift

    def pack(self, *, packed: bool = True) -> None:
        """Make one product of all modulations where no gradient is wanted; `packed` as in `SelfAttention.pack`."""
        self.packed = joined_product(*(pair.modulation for pair in self.pairs), packed=packed)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Warp images [n, c, h, w] backward by a flow [n, 2, h, w]: right and down, in positions, from where each position takes its content (bicubic)."""
    here, units = positions(*images.shape[2:], flow.device)
    return resample(images, ((flow + here) * units - 1).permute(0, 2, 3, 1))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may serve a pass with gradient next
def positions(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where the positions of an image are, right and down [2, height, width], and of what part of its half one step is [2, 1, 1]."""
    here = torch.stack(torch.meshgrid(torch.arange(width, device=device), torch.arange(height, device=device), indexing="xy"))
    return here + 0.5, 2 / torch.tensor([[[width]], [[height]]], dtype=torch.float32, device=device)


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images [n, c, h, w] bicubically at the places of a grid [n, h, w, 2] (as `F.grid_sample` takes them); what lies outside is the border."""
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
