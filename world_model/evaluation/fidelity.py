"""Fidelity: a world against the real environment under the same actions, by horizon: PSNR, and where a judge believes the player to be.

Free-running: the stream starts from a real clip and is given the real actions; frame h is compared with the real frame h. Teacher-forced: the past is
real up to frame h - 1, and only frame h is generated. The autoencoder's own error is the ceiling, repeating the last real frame the floor.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from world_model.evaluation.judge import FRAMES, Judge
from world_model.training.autoencoder import psnr
from world_model.training.data import Clips
from world_model.world import World

HORIZONS = (1, 8, 32)


@torch.no_grad()
def measure(
    world: World, clips: Clips, *, trials: int = 32, judge: Judge | None = None, seed: int = 0, sheet: Path | None = None
) -> dict[str, dict[int, float]]:
    """Return by kind and horizon, over `trials` clips spread over the data, PSNR in dB; with a judge also the median errors of position and heading.

    Clips begin while the player does something, if he ever does: where nothing moves repeating a frame is no feat.

    Args:
        trials: how many; no more than fit into the data side by side.
        sheet: where to save a contact sheet: real frames above free-running ones.
    """
    past, longest = world.card.start_frames, max(HORIZONS)
    starts = clips.starts(past + longest)
    active = clips.actions[starts + past].any(1)
    starts = starts[active] if active.any() else starts
    trials = min(trials, len(starts), max(1, len(clips.frames) // (past + longest)))
    first = starts[np.linspace(0, len(starts) - 1, trials).astype(int)]
    knows_places = judge is not None and clips.knows_states
    kinds: dict[str, dict[int, list[float]]] = {k: {h: [] for h in HORIZONS} for k in ("free_running", "teacher_forced", "autoencoder", "repeat_last")}
    errors: dict[str, dict[int, list[float]]] = {
        f"{kind}_{what}": {h: [] for h in HORIZONS} for kind in ("free_running", "real") for what in ("position", "heading") if knows_places
    }
    rows = []
    for n, row in enumerate(first):
        real, actions = clips.frames[row : row + past + longest], clips.actions[row : row + past + longest]
        stream = world.stream(seed=seed + n, start=real[:past], actions=actions[:past])
        made = np.stack([stream.tick(actions[past + h]) for h in range(longest)])
        rows += [real[past::4], made[::4]]
        if judge is not None and knows_places:
            for kind, frames in (("free_running", made), ("real", real[past:])):
                poses = judge.see(np.concatenate([real[past - FRAMES + 1 : past], frames]))
                for h in HORIZONS:
                    x, y, heading = clips.states[row + past + h - 1, :3]
                    errors[f"{kind}_position"][h].append(float(np.hypot(*(poses.positions[h - 1] - (x, y)))))
                    errors[f"{kind}_heading"][h].append(abs(float((poses.headings[h - 1] - heading + 180) % 360 - 180)))
        for h in HORIZONS:
            truth, before = real[past + h - 1], slice(h - 1, past + h - 1)
            forced = world.stream(seed=seed + n, start=real[before], actions=actions[before]).tick(actions[past + h - 1])
            coded = world.autoencoder.decode(world.autoencoder.encode(torch.from_numpy(truth[None].copy()).to(world.device)))[0].cpu().numpy()
            for kind, frame in (("free_running", made[h - 1]), ("teacher_forced", forced), ("autoencoder", coded), ("repeat_last", real[past - 1])):
                kinds[kind][h].append(psnr(frame, truth))
    if sheet is not None:
        Image.fromarray(np.concatenate([np.concatenate(list(line), 1) for line in rows[:16]], 0)).save(sheet)
    means = {kind: {h: round(float(np.mean(values)), 2) for h, values in by_horizon.items()} for kind, by_horizon in kinds.items()}
    return means | {kind: {h: round(float(np.median(values)), 2) for h, values in by_horizon.items()} for kind, by_horizon in errors.items()}
