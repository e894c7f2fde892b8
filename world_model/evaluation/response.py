"""`main.py response`: how soon a world obeys another key, and what that costs.

A twin is the same stream with the same noise and another action from one tick on. Every trial plays a real situation of the environment (or a start of the
world) until the player changes his mind, then branches: for every binding one future takes the new action and its twin the old one. A rollback draws new
noise, so the twin is rolled back, too; what the same action with other noise changes is told beside it. What two futures differ by is the mean squared
difference of their pixels. It counts as visible from the size on that nine tenths of the real game's own first frames reach, where those differ at all.
"""

import json as jsonlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.card import WorldError
from world_model.evaluation.bench import machine
from world_model.evaluation.judge import Judge, find_judge, macro_f1
from world_model.evaluation.plots import check_matplotlib, plotted
from world_model.evaluation.real import RealGame, has_real
from world_model.training.autoencoder import psnr
from world_model.world import Stream, World

BEFORE, AFTER, SETTLED = 6, 12, 3  # frames under the old action, frames compared, frames whose mean is the final difference
PRICE_AT = 8  # frames after the change at which the picture is compared with the real game
UNKNOWN_THRESHOLD = 1e-3  # without the real game: pixels of a fifteenth of the range in a fifth of the picture


@dataclass(frozen=True)
class Situation:
    """A moment at which the player changes his mind: how the stream starts, and both actions.

    ``futures`` are the real game's frames from then on, BEFORE of them under the old action and then AFTER under the old and the new one, uint8
    [2, BEFORE + AFTER, height, width, 3], or None.
    """

    start: Any
    actions: np.ndarray | None
    old: np.ndarray
    new: np.ndarray
    futures: np.ndarray | None = None


def run(*, world: str = "maze", trials: int = 32, json: bool = False, plot: Path | None = None, device: str = "auto") -> int:
    """Measure and print the response of a world for every depth of rollback, and for actions bound at entry only; return 0."""
    if plot is not None:
        check_matplotlib()
    if trials < 1:
        raise ValueError(f"--trials is {trials}, but must be at least 1.")
    loaded = World.load(world, device)
    if not loaded.card.actions:
        raise WorldError(f"{loaded.card.title} obeys no keys; there is nothing to measure here.")
    report = measure(loaded, list(situations(loaded, trials)), judge=find_judge(loaded.card.name))
    print(jsonlib.dumps(report) if json else "\n".join([f"{report['world']} on {report['machine']}", *rows(report)]))
    if plot is not None:
        draw(report, plot)
    return 0


def rows(report: dict[str, Any]) -> list[str]:
    """Return the report as lines for people: one for every binding, and for the real game."""
    lines = [
        f"{report['trials']} changes of mind, visible from a mean squared difference of {report['threshold']:.5f}",
        f"{'bound':<12}{'next frame':>12}{'by noise':>10}{'first, frames':>15}{'half, frames':>14}{'first F1':>10}{'PSNR at 8':>11}{'ms':>8}",
    ]
    for name, row in (report["bindings"] | ({"real game": report["real"]} if "real" in report else {})).items():
        f1, price, ms = ("" if row.get(key) is None else f"{row[key]:.2f}" for key in ("first_frame_f1", "psnr_at_8", "tick_ms"))
        noise = f"{row['noise_share']:.0%}" if "noise_share" in row else ""
        frames = f"{row['first_frames']:>15.2f}{row['half_frames']:>14.2f}"
        lines.append(f"{name:<12}{row['next_frame_share']:>12.0%}{noise:>10}{frames}{f1:>10}{price:>11}{ms:>8}")
    return lines


def situations(world: World, trials: int, seed: int = 0) -> Iterator[Situation]:
    """Yield situations: of the real game where it can be played here, else of the world's own starts."""
    rng = np.random.default_rng(seed)
    if has_real(world):
        yield from real_situations(world, trials, rng)
        return
    for n in range(trials):
        old, new = draw_actions(world, rng)
        yield Situation(n % world.card.num_starts, None, old, new)


def draw_actions(world: World, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two different actions: nothing, or one held key."""
    choices = np.concatenate([np.zeros((1, len(world.card.actions))), np.eye(len(world.card.actions))]).astype(np.float32)
    old, new = rng.choice(len(choices), 2, replace=False)
    return choices[old], choices[new]


def real_situations(world: World, trials: int, rng: np.random.Generator) -> Iterator[Situation]:
    """Yield situations of the real game: a past of its scripted player, then both futures, played twice from the same seed."""
    real, past, made = RealGame(world), world.card.start_frames, 0
    while made < trials:
        seed, walked = int(rng.integers(1 << 30)), int(rng.integers(past, 150))
        old, new = draw_actions(world, rng)
        names = [[world.card.action_names[i] for i in np.flatnonzero(action)] for action in (old, new)]
        plays = [real.play(seed, walked, [names[0]] * BEFORE + [then] * AFTER) for then in names]
        if plays[0] and plays[1] and np.array_equal(plays[0][0][:walked], plays[1][0][:walked]):
            made += 1
            kept, actions, _ = plays[0]
            clip, futures = slice(walked - past, walked), np.stack([kept[walked:], plays[1][0][walked:]])
            yield Situation(kept[clip], actions[clip], old, new, futures)
    real.close()


def measure(world: World, trials: list[Situation], *, judge: Judge | None = None, seed: int = 0) -> dict[str, Any]:
    """Return the report: the threshold, and for every binding its curve and figures."""
    bindings: dict[str, dict[str, Any]] = {"at entry": {"rollback": 0, "late": False}}
    bindings |= {f"rollback {depth}" if depth else "late": {"rollback": depth} for depth in range(world.card.max_rollback + 1)}
    gaps: dict[str, list[np.ndarray]] = {name: [] for name in bindings}
    noises: dict[str, list[float]] = {name: [] for name in bindings}  # what the first frames under the old action differ by with and without the rollback
    prices: dict[str, list[float]] = {name: [] for name in bindings}
    times: dict[str, list[float]] = {name: [] for name in bindings}
    firsts: dict[str, list[np.ndarray]] = {name: [] for name in (*bindings, "real")}  # the first frame after the change, and the two before it
    for n, trial in enumerate(trials):
        stream = world.stream(seed=seed + n, start=trial.start, actions=trial.actions)
        before = [stream.tick(trial.old, rollback=0) for _ in range(BEFORE)]
        saved = stream.snapshot()
        kept: dict[int, np.ndarray] = {}
        for name, binding in bindings.items():
            depth = binding["rollback"]
            if depth not in kept:
                stream.restore(saved)
                stream.held = trial.new[None]  # the twin comes back from the new action, so it is rolled back, too
                kept[depth] = play(stream, trial.old, {"rollback": depth})[0]
            stream.restore(saved)
            changed, took = play(stream, trial.new, binding)
            gaps[name].append(difference(kept[depth], changed))
            noises[name].append(difference(kept[0][:1], kept[depth][:1])[0])
            times[name].append(took)
            firsts[name].append(np.stack([*before[-2:], changed[0]]))
            if trial.futures is not None:
                prices[name].append(psnr(changed[PRICE_AT - 1], trial.futures[1][BEFORE + PRICE_AT - 1]))
        if trial.futures is not None:
            firsts["real"].append(trial.futures[1][BEFORE - 2 : BEFORE + 1])
    real = np.stack([difference(*t.futures[:, BEFORE:]) for t in trials if t.futures is not None]) if trials[0].futures is not None else None
    threshold = UNKNOWN_THRESHOLD if real is None else float(np.percentile(real[:, 0][real[:, 0] > 0], 10))
    counts = np.ones(len(trials), bool) if real is None else real[:, 0] >= threshold
    commanded = np.stack([trial.new for trial in trials]) > 0.5
    report: dict[str, Any] = {"world": world.card.name, "machine": machine(), "trials": len(trials), "threshold": threshold, "bindings": {}}
    if real is not None:
        report["real"] = figures(real, threshold, counts) | {"first_frame_f1": first_frame_f1(judge, firsts["real"], commanded)}
    for name in bindings:
        report["bindings"][name] = {
            **figures(np.stack(gaps[name]), threshold, counts),
            "noise_share": round(float((np.array(noises[name])[counts] >= threshold).mean()), 4) if counts.any() else 0.0,
            "first_frame_f1": first_frame_f1(judge, firsts[name], commanded),
            "psnr_at_8": round(float(np.mean(prices[name])), 2) if prices[name] else None,
            "tick_ms": round(float(np.median(times[name])), 1),
        }
    return report


def first_frame_f1(judge: Judge | None, clips: list[np.ndarray], commanded: np.ndarray) -> float | None:
    """Return how well a judge reads the new actions [trials, actions] off the first frames after the change, each in a clip of three; None without one."""
    if judge is None:
        return None
    return round(macro_f1(np.concatenate([judge.see(clip).actions for clip in clips]), commanded), 4)


def play(stream: Stream, action: np.ndarray, binding: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return the frames [AFTER, height, width, 3] under an action and how many ms the first of them took."""
    began = time.perf_counter()
    frames = [stream.tick(action, **binding)]
    took = 1000 * (time.perf_counter() - began)
    return np.stack(frames + [stream.tick(action, **binding) for _ in range(AFTER - 1)]), took


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean squared difference per frame of uint8 frames [n, height, width, 3], in units of the full range."""
    return np.square((a.astype(np.float32) - b) / 255).mean((1, 2, 3))


def figures(gaps: np.ndarray, threshold: float, counts: np.ndarray) -> dict[str, Any]:
    """Condense differences [trials, AFTER]; `counts` are the trials in which the real game's next frame differs visibly.

    Returns:
        the mean curve; the share of those trials whose next frame differs visibly; the mean number of frames to the first that does, and to the
        first that has half the final difference (1 is the next frame; what never comes counts as one more than was watched).
    """
    final = gaps[:, -SETTLED:].mean(1, keepdims=True)
    return {
        "curve": [round(float(gap), 6) for gap in gaps.mean(0)],
        "next_frame_share": round(float((gaps[counts, 0] >= threshold).mean()), 4) if counts.any() else 0.0,
        "first_frames": round(float(_frames_until(gaps >= threshold).mean()), 3),
        "half_frames": round(float(_frames_until(gaps >= final / 2).mean()), 3),
    }


def _frames_until(reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(1), reached.argmax(1) + 1, reached.shape[1] + 1)


def draw(report: dict[str, Any], path: Path) -> None:
    """Save the curves as a picture."""
    with plotted(path, figsize=(7, 4)) as (_, axes):
        rows = report["bindings"] | ({"real game": report["real"]} if "real" in report else {})
        for name, row in rows.items():
            axes.plot(range(1, len(row["curve"]) + 1), row["curve"], label=name, color="black" if name == "real game" else None)
        axes.axhline(report["threshold"], linestyle=":", color="grey", label="visible")
        axes.set(xlabel="frames after the change", ylabel="mean squared difference from the twin", yscale="log")
        axes.legend()
