"""`main.py evaluate`: everything that is measured of a world, beside its baselines, in one report.

Writes ``report.json``, plots and a contact sheet. Drift is played by the world itself, by the same weights without the rolling window (frame by frame) and
without the attention sink, and by other worlds given for comparison (weights of an earlier training stage, say), all on the same seeds and keys.
"""

import json as jsonlib
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from world_model.card import WorldError
from world_model.evaluation import bench, drift, fidelity, response
from world_model.evaluation.judge import Judge, find_judge, macro_f1
from world_model.evaluation.plots import check_matplotlib, plotted
from world_model.evaluation.real import RealGame, has_real
from world_model.world import World

SHEET_COLUMNS = 12


def run(
    *,
    world: str = "maze",
    against: tuple[str, ...] = (),
    minutes: float = 5.0,
    seeds: int = 8,
    trials: int = 32,
    judge: Path | None = None,
    out: Path | None = None,
    json: bool = False,
    device: str = "auto",
) -> int:
    """Measure a world and print the report; return 0.

    Raises:
        WorldError: there is no such world, or no judge for it.
    """
    for name, value in (("minutes", minutes), ("seeds", seeds), ("trials", trials)):
        if value <= 0:
            raise ValueError(f"--{name} is {value}, but must be more than 0.")
    check_matplotlib("An evaluation draws its curves with matplotlib; install it with pip install -e '.[make]'.")
    loaded = World.load(world, device)
    seer = Judge.load(judge) if judge else find_judge(loaded.card.name)
    if seer is None:
        raise WorldError(f"There is no judge for {loaded.card.name}; train one with main.py train --stage judge and give it with --judge.")
    if (seer.config.actions, seer.config.height, seer.config.width) != (loaded.card.action_names, loaded.card.height, loaded.card.width):
        raise WorldError(f"The judge has other actions or another frame size than {loaded.card.name}.")
    folder = Path(out) if out else Path("runs") / "evaluation" / loaded.card.name
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"world": loaded.card.name, "machine": bench.machine(), "minutes": minutes, "seeds": seeds, "judge": seer.config.figures}
    real = None
    if has_real(loaded):
        real, real_f1 = real_slices(loaded, seer, seeds)
        flagged = real_flags(loaded, minutes, seeds)
        report |= {"real_distance": round(drift.real_distance(real), 3), "real_action_f1": round(real_f1, 4), "real_collapsed": int(flagged.any(1).sum())}
        report["real_flagged_share"] = round(float(flagged.mean()), 4)
    report["variants"] = {}
    for name, (variant, rolling) in variants(loaded, against, device).items():
        played = drift.play(variant, seer, minutes, seeds, rolling=rolling, progress=Progress(name))
        report["variants"][name] = drift.report(played, real)
        save_sheet(played.sheet, folder / f"drift-{name.replace(' ', '-')}.png")
    report["response"] = response.measure(loaded, list(response.situations(loaded, trials)), judge=seer)
    if has_real(loaded):
        game = RealGame(loaded)
        clips = game.clips(trials, loaded.card.start_frames + max(fidelity.HORIZONS))
        game.close()
        report["fidelity"] = fidelity.measure(loaded, clips, trials=trials, judge=seer, sheet=folder / "fidelity.png")
    report["speed"] = bench.paced(loaded, min(20.0, 60 * minutes))
    (folder / "report.json").write_text(jsonlib.dumps(report, indent=1))
    plot(report, folder / "drift.png")
    response.draw(report["response"], folder / "response.png")
    print(jsonlib.dumps(report) if json else table(report))
    return 0


def variants(world: World, against: tuple[str, ...], device: str) -> dict[str, tuple[World, bool]]:
    """Return what drift is compared with: by name, a world and whether its window rolls.

    Raises:
        WorldError: one of the others has other actions or another frame size.
    """
    blind = replace(world.window, context=replace(world.window.context, sink=0))
    without_sink = World(world.card, world.autoencoder, world.transformer, blind, world.starts)
    compared = {"full": (world, True), "frame by frame": (world, False), "no sink": (without_sink, True)}
    for path in against:
        other, name = World.load(path, device), Path(path).stem
        if (other.card.action_names, other.card.height, other.card.width) != (world.card.action_names, world.card.height, world.card.width):
            raise WorldError(f"{path} has other actions or another frame size than {world.card.name}; they cannot be compared.")
        compared[f"{name} {len(compared)}" if name in compared else name] = other, True
    return compared


def real_slices(world: World, judge: Judge, seeds: int, slices: int = 12) -> tuple[list[np.ndarray], float]:
    """Return features of slices of real play, as many frames each as a slice of the world's, by the same restless players, and F1 of their actions."""
    game, (size, _) = RealGame(world), drift.slicing(world)
    parts = []
    for number in range(slices):
        players = [bench.player(world, 1000 * number + n) for n in range(seeds)]
        tapes = [[next(player) for _ in range(size)] for player in players]
        clips = game.clips(seeds, size + 2 + 17, tapes, seed=number)
        frames, actions = (part.reshape(seeds, -1, *part.shape[1:]).swapaxes(0, 1)[-size - 2 :] for part in (clips.frames, clips.actions))
        parts.append(drift.slices(frames, actions, judge))
    game.close()
    features, seen, told = zip(*parts, strict=True)
    return list(features), macro_f1(np.concatenate(seen), np.concatenate(told))


def real_flags(world: World, minutes: float, seeds: int) -> np.ndarray:
    """Return which slices look dead, [seeds, slices], when the same players play the real game for as long: before a plain wall its picture loops, too."""
    game, (size, count), progress = RealGame(world), drift.slicing(world, minutes), Progress("real game")
    flags = []
    for n in range(seeds):
        played, watch = game.endless(n, bench.player(world, n)), drift.Watch(world.card.fps)
        slices = (zip(*islice(played, size), strict=True) for _ in range(count))
        flags.append([bool(watch.look(np.stack(frames), np.stack(actions))) for frames, actions in slices])
        progress((n + 1) / seeds)
    game.close()
    return np.array(flags)


class Progress:
    """Print how far a variant has come and when it will be done, at most every ten seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.began, self.said = name, time.monotonic(), time.monotonic()

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self.said > 10 or share == 1:
            self.said = now
            print(f"{self.name}: {share:.0%}, ETA {(now - self.began) * (1 - share) / share:.0f} s", file=sys.stderr, flush=True)


def save_sheet(sheet: np.ndarray, path: Path) -> None:
    """Save a contact sheet of frames [slices, streams, height, width, 3]: a row per stream, time to the right."""
    columns = np.unique(np.linspace(0, len(sheet) - 1, SHEET_COLUMNS).astype(int))
    Image.fromarray(np.concatenate([np.concatenate(list(sheet[columns, n]), 1) for n in range(sheet.shape[1])], 0)).save(path)


def table(report: dict[str, Any]) -> str:
    """Return the report as text for people."""
    lines = [f"{report['world']} on {report['machine']}: {report['seeds']} rollouts of {report['minutes']:g} minutes"]
    if "real_distance" in report:
        lines.append(f"two random slices of real play lie {report['real_distance']:.2f} apart (Fréchet distance of the judge's features)")
        dead = f"{report['real_collapsed']} rollouts and {report['real_flagged_share']:.1%} of their slices"
        lines.append(f"when the same players play the real game {dead} look dead, and F1 of their actions is {report['real_action_f1']:.2f}")
    lines.append(f"{'variant':<18}{'drift':>8}{'from real':>16}{'contrast':>16}{'sharpness':>16}{'collapsed':>11}{'slices':>8}  action F1")
    for name, row in report["variants"].items():
        curves = (row.get("from_real"), row["statistics"]["contrast"], row["statistics"]["sharpness"])
        far, contrast, sharpness = (f"{values[0]:.1f} to {values[-1]:.1f}" if values else "" for values in curves)
        reads = ", ".join(f"{at}: {f1:.2f}" for at, f1 in row["action_f1"].items())
        lines.append(f"{name:<18}{row['drift']:>8.2f}{far:>16}{contrast:>16}{sharpness:>16}{row['collapsed']:>11}{row['flagged_share']:>8.1%}  {reads}")
    lines.append("the judge on real held-out frames: " + ", ".join(f"{name} {value:g}" for name, value in report["judge"].items()))
    for kind, by_horizon in report.get("fidelity", {}).items():
        lines.append(f"{kind:<22}" + "  ".join(f"{h}: {value:.2f}" for h, value in by_horizon.items()))
    lines += response.rows(report["response"])
    speed = report["speed"]["tick_ms"]
    lines.append(f"tick p50 {speed['p50']} ms, p95 {speed['p95']} ms, late {report['speed']['late_share']:.1%}")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Save how far each variant's slices lie from real play (or, without it, their sharpness) over time."""
    with plotted(path, figsize=(7, 4)) as (_, axes):
        for name, row in report["variants"].items():
            curve = row.get("from_real") or row["statistics"]["sharpness"]
            axes.plot(drift.SLICE_S * np.arange(1, len(curve) + 1), curve, label=name)
        if "real_distance" in report:
            axes.axhline(report["real_distance"], linestyle=":", color="grey", label="two slices of real play")
        axes.set(xlabel="seconds played", ylabel="distance from real play" if "real_distance" in report else "sharpness")
        axes.legend()
