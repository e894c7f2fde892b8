"""Train the judge (`world_model.evaluation.judge`) on real frames, and say how good it is on held-out ones.

Generated frames are softer than real ones, so the judge learns from blurred and noisy frames too: it shall judge movement and place, not crispness.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.evaluation.judge import FRAMES, Judge, JudgeConfig, macro_f1, shrink
from world_model.precision import fast_autocast
from world_model.training.data import Clips
from world_model.training.ranks import average_gradients, share
from world_model.training.run import Run, Stateful, learning_rate


@dataclass(frozen=True)
class JudgeRecipe:
    """How to train a judge; ``worn`` is the share of training examples that are blurred and made noisy."""

    steps: int = 2500
    batch: int = 64
    rate: float = 1e-3
    worn: float = 0.5


def train_judge(recipe: JudgeRecipe, train: Clips, held_out: Clips, out: Path) -> Judge:
    """Train, resume or just load the judge in `out`; return it with its held-out figures in its configuration."""
    torch.manual_seed(0)
    _, height, width, _ = train.frames.shape
    low, high = train.states[:, :2].min(0), train.states[:, :2].max(0) + 1e-3
    config = JudgeConfig(train.vocabulary, height, width, (float(low[0]), float(low[1])), (float(high[0]), float(high[1])))
    judge = Judge(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), recipe.rate, weight_decay=1e-2)
    parts: dict[str, Stateful] = {"model": judge, "optimizer": optimizer}
    run = Run(out, "judge", recipe.steps, parts)
    starts, losses = train.starts(FRAMES), []
    for step in run:
        rows = share(np.sort(run.rng(step).choice(starts, recipe.batch)))
        frames, told, pose = batch(train, rows, config)
        with fast_autocast():
            seen, where = judge(wear(shrink(frames), recipe.worn, run.rng(step)))
        loss = F.binary_cross_entropy_with_logits(seen.float(), told) + F.mse_loss(where.float(), pose)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(judge.parameters())
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = recipe.rate * learning_rate(step, recipe.steps)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            run.log(step + 1, loss=float(np.mean(losses)))
            losses.clear()
    judge.eval()
    judge.config = replace(config, figures=accuracy(judge, held_out))
    return judge


def batch(clips: Clips, rows: np.ndarray, config: JudgeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames uint8 [b, 3, height, width, 3] from the rows on, and of the last of each the actions [b, actions] and the pose [b, 4]."""
    last = rows + FRAMES - 1
    frames = np.stack([clips.frames[rows + i] for i in range(FRAMES)], 1)
    place = (clips.states[last, :2] - config.low) / (np.array(config.high) - config.low)
    heading = np.radians(clips.states[last, 2:3])
    pose = np.concatenate([place, np.cos(heading), np.sin(heading)], 1).astype(np.float32)
    return torch.from_numpy(frames), torch.from_numpy(clips.actions[last]), torch.from_numpy(pose)


def wear(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Blur a share of the examples [b, 9, h, w] by 2 or 3 positions and add noise of up to an eighth of the range."""
    worn = x.clone()
    for i in np.flatnonzero(rng.random(len(x)) < share):
        size = int(rng.integers(1, 4))
        soft = F.avg_pool2d(x[i], size, 1, size // 2, count_include_pad=False)[..., : x.shape[2], : x.shape[3]]
        worn[i] = soft + float(rng.uniform(0, 0.125)) * torch.randn_like(soft)
    return worn


def accuracy(judge: Judge, held_out: Clips) -> dict[str, float]:
    """Return F1 of actions, and the median error of position (in the environment's units) and heading (degrees), on held-out frames."""
    seen_actions, told, away, turned = [], [], [], []
    for first, end in zip(held_out.bounds[:-1], held_out.bounds[1:], strict=True):
        if end - first < FRAMES:
            continue
        seen, truth = judge.see(held_out.frames[first:end]), held_out.states[first + FRAMES - 1 : end]
        seen_actions.append(seen.actions)
        told.append(held_out.actions[first + FRAMES - 1 : end] > 0.5)
        away.append(np.linalg.norm(seen.positions - truth[:, :2], axis=1))
        turned.append(np.abs((seen.headings - truth[:, 2] + 180) % 360 - 180))
    actions, commanded = np.concatenate(seen_actions), np.concatenate(told)
    changed = np.concatenate([np.r_[False, (t[1:] != t[:-1]).any(1)] for t in told])
    by_action = {f"f1_{name}": round(macro_f1(actions[:, [i]], commanded[:, [i]]), 4) for i, name in enumerate(judge.config.actions)}
    told_of_place = {
        "position_error": round(float(np.median(np.concatenate(away))), 2),
        "heading_error": round(float(np.median(np.concatenate(turned))), 2),
    }
    return {
        "action_f1": round(macro_f1(actions, commanded), 4),
        "action_f1_after_change": round(macro_f1(actions[changed], commanded[changed]), 4),
        **by_action,
        **(told_of_place if held_out.knows_states else {}),
    }
