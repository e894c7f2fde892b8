"""The state of a stream as a file: it comes back bit for bit, and a file that is not one is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from world_model.card import WorldError
from world_model.state import StateError
from world_model.world import Stream, World

TAPE = [["forward"], ["forward", "turn_left"], [], ["turn_right"], ["turn_right"]] * 3


def played(world: World, ticks: int, seed: int = 2**64 - 1) -> Stream:
    stream = world.stream(seed)
    for action in TAPE[:ticks]:
        stream.tick(action)
    return stream


@pytest.mark.parametrize("ticks", [0, 1, 9])
def test_a_state_comes_back_from_its_file_bit_for_bit(tiny_world: World, tmp_path: Path, ticks: int) -> None:
    here, there = played(tiny_world, ticks), tiny_world.stream(3, 1)
    here.save(tmp_path / "state.safetensors")
    there.restore(there.load(tmp_path / "state.safetensors"))
    assert there.frame == ticks and np.array_equal(here.screen, there.screen)
    for action in reversed(TAPE):
        assert np.array_equal(here.tick(action), there.tick(action))


def test_snapshots_share_what_did_not_change(tiny_world: World) -> None:
    stream = played(tiny_world, 9)
    before = stream.snapshot()["window"]["cache"]
    stream.tick([])
    after = stream.snapshot()["window"]["cache"]
    assert sum(before[slot][0] is not after[slot][0] for slot in before) == 1


FAULTS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "missing": lambda t: t.pop("last"),
    "another": lambda t: t.update(more=torch.zeros(1)),
    "a short window": lambda t: t.update(x=t["x"][:, 1:]),
    "a long cache": lambda t: t.update(k=torch.cat([t["k"], t["k"]])),
    "a large screen": lambda t: t.update(screen=torch.zeros(64, 64, 3, dtype=torch.uint8)),
    "whole numbers": lambda t: t.update(lived=t["lived"].int()),
    "not finite": lambda t: t.update(v=torch.full_like(t["v"], torch.nan)),
}
NUMBERS = ["", "null", "[]", "[" * 10_000, '{"format": 1}', '{"format":1,"seeds":["99999999999999999999"],"frame":0,"start":13,"rollbacks":0}',
           '{"format":1,"seeds":["1"],"frame":-1,"start":13,"rollbacks":0}', '{"format":1,"seeds":["1","2"],"frame":0,"start":13,"rollbacks":0}',
           '{"format":1,"seeds":["1"],"frame":0,"start":0,"rollbacks":0}', '{"format":1,"seeds":["1"],"frame":0,"start":2,"rollbacks":0}']  # fmt: skip


def test_states_of_nothing_are_refused(tiny_world: World, tmp_path: Path) -> None:
    stream, path = played(tiny_world, 9), tmp_path / "state.safetensors"
    stream.save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for fault in FAULTS.values():
        wrong = dict(tensors)
        fault(wrong)
        save_file(wrong, path, metadata)
        with pytest.raises(StateError):
            stream.load(path)
    for text in NUMBERS:
        save_file(tensors, path, {"state": text})
        with pytest.raises(StateError):
            stream.load(path)
    for bad in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StateError):
            stream.load(bad)
    with pytest.raises(StateError, match="Cannot write"):
        stream.save(tmp_path / "nowhere" / "state.safetensors")


@settings(max_examples=30)
@given(st.data())
def test_damaged_states_play_or_are_refused(tiny_world: World, tmp_path: Path, data: st.DataObject) -> None:
    stream, path = played(tiny_world, 2), tmp_path / "state.safetensors"
    stream.save(path)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    try:
        stream.restore(stream.load(path))
        stream.tick([])
    except (StateError, WorldError) as error:
        assert str(error).endswith(".")
