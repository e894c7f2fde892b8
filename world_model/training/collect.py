"""Collect training data: a scripted player plays the real game and every session is recorded, until there are frames enough.

Sessions go to ``OUT/train/NNNNN`` and ``OUT/held_out/NNNNN`` (other seeds), and what is known of the world to ``OUT/world.json``. A run that was cut goes
on where it stopped: unfinished sessions are made again, finished ones are kept.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from world_model.real import environment
from world_model.real.game import Game, GameError, Source
from world_model.real.origin import LONGEST_SIDE, SIDE_STEP
from world_model.real.sources import SOURCES
from world_model.session import SessionWriter

HELD_OUT_SEED = 1 << 20
SESSION_FRAMES = 1050  # a minute of the maze: a game that does not end is left after so many


def run(
    *,
    world: str = "",
    out: Path,
    env: str | None = None,
    keys: Path | None = None,
    frames: int = 200_000,
    held_out_frames: int = 10_000,
    size: str | None = None,
    fps: float | None = None,
    frame_skip: int | None = None,
    seed: int = 0,
) -> int:
    """Collect `frames` training and `held_out_frames` held-out frames into `out`; print what was seen.

    Raises:
        GameError: it is not said clearly which game is to be played, or it cannot be played here.
    """
    for name, value in (("frames", frames), ("held-out-frames", held_out_frames), ("fps", fps), ("frame-skip", frame_skip)):
        if value is not None and value <= 0:
            raise GameError(f"--{name} is {value}, but must be more than 0.")
    if bool(world) == bool(env) or (env is None) != (keys is None):
        raise GameError(f"Say which game: one of {', '.join(SOURCES)}, or a Gymnasium environment by --env with its --keys.")
    if env and keys:
        source = environment.source(env, keys, size=_size(size), fps=fps, frame_skip=frame_skip)
    elif world not in SOURCES:
        raise GameError(f"There is no collector for {world!r}; known are {', '.join(SOURCES)}, and any Gymnasium environment by --env.")
    elif size or fps or frame_skip:
        raise GameError(f"Frame size and rate of {world} are fixed; --size, --fps and --frame-skip are for --env.")
    else:
        source = SOURCES[world]
    collect(source, Path(out), frames, held_out_frames, seed)
    return 0


def collect(source: Source, out: Path, frames: int, held_out_frames: int, seed: int = 0) -> None:
    """Collect sessions of a source; give one with another player to have it played better.

    Raises:
        GameError: a package is missing.
        OriginError: `out` holds sessions of something else.
    """
    source.origin.write(out)
    try:
        game = source.open()
    except ImportError as error:
        raise GameError(f"To play the real {source.origin.name}, install {source.needs} with pip install -e '.[make]'.") from error
    try:
        for split, wanted, first_seed in (("train", frames, seed), ("held_out", held_out_frames, seed + HELD_OUT_SEED)):
            report = _collect(source, game, out / split, wanted, first_seed)
            (out / f"{split}.json").write_text(json.dumps(report, indent=1))
            print(f"{split}: {report['frames']} frames in {report['sessions']} sessions")
            for title in ("actions", "happened"):
                print(f"  {title}, per 1000 frames: " + ", ".join(f"{name} {1000 * share:.4g}" for name, share in report[title].items()))
    finally:
        game.close()


def _collect(source: Source, game: Game, out: Path, wanted: int, seed: int) -> dict:
    seen: dict[str, Counter[str]] = {"actions": Counter(), "happened": Counter()}
    total = made = session = 0
    began = time.monotonic()
    while total < wanted:
        directory = out / f"{session:05d}"
        stats_path = directory / "stats.json"
        if not stats_path.exists():
            shutil.rmtree(directory, ignore_errors=True)
            stats = _session(source, game, directory, seed + session, min(SESSION_FRAMES, wanted - total))
            stats_path.write_text(json.dumps(stats))
            made += stats["frames"]
        stats = json.loads(stats_path.read_text())
        total, session = total + stats["frames"], session + 1
        for title, counts in seen.items():
            counts.update(stats.get(title, {}))
        if session % 20 == 0 and made:
            rate = made / (time.monotonic() - began)
            print(f"{total}/{wanted} frames, {rate:.0f} per second, ETA {(wanted - total) / rate:.0f} s", flush=True)
    shares = {title: {name: count / total for name, count in sorted(counts.items())} for title, counts in seen.items()}
    return {"sessions": session, "frames": total, **shares}


def _session(source: Source, game: Game, directory: Path, seed: int, longest: int) -> dict:
    origin, player = source.origin, source.player(np.random.default_rng(seed))
    header = {
        "source": "collect", "world": origin.name, "data": origin.data_source, "licence": origin.licence, "seed": seed,
        "fps": origin.fps, "width": origin.width, "height": origin.height, "actions": origin.action_names,
    }  # fmt: skip
    used: Counter[str] = Counter()
    frame: np.ndarray | None = game.reset(seed)
    actions: Collection[str] = ()
    with SessionWriter(directory, header, lossless=True) as writer:
        while frame is not None and writer.num_frames < longest:
            writer.append(frame, actions if isinstance(actions, Mapping) else sorted(actions), state=game.state)
            used.update(actions)
            actions = player.act(game, frame)
            frame = game.step(actions)
        count = writer.num_frames
    return {"frames": count, "actions": used, "happened": +game.tally}


def _size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of a text like 96x128."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{2,3})x(\d{2,3})", text)
    if not match or any(int(side) % SIDE_STEP or not 2 * SIDE_STEP <= int(side) <= LONGEST_SIDE for side in match.groups()):
        raise GameError(f"--size is {text}, but must be height x width, like 96x128, in multiples of {SIDE_STEP} from {2 * SIDE_STEP} to {LONGEST_SIDE}.")
    return int(match[1]), int(match[2])
