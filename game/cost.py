"""What recording costs, measured where it is paid: ticks of a world, with and without a recording in turn."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from game.history import Moment
from game.recorder import Recorder, session_header
from world_model.session import SessionWriter

TURN_TICKS = 25
DRAIN_S = 0.01


def measure(world: Any, turns: int = 20, seed: int = 0) -> dict[str, float]:
    """Play a loaded world as fast as it can, 25 ticks recorded and 25 not, `turns` times.

    Returns:
        the median tick in ms without and with a recording, and by how many percent of the one the other is longer: the worker's share of the processor
        and of Python is in it.
    """
    stream, names = world.stream(seed=seed), [action.name for action in world.card.actions]
    rng, times = np.random.default_rng(seed), dict[bool, list[float]]({False: [], True: []})

    def tick(number: int) -> Moment:
        held = (names[int(rng.integers(len(names)))],)
        frame = stream.tick(held, rollback=0)
        return Moment(frame.reshape(-1, *frame.shape[-3:]), number, time.perf_counter(), stream.snapshot(), held, flip_s=time.perf_counter())

    for number in range(TURN_TICKS):  # warm, with a full context
        began = tick(number)
    with tempfile.TemporaryDirectory() as folder:
        header = session_header(world, seed, 0, 0, {})
        recorder = Recorder(lambda: SessionWriter(Path(folder) / "new", header), began, stream.save, print)
        handed = 0
        for turn in range(2 * turns):
            recorded = turn % 2 == 1
            for number in range(TURN_TICKS):
                before = time.perf_counter()
                moment = tick(number)
                if recorded:
                    recorder.append(moment)
                    handed += len(moment.block)
                times[recorded].append(1000 * (time.perf_counter() - before))
            while recorder.writing and recorder.recorded.frames < handed - len(moment.block):  # the last waits for its successor
                time.sleep(DRAIN_S)
        recorder.close()
    without, with_it = float(np.median(times[False])), float(np.median(times[True]))
    return {"tick_ms": round(without, 2), "recorded_tick_ms": round(with_it, 2), "percent": round(100 * (with_it / without - 1), 1)}
