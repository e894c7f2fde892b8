"""The end of stage 1: sharpen the decoder against a discriminator, while the latents stay as they are.

Told by errors alone a decoder answers doubt with blur: of the maze's fine texture it kept two thirds. A discriminator that sees pictures and their latents asks
for texture as the world has it (VQGAN, arXiv 2012.09841; conditioned on the latents, what it asks for moves with them). The errors go on counting, so
frames stay as near to the real ones. Neither the encoder nor the statistics of the latents change: what a transformer has learnt goes on being true.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.autoencoder import Autoencoder
from world_model.precision import fast_autocast
from world_model.training.autoencoder import AutoencoderRecipe, draw_pictures, draw_probe, noised, picture_loss, psnr, reconstruct
from world_model.training.data import Clips
from world_model.training.ranks import average_gradients
from world_model.training.run import Average, Run, Stateful, learning_rate

FINE = 4.0  # times what a pixel differs from its neighbours' mean: the discriminator is shown that beside the picture
ALONE, GROWS = 60, 40  # steps in which the discriminator learns alone; in which its say then grows
RATE, DISCRIMINATOR_RATE = 1e-4, 1e-3
BETAS = 0.5, 0.99
EMA = 0.98


class PictureDiscriminator(nn.Module):
    """Pictures [n, 3, height, width] in [-1, 1] and their latents [n, c, h, w] to a map [n, 1, height / 4, width / 4], positive for real."""

    def __init__(self, latent_channels: int, channels: int = 64) -> None:
        super().__init__()
        self.fine = nn.Conv2d(6 * 4, channels, 3, padding=1)
        self.coarse = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.latents = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.whole = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.real = nn.Conv2d(2 * channels, 1, 3, padding=1)
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor, latents: Tensor) -> Tensor:
        texture = FINE * (pictures - F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False))
        seen = F.pixel_unshuffle(torch.cat([pictures, texture], 1), 2).contiguous(memory_format=torch.channels_last)
        coarse = self.coarse(F.leaky_relu(self.fine(seen), 0.2))
        known = F.interpolate(self.latents(latents), coarse.shape[2:])
        return self.real(F.leaky_relu(self.whole(F.leaky_relu(coarse + known, 0.2)), 0.2))


def sharpen(recipe: AutoencoderRecipe, model: Autoencoder, train: Clips, held_out: Clips, out: Path) -> None:
    """Sharpen the decoder of a trained autoencoder, resume, or just load the result in `out`; it ends with its averaged weights."""
    torch.manual_seed(0)
    decoder, discriminator = model.decoder, PictureDiscriminator(model.config.latent_channels)
    optimizer, learner = (torch.optim.AdamW(network.parameters(), RATE, betas=BETAS, weight_decay=0.0) for network in (decoder, discriminator))
    average = Average(decoder, EMA)
    parts: dict[str, Stateful] = {"decoder": decoder, "optimizer": optimizer, "average": average, "discriminator": discriminator, "learner": learner}
    steps, probe = round(recipe.sharpen_share * recipe.steps), draw_probe(held_out)
    alone, grows = min(ALONE, steps // 8), min(GROWS, 1 + steps // 12)
    run = Run(out, "sharpen", steps, parts)
    for step in run:
        real = draw_pictures(train, recipe.sharpen_batch, run.rng(step))
        with torch.no_grad():
            z = noised(model.encoder(real).float(), recipe.settled_noise)
        with fast_autocast():
            made = decoder(z).float()
            on_made, on_real = discriminator(made.detach(), z).float(), discriminator(real, z).float()
        hinge = F.relu(1 + on_made).mean() + F.relu(1 - on_real).mean()
        hinge.backward()
        _learn(discriminator, learner, DISCRIMINATOR_RATE)
        if step >= alone:
            with fast_autocast():
                doubt = -discriminator(made, z).float().mean()
            (picture_loss(made, real) + recipe.doubt_price * min(1.0, (step - alone) / grows) * doubt).backward()
            _learn(decoder, optimizer, RATE * learning_rate(step - alone, steps - alone, warmup=grows), most=1.0)
            learner.zero_grad()
            average.update(decoder)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            run.log(step + 1, hinge=hinge.item(), held_out_psnr=psnr(reconstruct(model, probe), probe))
    decoder.load_state_dict(average.shadow)


def _learn(network: nn.Module, optimizer: torch.optim.Optimizer, rate: float, most: float = float("inf")) -> None:
    """Make one step down a network's gradients, no longer than `most`, and forget them."""
    average_gradients(network.parameters())
    torch.nn.utils.clip_grad_norm_(network.parameters(), most)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
