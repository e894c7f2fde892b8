"""`main.py scale`: what a tick costs as a world grows, in frame size, window, context and streams at once, each alone.

Where a size changes the weights are random: time does not depend on them. Each world is played with a full context. The share of the machine is the
operations of a pass (matrix products and convolutions, as torch counts them) against the rate at which it multiplies two large matrices.
"""

import json as jsonlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from world_model.autoencoder import Autoencoder
from world_model.card import WorldError
from world_model.evaluation.bench import machine
from world_model.evaluation.plots import check_matplotlib, plotted
from world_model.packing import flop_formulas
from world_model.transformer import Transformer
from world_model.world import World, lay_out

BATCHES, WINDOWS, CONTEXTS, SIZES = (1, 2, 4, 8, 16, 32, 64), (1, 2, 3, 4, 6, 8), (4, 8, 16, 32, 64), (0.5, 1, 1.5, 2, 2.5)
LARGE = 2048  # rows and columns of the matrices that tell the machine's rate


def run(*, world: str = "maze", ticks: int = 20, json: bool = False, plot: Path | None = None, device: str = "auto") -> int:
    """Measure and print what grows with what; return 0."""
    if plot is not None:
        check_matplotlib()
    if ticks < 1:
        raise ValueError(f"--ticks is {ticks}, but must be at least 1.")
    loaded = World.load(world, device)
    if loaded.card.parts:
        raise WorldError(f"{loaded.card.title} is not one of our own worlds; its costs are in docs/published.md.")
    report: dict[str, Any] = {"world": loaded.card.name, "machine": machine(), "threads": torch.get_num_threads(), "dtype": str(loaded.dtype)}
    report["matrix_gflops"] = round(matrix_rate(loaded) / 1e9, 1)
    for what, value, larger, batch in growth(loaded):
        row = cost(larger, batch, ticks, 1e9 * report["matrix_gflops"])
        report.setdefault(what, {})[value] = row
        if not json:
            if len(report[what]) == 1:
                print(f"{what:<14}{'ms a tick':>12}{'frames/s':>12}{'MB a stream':>14}{'GFLOP a pass':>15}{'of the machine':>16}")
            print(
                f"{value:<14}{row['tick_ms']:>12.1f}{row['frames_per_s']:>12.1f}{row['mb_per_stream']:>14.2f}{row['gflop']:>15.2f}{row['share']:>16.0%}",
                flush=True,
            )
    if json:
        print(jsonlib.dumps(report))
    else:
        print(f"{report['machine']}, {report['threads']} threads, {report['dtype']}: {report['matrix_gflops']:g} GFLOP/s in matrix products")
    if plot is not None:
        draw(report, plot)
    return 0


def growth(world: World) -> Iterator[tuple[str, str, World, int]]:
    """Yield what grows, how far, the world and the number of streams."""
    for batch in BATCHES:
        yield "streams", str(batch), world, batch
    context = world.window.context
    for length in WINDOWS:
        ladder = tuple(1 - i / length for i in range(length))
        yield "window", str(length), grown(world, ladder=ladder, context=replace(context, attention=context.cache + length)), 1
    for blocks in CONTEXTS:
        wider = replace(context, sink=min(context.sink, blocks - 2), cache=blocks, attention=blocks + len(world.window.ladder))
        yield "context", str(blocks), grown(world, context=wider), 1
    for factor in SIZES:
        width, height = round(factor * world.card.width), round(factor * world.card.height)
        yield "frame", f"{width}x{height}", resized(world, width, height), 1


def grown(world: World, **changes: Any) -> World:
    """Return the world with another window."""
    return World(world.card, world.autoencoder, world.transformer, replace(world.window, **changes), {})


def resized(world: World, width: int, height: int) -> World:
    """Return a world of other frames, of the same kind and with random weights."""
    sizes = replace(world.autoencoder.config, width=width, height=height)
    _, rows, columns = sizes.latent_shape
    config = world.transformer.config
    places = (rows // config.patch_size[0], columns // config.patch_size[1]) if config.places else None
    autoencoder = Autoencoder(sizes).to(world.device, world.dtype)
    transformer = Transformer(replace(config, places=places)).to(world.device, world.dtype)
    lay_out(autoencoder, transformer)
    return World(msgspec.structs.replace(world.card, width=width, height=height), autoencoder, transformer, world.window, {})


@torch.no_grad()
def cost(world: World, batch: int, ticks: int, rate: float) -> dict[str, float]:
    """Return the median tick of `batch` streams in step: its ms, frames/s of all, memory per stream in MB, GFLOP of its pass and their share of `rate`."""
    card = world.card
    clip = np.random.default_rng(0).integers(0, 256, (world.window.context.cache + 1, card.height, card.width, 3), np.uint8)
    stream = world.stream(range(batch), clip)
    action = [np.zeros(len(card.actions), np.float32)] * batch
    for _ in range(2):
        stream.tick(action)
    times, passes = [], []
    for _ in range(ticks):
        before = time.perf_counter()
        stream.tick(action)
        times.append(time.perf_counter() - before)
    held = torch.zeros(batch, len(card.actions), device=world.device)
    for _ in range(ticks):
        before = time.perf_counter()
        stream.window.advance(held)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        passes.append(time.perf_counter() - before)
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        stream.window.advance(held)
    window = stream.window
    kept = [window.cache.k, window.cache.v, window.x, window.x0, window.last, window.actions, window.lived]
    tick, flop = float(np.median(times)), counter.get_total_flops()
    return {
        "tick_ms": round(1000 * tick, 2),
        "frames_per_s": round(batch * world.window.block_frames / tick, 1),
        "mb_per_stream": round(sum(t.numel() * t.element_size() for t in kept) / batch / 1e6, 3),
        "gflop": round(flop / 1e9, 3),
        "share": round(flop / float(np.median(passes)) / rate, 4),
    }


@torch.no_grad()
def matrix_rate(world: World, times: int = 8) -> float:
    """Return at how many floating-point operations per second the world's device multiplies two large matrices of its dtype: the best of a few."""
    a, b = (torch.randn(LARGE, LARGE, device=world.device).to(world.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(times):
        before = time.perf_counter()
        a @ b
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
    return 2 * LARGE**3 / best


def draw(report: dict[str, Any], path: Path) -> None:
    """Save the curves as a picture."""
    with plotted(path, ncols=4, figsize=(13, 3.2)) as (figure, axes):
        labels = {"streams": "streams at once", "window": "frames in the window", "context": "frames in the context", "frame": "frame"}
        for ax, (what, label) in zip(axes, labels.items(), strict=True):
            names, rows = list(report[what]), list(report[what].values())
            ax.plot(names, [row["tick_ms"] for row in rows], "o-")
            ax.set(xlabel=label, ylabel="ms a tick", ylim=(0, None))
            ax.tick_params(axis="x", labelrotation=30 if what == "frame" else 0)
        figure.suptitle(f"{report['world']} on {report['machine']}")
