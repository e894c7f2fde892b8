"""`main.py bench`: how fast a world runs here, and how steadily.

Ticks are timed from the action's arrival to the decoded frame in memory; what is prepared for the next one after that is told apart, and the real-time
factor counts both. The paced part plays at the world's own rate; the soak runs as fast as it can and watches memory and finiteness.
"""

import json as jsonlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from world_model.card import WorldError
from world_model.machine import processor
from world_model.world import Stream, World

T = TypeVar("T")


def run(
    *,
    world: str = "maze",
    json: bool = False,
    seconds: float = 60.0,
    soak: int = 2000,
    device: str = "auto",
    out: Path | None = None,
    against: Path | None = None,
    key_to_photon: Callable[[World], dict[str, float]] | None = None,
    recording: Callable[[World], dict[str, float]] | None = None,
    swap: Callable[[World, Callable[[], World]], dict[str, float]] | None = None,
) -> int:
    """Measure a world and print the figures, as one JSON object or as a table; return 0.

    `out` is a file for the JSON object, `against` one of an earlier run to compare with. `key_to_photon` and `swap` play the world in the game's own
    window, `recording` with the game's recorder, and return their figures; the game is not this package's to import.
    """
    earlier = read_figures(against) if against else None
    loaded = apart(World.load, world, device)
    if not loaded.card.actions:
        raise WorldError(f"{loaded.card.title} obeys no keys; there is nothing to measure here.")
    figures: dict[str, Any] = {"world": loaded.card.name, "machine": machine(), "threads": torch.get_num_threads()}
    figures["dtype"], figures["device"] = str(loaded.dtype).removeprefix("torch."), str(loaded.device)
    figures["torch"], figures["python"] = torch.__version__, platform.python_version()
    figures |= apart(paced, loaded, seconds)
    if key_to_photon is not None:
        figures["key_to_photon_ms"] = key_to_photon(loaded)
    if recording is not None:
        figures["recording"] = apart(recording, loaded)
    if swap is not None:
        figures["swap_s"] = swap(loaded, lambda: World.load(world, device))
    figures |= apart(soaked, loaded, soak)
    figures |= apart(fused_against_two_passes, loaded)
    figures["first_frame_s"] = first_frame(world)
    if json:
        print(jsonlib.dumps(figures))
    else:
        print(table(figures, earlier))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(jsonlib.dumps(figures, indent=1) + "\n")
    return 0


def apart(measure: Callable[..., T], *given: Any) -> T:
    """Return what a function returns, run in a thread that ends with it.

    A thread that computes has helpers of its own for as long as it lives. Where all of them are more than the cores, OpenMP puts them to sleep between any two
    operations, and a tick takes twice as long: so nobody computes beside the thread that plays, here as in the game.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(measure, *given).result()


def read_figures(path: Path) -> dict[str, Any]:
    """Return the figures of an earlier run.

    Raises:
        ValueError: the file is not one; the message is for the user.
    """
    try:
        figures = jsonlib.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not what bench --out wrote: {error}.") from error
    if not isinstance(figures, dict) or "tick_ms" not in figures:
        raise ValueError(f"{path} is not what bench --out wrote: it has no tick_ms.")
    return figures


def table(figures: dict[str, Any], earlier: dict[str, Any] | None = None) -> str:
    """Return figures as lines; beside those of an earlier run, with the ratio of numbers where both have one."""
    lines = []
    now, before = flat(figures), flat(earlier or {})
    for name, value in now.items():
        line = f"{name:28} {value}"
        if earlier is not None:
            old = before.get(name, "")
            ratio = f"  {value / old:.2f}x" if type(value) in (int, float) and type(old) in (int, float) and old else ""
            line = f"{name:28} {value!s:>28} {old!s:>28}{ratio}"
        lines.append(line)
    return "\n".join(lines)


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Return nested figures as one level, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        found |= {f"{name}.{inner}": v for inner, v in flat(value).items()} if isinstance(value, dict) else {name: value}
    return found


def machine() -> str:
    """Return the processor's name and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores"


def player(world: World, seed: int = 0):
    """Yield actions of a restless player: one or two held actions, changed every few frames."""
    rng = np.random.default_rng(seed)
    names = world.card.action_names
    while True:
        held = [str(name) for name in rng.choice(names, size=min(len(names), int(rng.integers(0, 3))), replace=False)]
        for _ in range(int(rng.integers(1, 20))):
            yield held


def paced(world: World, seconds: float) -> dict[str, Any]:
    """Play at the world's frame rate; return percentiles of the tick and the share of frames that came after their deadline."""
    stream, actions, period = world.stream(seed=1), player(world), 1 / world.card.fps
    for _ in range(5):
        stream.tick(next(actions))
    times, spent, changes, late, held = [], [], [], 0, None
    began = time.perf_counter()
    frames = max(1, round(seconds * world.card.fps))
    for n in range(frames):
        time.sleep(max(0.0, began + n * period - time.perf_counter()))
        action, before = next(actions), time.perf_counter()
        stream.tick(action)
        after = time.perf_counter()
        stream.prepare()
        times.append(1000 * (after - before))
        spent.append(1000 * (time.perf_counter() - before))
        changes.append(held is not None and action != held)
        held = action
        late += after > began + (n + 1) * period
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).round(2).tolist()
    return {
        "tick_ms": {"p50": p50, "p95": p95, "p99": p99},
        "fps": round(frames / (time.perf_counter() - began), 3),
        "late_share": round(late / frames, 5),
        "prepare_ms": round(float(np.median(np.array(spent) - times)), 2),
        "real_time_factor": round(1000 * period / float(np.percentile(spent, 95)), 2),
        "action_changes": int(np.sum(changes)),
        "change_tick_ms": round(float(np.median(np.array(times)[changes])), 2) if any(changes) else None,
        "held_tick_ms": round(float(np.median(np.array(times)[~np.array(changes)])), 2),
        "rollback": world.card.rollback,
        "seconds": seconds,
    }


def soaked(world: World, ticks: int) -> dict[str, Any]:
    """Run many ticks without pause; return the growth of resident memory after the first 200 and whether all stayed finite."""
    stream, actions = world.stream(seed=2), player(world, 1)
    finite, base, began = True, resident_mb(), time.perf_counter()
    for n in range(ticks):
        stream.tick(next(actions))
        if n == min(200, ticks - 1):
            base = resident_mb()
        if n % 100 == 0:
            finite = finite and bool(torch.isfinite(stream.window.x).all())
    speed = round(ticks / (time.perf_counter() - began), 1)
    return {"soak_ticks": ticks, "soak_fps": speed, "rss_growth_mb": round(resident_mb() - base, 1), "finite": finite}


def fused_against_two_passes(world: World, ticks: int = 150) -> dict[str, Any]:
    """Time fused and two-pass ticks in turn; return the ratio of the medians and the largest difference of the pictures."""
    streams: dict[bool, Stream] = {fused: world.stream(seed=3, fused=fused) for fused in (True, False)}
    times: dict[bool, list[float]] = {True: [], False: []}
    difference = 0.0
    for _, action in zip(range(ticks), player(world, 2), strict=False):
        frames = {}
        for fused, stream in streams.items():
            before = time.perf_counter()
            frames[fused] = stream.tick(action)
            times[fused].append(time.perf_counter() - before)
        difference = max(difference, float(np.abs(frames[True].astype(np.float32) - frames[False]).mean()))
    return {"fused_speedup": round(float(np.median(times[False]) / np.median(times[True])), 3), "fused_mean_pixel_difference": round(difference, 3)}


def first_frame(world: str) -> float:
    """Return the seconds from the command to the end of a headless run of one frame."""
    command = [sys.executable, str(Path(__file__).resolve().parents[2] / "main.py"), "play", world, "--headless", "--frames", "1"]
    before = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - before, 2)


def resident_mb() -> float:
    """Return this process's resident memory in MB (0 where the system does not tell)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0
