"""Noise is a pure function of (seed, frame, level), and looks like noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from world_model.noise import AddressedNoise

SHAPE = (8, 16, 16)
seeds = st.integers(0, 2**64 - 1)
blocks = st.integers(0, 2**40)
levels = st.integers(0, 31)


@given(seeds, blocks, levels)
def test_the_same_address_gives_the_same_numbers(seed: int, block: int, level: int) -> None:
    noise = AddressedNoise([seed], 1, SHAPE)
    first = noise(block, level)
    noise(block + 1, level)  # asking for others in between changes nothing
    assert torch.equal(first, noise(block, level))
    assert torch.equal(first, AddressedNoise([seed], 1, SHAPE)(block, level))


@given(seeds, blocks, levels, st.sampled_from(["seed", "block", "level"]), st.integers(1, 1000))
def test_other_addresses_give_independent_numbers(seed: int, block: int, level: int, part: str, apart: int) -> None:
    other = {"seed": seed, "block": block, "level": level}
    other[part] = (other[part] + apart) % 2**64
    a = AddressedNoise([seed], 1, SHAPE)(block, level)
    b = AddressedNoise([other["seed"]], 1, SHAPE)(other["block"], other["level"])
    assert abs(float(np.corrcoef(a.flatten(), b.flatten())[0, 1])) < 0.13  # six standard deviations at 2048 numbers


def test_numbers_are_standard_normal() -> None:
    noise = AddressedNoise([7], 1, SHAPE)
    x = torch.stack([noise(block, level) for block in range(20) for level in range(5)])
    assert float(x.mean()) == pytest.approx(0, abs=0.01)
    assert float(x.std()) == pytest.approx(1, abs=0.01)
    assert float((x**4).mean()) == pytest.approx(3, abs=0.1)
    assert float(x.flatten(2).mean(-1).std()) == pytest.approx(2048**-0.5, rel=0.25)  # frames share nothing, not even their mean


@given(seeds, st.integers(0, 2**30), levels, st.integers(1, 4))
def test_frames_do_not_depend_on_the_block_size(seed: int, block: int, level: int, size: int) -> None:
    together = AddressedNoise([seed], size, (2, 3, 4))(block, level)
    single = AddressedNoise([seed], 1, (2, 3, 4))
    assert torch.equal(together, torch.cat([single(block * size + i, level) for i in range(size)], 1))


def test_a_batch_is_its_streams() -> None:
    many = AddressedNoise([3, 5, 2**64 - 1], 2, (2, 3, 4))(11, 2)
    assert many.shape == (3, 2, 2, 3, 4)
    assert many.dtype == torch.float32
    for row, seed in zip(many, [3, 5, 2**64 - 1], strict=True):
        assert torch.equal(row, AddressedNoise([seed], 2, (2, 3, 4))(11, 2)[0])
