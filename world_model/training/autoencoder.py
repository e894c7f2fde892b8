"""Stage 1: train the per-frame autoencoder on the world's own frames.

L1 + squared error + L1 of image gradients (keeps edges straight and textures visible), with noise on the latents so that the decoder forgives the
small errors of a generated latent, and a small price on large latents so that they cannot outgrow that noise. Half of the latents are moved and zoomed
before they are decoded, and so is the picture that they must decode to and that must encode to them. Moving by a fraction of a position, which is what a
player's turns and steps do to nearly all of a picture, then is as simple in latents as in pictures (equivariance regularisation, EQ-VAE, arXiv 2502.09509).

That costs fine texture, and most of it comes back at the end: in the last steps nothing is moved and little noise added, while the latents are held nearly
where they are. Held-out frames of the maze gained more than a decibel by it, and the maze in play half as much detail again, with the same transformer.
After that the decoder alone is sharpened (`world_model.training.sharpen`).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from world_model.autoencoder import Autoencoder, AutoencoderConfig
from world_model.motion import resample
from world_model.precision import fast_autocast
from world_model.psnr import psnr_db
from world_model.training.data import Clips
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients, count_ranks, is_first, normal_like, share, uniform_for
from world_model.training.run import Run, learning_rate

MAX_PSNR_DB = float(10 * np.log10(255**2 / 1e-9))


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How to train an autoencoder."""

    model: AutoencoderConfig = AutoencoderConfig(channels=(64,), latent_channels=4, encoder_blocks=2, decoder_blocks=4)
    steps: int = 4000
    batch: int = 32
    muon_rate: float = 0.01
    adam_rate: float = 1e-3
    warp_share: float = 0.5  # of a batch: latents and picture moved and zoomed alike, so that moved latents decode to the moved picture
    moved_price: float = 0.1  # weight of the difference between the moved latents and the moved picture's latents, over their variance
    latent_noise: float = 0.04  # the largest standard deviation, drawn per frame
    size_price: float = 1e-3  # weight of the mean squared latent in the loss
    settle_from: float = 0.6  # the share of the steps after which nothing is moved
    settled_noise: float = 0.02  # the largest standard deviation from then on
    hold_price: float = 0.3  # weight of how far latents have gone since then, squared, over their variance
    sharpen_share: float = 0.12  # of the steps: so many more, in which the decoder alone is sharpened
    sharpen_batch: int = 16
    doubt_price: float = 0.02  # weight of what the discriminator says then


def draw_warps(rng: np.random.Generator, count: int, size: float = 0.2, right: float = 0.19, down: float = 0.08) -> Tensor:
    """Draw affine maps [count, 2, 3] (as `F.affine_grid` takes them): zoom by up to e^size, shifts by up to so many half pictures; half of them level."""
    maps = np.zeros((count, 2, 3), np.float32)
    maps[:, 0, 0] = maps[:, 1, 1] = np.exp(rng.uniform(-size, size, count))
    maps[:, 0, 2] = rng.uniform(-right, right, count)
    maps[:, 1, 2] = rng.uniform(-down, down, count) * (rng.random(count) < 0.5)
    return torch.from_numpy(maps)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Warp images [n, c, h, w] by affine maps [n, 2, 3]; what lies outside is the border."""
    return resample(images, F.affine_grid(maps, list(images.shape), align_corners=False))


def inside(maps: Tensor, height: int, width: int) -> Tensor:
    """Return where warped pictures show something of the picture, [n, 1, height, width]."""
    return (F.affine_grid(maps, [len(maps), 1, height, width], align_corners=False).abs() < 1).all(-1)[:, None]


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return horizontal and vertical differences of [batch, 3, height, width]."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + squared error + L1 of image gradients, images in [-1, 1]."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for a, b in zip(gradients(output), gradients(target), strict=True):
        loss = loss + F.l1_loss(a, b)
    return loss


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return what `psnr_db` does, but a finite number for equal arrays too, so that it can be averaged and written as JSON."""
    return min(psnr_db(a, b), MAX_PSNR_DB)


def train_autoencoder(recipe: AutoencoderRecipe, train: Clips, held_out: Clips, out: Path, begin: Mapping[str, Tensor] | None = None) -> Autoencoder:
    """Train, resume or just load the autoencoder in `out`; return it in evaluation mode with its latent statistics set.

    `begin` holds the weights that a new run begins from, if not from random ones.
    """
    torch.manual_seed(0)
    model = Autoencoder(recipe.model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if begin is not None:
        model.load_state_dict(begin)
    optimizer = MuonAdamW(model, recipe.muon_rate, recipe.adam_rate)  # AdamW alone was unstable at rates that learn fast enough
    settle, movable = round(recipe.settle_from * recipe.steps), copy.deepcopy(model.encoder)
    run = Run(out, "autoencoder", recipe.steps, {"model": model, "optimizer": optimizer, "movable": movable})
    probe_frames = draw_probe(held_out)
    losses: list[float] = []
    for step in run:
        rng = run.rng(step)
        target = draw_pictures(train, recipe.batch, rng)
        if step == settle:
            movable.load_state_dict(model.encoder.state_dict())
        if step < settle:
            maps = share(draw_warps(rng, round(recipe.warp_share * recipe.batch / count_ranks()) * count_ranks()))
            loss = moving_loss(model, recipe, target, maps)
        else:
            loss = settling_loss(model, recipe, target, movable)
        loss.backward()
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(step, recipe.steps))
        losses.append(loss.item())
        if is_first() and ((step + 1) % 100 == 0 or step + 1 == recipe.steps):
            decoded = reconstruct(model, probe_frames)
            run.log(step + 1, loss=float(np.mean(losses)), held_out_psnr=psnr(decoded, probe_frames))
            losses.clear()
            save_pairs(out / "autoencoder.png", probe_frames[:8], decoded[:8])
    set_latent_statistics(model, train)
    return model.eval()


def draw_probe(held_out: Clips, count: int = 256) -> np.ndarray:
    """Return the held-out frames [n, height, width, 3] by which progress is told, always the same."""
    drawn = np.random.default_rng(0).choice(len(held_out.frames), min(count, len(held_out.frames)), replace=False)
    return held_out.frames[np.sort(drawn)]


def draw_pictures(train: Clips, batch: int, rng: np.random.Generator) -> Tensor:
    """Return this rank's share of a batch of random frames, as pictures [n, 3, height, width] in [-1, 1]."""
    frames = torch.from_numpy(train.frames[share(rng.integers(len(train.frames), size=batch))])
    return (frames.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def moving_loss(model: Autoencoder, recipe: AutoencoderRecipe, target: Tensor, maps: Tensor) -> Tensor:
    """Return the loss of pictures [batch, 3, height, width] in [-1, 1], the first of which are moved by affine maps [n, 2, 3] between encoder and decoder."""
    with fast_autocast():
        z = model.encoder(target).float()
        moved, seen = _warp_first(z, maps), inside(maps, *target.shape[2:])
        target = _warp_first(target, maps)
        output = model.decoder(noised(moved, recipe.latent_noise)).float()
        again = model.encoder(target[: len(maps)].contiguous(memory_format=torch.channels_last)).float()
    known = (F.avg_pool2d(seen.float(), model.config.stride) == 1).float()
    astray = ((again - moved[: len(maps)]).square() * known).mean() / (known.mean() * z.var().detach())
    output[: len(maps)] = torch.where(seen, output[: len(maps)], target[: len(maps)])  # nobody knows what lies outside
    return picture_loss(output, target) + recipe.size_price * z.square().mean() + recipe.moved_price * astray


def settling_loss(model: Autoencoder, recipe: AutoencoderRecipe, target: Tensor, movable: nn.Module) -> Tensor:
    """Return the loss of pictures [batch, 3, height, width] in [-1, 1] whose latents shall stay nearly where the encoder `movable` puts them."""
    with fast_autocast():
        z = model.encoder(target).float()
        with torch.no_grad():
            was = movable(target).float()
        output = model.decoder(noised(z, recipe.settled_noise)).float()
    held = (z - was).square().mean() / z.var().detach()
    return picture_loss(output, target) + recipe.size_price * z.square().mean() + recipe.hold_price * held


def noised(z: Tensor, most: float) -> Tensor:
    """Return latents [n, c, h, w] with noise, whose standard deviation is drawn for each up to `most`."""
    return (z + most * uniform_for(z)[:, None, None, None] * normal_like(z)).contiguous(memory_format=torch.channels_last)


def _warp_first(images: Tensor, maps: Tensor) -> Tensor:
    return torch.cat([warp(images[: len(maps)], maps), images[len(maps) :]])


@torch.no_grad()
def reconstruct(model: Autoencoder, frames: np.ndarray) -> np.ndarray:
    """Encode and decode uint8 frames [n, height, width, 3]."""
    with fast_autocast():
        return np.concatenate([model.decode(model.encode(torch.from_numpy(part.copy()))).numpy() for part in np.array_split(frames, max(1, len(frames) // 32))])


def set_latent_statistics(model: Autoencoder, clips: Clips, count: int = 2048, probes: int = 8) -> None:
    """Set the mean and the matrix that give latents their scale, from evenly spaced frames.

    The matrix is the square root of E[J'J], J being the decoder's Jacobian (estimated with random probes), times the number that makes the mean
    variance of a channel one.
    """
    model.latent_mean.zero_()
    model.latent_matrix.copy_(torch.eye(len(model.latent_mean)))
    z = encode_all(model, clips.frames[:: max(1, len(clips.frames) // count)])
    mean = z.mean((0, 2, 3))
    some = z[:: max(1, len(z) // 64)].requires_grad_()
    generator = torch.Generator().manual_seed(0)
    metric = torch.zeros(len(mean), len(mean))
    for _ in range(probes):
        rgb = model.to_rgb(some)
        (gradient,) = torch.autograd.grad(rgb, some, torch.randn(rgb.shape, generator=generator))
        metric += torch.einsum("bchw,bdhw->cd", gradient, gradient)
    values, vectors = torch.linalg.eigh(metric)
    matrix = vectors @ values.clamp(min=1e-6 * float(values.max())).sqrt().diag() @ vectors.T
    centred = torch.einsum("cd,bdhw->bchw", matrix, z - mean[:, None, None])
    model.latent_mean.copy_(mean)
    model.latent_matrix.copy_(matrix / centred.square().mean().sqrt())


@torch.no_grad()
def encode_all(model: Autoencoder, frames: np.ndarray, batch: int = 64) -> Tensor:
    """Encode uint8 frames [n, height, width, 3] to float32 latents [n, channels, h, w]."""
    with fast_autocast():
        return torch.cat([model.encode(torch.from_numpy(frames[i : i + batch].copy())) for i in range(0, len(frames), batch)])


def save_pairs(path: Path, above: np.ndarray, below: np.ndarray) -> None:
    """Save a picture with real frames above and reconstructed frames below, at twice the size."""
    sheet = np.concatenate([np.concatenate(list(above), 1), np.concatenate(list(below), 1)], 0)
    Image.fromarray(sheet.repeat(2, 0).repeat(2, 1)).save(path)
