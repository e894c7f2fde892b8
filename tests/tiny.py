"""A world small enough for tests: random weights, 32 x 32 frames, two layers."""

from dataclasses import asdict

import torch

from world_model.autoencoder import Autoencoder, AutoencoderConfig
from world_model.bodies import BODY
from world_model.card import ActionSpec, Card
from world_model.context import ContextConfig
from world_model.recall import Recall
from world_model.stream import WindowConfig
from world_model.transformer import Transformer, TransformerConfig
from world_model.world import World


def make_world(block_frames: int = 1, seed: int = 0, recall_width: int = 0, bodies: int = 0) -> World:
    """Return a world of 32 x 32 frames with random weights everywhere, so that actions, levels and the past all matter."""
    torch.manual_seed(seed)
    actions = (ActionSpec("forward", ("up", "w"), "Walk"), ActionSpec("turn_left", ("left",), "Turn left"), ActionSpec("turn_right", ("right",), "Turn right"))
    autoencoder = Autoencoder(AutoencoderConfig(height=32, width=32, channels=(16, 24), latent_channels=8, patch=4, encoder_blocks=1, decoder_blocks=1))
    transformer = Transformer(
        TransformerConfig(
            dim=48, ffn_dim=96, num_heads=2, num_layers=2, in_channels=8, patch_size=(1, 2), freq_dim=32, num_actions=3,
            places=(4, 2), motion_channels=16, motion_blocks=1, recall_width=recall_width, recall_blocks=1, follow_width=16, bodies=bodies,
        )
    )  # fmt: skip
    window = WindowConfig(ladder=(1.0, 0.8, 0.5, 0.25), block_frames=block_frames, context=ContextConfig(sink=2, cache=6, attention=9))
    for module, scale in ((transformer, 0.15), (transformer.motion, 0.02), (autoencoder, 0.12)):
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=scale)
    with torch.no_grad():  # half of the frame before fades, or what is added to it would grow without end
        for channel in range(8):
            for features, sign in ((channel, 1), (8 + channel, -1)):
                transformer.motion.compare.weight[features, channel, 1, 1] += sign
                transformer.motion.leave.weight[channel, features, 1, 1] -= 0.5 * sign
    torch.nn.init.normal_(transformer.action_embedding[2].weight, std=0.5)
    num_starts, start_frames = 3, 4 * block_frames
    clips = torch.randint(0, 256, (num_starts, start_frames, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        latents = autoencoder.encode(clips).bfloat16()
    starts = {"latents": latents, "actions": (torch.rand(num_starts, start_frames, 3) < 0.3).float(), "screens": clips[:, -1].contiguous()}
    if recall_width:
        headings = torch.tensor([0.0, 2.0, 4.0])
        starts["places"] = torch.stack([*torch.tensor([[0.3, 0.5, 0.7], [0.6, 0.2, 0.5]]), headings.cos(), headings.sin(), *torch.zeros(4, 3)], 1)
        if bodies:
            life, slots = torch.tensor([1.0, 0.5, 3.0, 0.0, 0.0]), torch.rand(num_starts, bodies, BODY)
            slots[..., 0], slots[..., 5:7], slots[..., 9] = 1, 0, 2
            starts["places"] = torch.cat([starts["places"], life.expand(num_starts, -1), slots.flatten(1)], 1)
    card = Card(
        format=1, name="tiny", title="Tiny", description="", data_source="random numbers", licence="Apache-2.0", width=32, height=32, fps=17.5,
        actions=actions, rollback=2, num_starts=num_starts, start_frames=start_frames,
        transformer=asdict(transformer.config), autoencoder=asdict(autoencoder.config), window=asdict(window),
    )  # fmt: skip
    return World(card, autoencoder, transformer, window, starts)


@torch.no_grad()
def see_colours(recall: Recall) -> None:
    """Let the latents of a recall be the mean colours of its pictures."""
    enter, leave = recall.encode[1], recall.encode[-1]
    for layer in (enter, leave):
        layer.weight.zero_()
    for colour in range(3):
        enter.weight[colour, 16 * colour : 16 * colour + 16, 1, 1] = 1 / 16
        leave.weight[colour, colour, 1, 1] = 1
    for layer in (enter, leave, recall.colour):
        layer.bias.zero_()
    recall.colour.weight.copy_(torch.eye(3)[..., None, None])
