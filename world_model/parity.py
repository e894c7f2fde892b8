"""Parity with the published sampler: replay a golden run through our engine and compare every latent frame.

A golden file (safetensors) holds a model's weights in the published layout, the prompt embedding, every noise draw of a run of the
published sampler and the latents that it produced. The engine gets the same draws, by address, and must arrive at the same latents.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from world_model.context import ContextConfig
from world_model.schedule import warped_ladder
from world_model.stream import RollingWindow, WindowConfig
from world_model.transformer import Transformer, TransformerConfig

TOLERANCE = 1e-5


class RecordedNoise:
    """A `NoiseSource` that returns the draws of a golden run.

    The published sampler draws the initial noise of all blocks up front, and then, for every window and every block in it that goes on to
    another level, noise for the whole window, of which it uses that block's rows. This walks through its windows in order and keeps the rows by
    (block, level).
    """

    def __init__(self, initial: Tensor, draws: list[Tensor], levels: int, block_frames: int) -> None:
        blocks = initial.shape[1] // block_frames
        self.rows = {(b, 0): initial[:, b * block_frames : (b + 1) * block_frames] for b in range(blocks)}
        remaining = iter(draws)
        for window in range(blocks + levels - 1):
            first = max(0, window - levels + 1)
            for block in range(first, min(blocks, window + 1)):
                level = window - block  # a block enters at window == block and moves one level per window
                if level < levels - 1:
                    row = (block - first) * block_frames
                    self.rows[block, level + 1] = next(remaining)[None, row : row + block_frames]

    def __call__(self, block: int, level: int, rollback: int = 0) -> Tensor:
        return self.rows[block, level]


def replay(path: Path, *, fused: bool = True, model: Transformer | None = None) -> tuple[Tensor, Tensor]:
    """Run the engine on a golden file; return (ours, theirs), latents [1, frames, channels, height, width].

    Args:
        fused: as in `RollingWindow`.
        model: in place of one with the file's own weights.

    Raises:
        ValueError: the file is not a golden run; the message is one sentence.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sizes = json.loads(meta["config"])
        weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
        patch = weights["patch_embedding.weight"].shape
        config = TransformerConfig(
            dim=sizes["dim"], ffn_dim=sizes["ffn_dim"], num_heads=sizes["num_heads"], num_layers=sizes["num_layers"],
            in_channels=patch[1], patch_size=(patch[3], patch[4]), freq_dim=sizes["freq_dim"],
            text_dim=sizes["text_dim"], text_len=sizes["text_len"], eps=sizes["eps"], prediction="velocity",
        )  # fmt: skip
        if "denoising_steps" in tensors:
            ladder = tuple(float(t) / 1000 for t in tensors["denoising_steps"])
        else:
            ladder = warped_ladder(tuple(json.loads(meta["steps"])), float(meta["shift"]))
        block_frames = int(meta["frames_per_block"])
        context = ContextConfig(sink=1, cache=int(meta["cache_blocks"]), attention=int(meta["attention_blocks"]), clean_sees_sink=False)
        draws = [tensors[name] for name in sorted(tensors) if name.startswith("renoise.")]
        noise = RecordedNoise(tensors["noise"].float(), draws, len(ladder), block_frames)
        blocks, theirs = tensors["noise"].shape[1] // block_frames, tensors["latents"].float()
        if model is None:
            model = Transformer(config)
            model.load_state_dict({name: t.float() for name, t in weights.items()})
        with torch.no_grad():
            text = model.embed_text(tensors["prompt_embeds"].float())
            window = RollingWindow(model, WindowConfig(ladder, block_frames, context), noise, tuple(theirs.shape[2:]), text=text, fused=fused)
            passes = [window.advance(None, append=w < blocks) for w in range(blocks + len(ladder) - 1)]
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, StopIteration) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a golden run of the published sampler ({type(error).__name__}: {reason}).") from error
    return torch.cat([block for block in passes if block is not None], 1), theirs


def main(path: Path) -> int:
    """Print the largest absolute difference between our latents and the golden run's; return 0 if it is within tolerance."""
    try:
        ours, theirs = replay(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if ours.shape != theirs.shape:
        print(f"{path}: we made latents of shape {tuple(ours.shape)}, the file holds {tuple(theirs.shape)}.", file=sys.stderr)
        return 1
    worst = float((ours - theirs).abs().max())
    print(f"largest absolute difference over {ours.shape[1]} latent frames: {worst:.2e} (tolerance {TOLERANCE:.0e})")
    return 0 if worst <= TOLERANCE else 1
