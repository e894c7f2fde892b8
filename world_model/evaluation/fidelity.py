"""Fidelity: a world against the real environment under the same actions, PSNR by horizon.

Free-running: the stream starts from a real clip and is given the real actions; frame h is compared with the real frame h. Teacher-forced: the past is
real up to frame h - 1, and only frame h is generated. The autoencoder's own error is the ceiling, repeating the last real frame the floor.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from world_model.training.autoencoder import psnr
from world_model.training.data import Clips
from world_model.world import World

HORIZONS = (1, 8, 32)


@torch.no_grad()
def measure(world: World, clips: Clips, *, trials: int = 32, seed: int = 0, sheet: Path | None = None) -> dict[str, dict[int, float]]:
    """Return PSNR in dB by kind and horizon over `trials` clips spread over the data.

    Args:
        sheet: where to save a contact sheet: real frames above free-running ones.
    """
    past, longest = world.card.start_frames, max(HORIZONS)
    starts = clips.starts(past + longest)
    first = starts[np.linspace(0, len(starts) - 1, trials).astype(int)]
    kinds: dict[str, dict[int, list[float]]] = {k: {h: [] for h in HORIZONS} for k in ("free_running", "teacher_forced", "autoencoder", "repeat_last")}
    rows = []
    for n, row in enumerate(first):
        real, actions = clips.frames[row : row + past + longest], clips.actions[row : row + past + longest]
        stream = world.stream(seed=seed + n, start=real[:past], actions=actions[:past])
        made = np.stack([stream.tick(actions[past + h]) for h in range(longest)])
        rows += [real[past::4], made[::4]]
        for h in HORIZONS:
            truth, before = real[past + h - 1], slice(h - 1, past + h - 1)
            forced = world.stream(seed=seed + n, start=real[before], actions=actions[before]).tick(actions[past + h - 1])
            coded = world.autoencoder.decode(world.autoencoder.encode(torch.from_numpy(truth[None].copy()).to(world.device)))[0].cpu().numpy()
            for kind, frame in (("free_running", made[h - 1]), ("teacher_forced", forced), ("autoencoder", coded), ("repeat_last", real[past - 1])):
                kinds[kind][h].append(psnr(frame, truth))
    if sheet is not None:
        Image.fromarray(np.concatenate([np.concatenate(list(line), 1) for line in rows[:16]], 0)).save(sheet)
    return {kind: {h: round(float(np.mean(values)), 2) for h, values in by_horizon.items()} for kind, by_horizon in kinds.items()}
