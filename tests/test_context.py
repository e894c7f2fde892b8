"""Which finished blocks a pass sees, and where their keys and values are kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from world_model.attention import rotate
from world_model.context import ContextAttention, ContextConfig, KeyValueCache, block_table

PUBLISHED = ContextConfig(sink=1, cache=8, attention=7, clean_sees_sink=False)


@st.composite
def configs(draw: st.DrawFn) -> ContextConfig:
    sink = draw(st.integers(1, 5))
    cache = draw(st.integers(sink + 1, 40))
    return ContextConfig(sink, cache, draw(st.integers(sink + 1, 50)), draw(st.booleans()))


def window_of(index: int, blocks: int, levels: int = 5) -> tuple[int, int]:
    """Return (first block, number of blocks) of the published schedule's window."""
    first = max(0, index - levels + 1)
    return first, min(blocks - 1, index) - first + 1


# Blocks in sight by window of a run of 20 blocks: queries, recent blocks, sink.
TABLE = {
    0: (1, 0, 0), 1: (2, 0, 0), 2: (3, 0, 0), 3: (4, 0, 0), 4: (5, 0, 0),
    5: (5, 0, 1), 6: (5, 1, 1), 7: (5, 1, 1), 12: (5, 1, 1), 19: (5, 1, 1),
    20: (4, 2, 1), 21: (3, 3, 1), 22: (2, 4, 1), 23: (1, 5, 1),
}  # fmt: skip


@pytest.mark.parametrize("index", TABLE)
def test_published_table(index: int) -> None:
    queries, recent, sink = TABLE[index]
    start, size = window_of(index, 20)
    expected = list(range(sink)) + list(range(start - recent, start))
    assert size == queries
    assert PUBLISHED.before_window(start, size) == expected


@pytest.mark.parametrize(
    ("block", "seen"), [(0, []), (1, [0]), (6, [0, 1, 2, 3, 4, 5]), (7, [1, 2, 3, 4, 5, 6]), (8, [2, 3, 4, 5, 6, 7]), (100, list(range(94, 100)))]
)
def test_published_clean_pass_loses_the_sink(block: int, seen: list[int]) -> None:
    # Seven blocks at most, itself included: as soon as eight are cached, the sink is out of sight.
    assert PUBLISHED.before_clean(block) == seen


@given(configs(), st.integers(0, 500), st.integers(1, 8))
def test_what_a_window_sees(config: ContextConfig, start: int, size: int) -> None:
    seen = config.before_window(start, size)
    assert seen == sorted(set(seen))
    assert all(0 <= block < start for block in seen)
    assert seen[: config.sink] == list(range(min(config.sink, start)))
    recent = seen[config.sink :]
    assert recent == list(range(start - len(recent), start))
    if size + config.sink <= config.attention:
        assert len(seen) + size <= config.attention
        full = min(start, config.cache - 1, config.attention - size)
        assert len(seen) == full  # nothing that fits is left out


@given(configs(), st.integers(0, 500))
def test_what_a_finished_block_sees(config: ContextConfig, block: int) -> None:
    seen = config.before_clean(block)
    assert seen == sorted(set(seen))
    assert all(0 <= other < block for other in seen)
    assert len(seen) <= min(config.cache, max(config.attention, config.sink + 1)) - 1
    if config.clean_sees_sink:
        assert {*seen, block} == {*config.before_window(block + 1, 1), block}  # what the window after it sees


@given(configs(), st.integers(0, 500), st.integers(1, 8))
def test_slots_never_collide(config: ContextConfig, start: int, size: int) -> None:
    cache = KeyValueCache(config, 1, 1, 1, 1, 2)
    # In one pass: the finished block is written first, then it and the window are served from the cache.
    for blocks in ([*config.before_window(start, size), start], [*config.before_clean(start), start]):
        slots = [cache.slot(block) for block in blocks]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < config.cache for slot in slots)


@settings(max_examples=30)
@given(configs(), st.integers(1, 90))
def test_cache_returns_what_was_written(config: ContextConfig, blocks: int) -> None:
    cache = KeyValueCache(config, 2, 1, 3, 1, 2)
    for block in range(blocks):
        if block:
            for start, size in ((block, 1), (block, 4)):
                seen = config.before_window(start, size)
                k, v = cache.read(1, seen, torch.full((1, 3, 1, 2), 0.5), torch.full((1, 3, 1, 2), -0.5))
                assert k[0, ::3, 0, 0].tolist() == [*map(float, seen), 0.5]
                assert v[0, ::3, 0, 0].tolist() == [*(-float(b) for b in seen), -0.5]
        for layer in (0, 1):
            k = torch.full((1, 3, 1, 2), float(block) if layer else 1e6)
            cache.write(layer, block, k, -k)


def test_sink_lies_directly_before_the_recent_blocks() -> None:
    """However old the stream, the positions in a pass are the same: nothing in it grows with the frame number."""
    config = ContextConfig(sink=2, cache=6, attention=9)
    cache = KeyValueCache(config, 1, 1, 4, 1, 12)
    passes = [ContextAttention(cache, start - 1, start, 4, (2, 2), 1) for start in (100, 10**6, 10**9)]
    for (group,) in (p.groups for p in passes):
        assert torch.equal(group.table, block_table(tuple(range(9)), 1, (2, 2), 12, torch.device("cpu")))
    assert [[b - start for b in [*p.groups[0].blocks[2:], start - 1]] for p, start in zip(passes, (100, 10**6, 10**9), strict=True)] == [[-3, -2, -1]] * 3


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3])
def test_one_masked_attention_equals_two(window: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4 * (1 + window), 2, 12) for _ in range(3))
    cache = KeyValueCache(ContextConfig(sink=2, cache=7, attention=6 + window), 1, 2, 4, 2, 12)
    for block in range(20):
        cache.write(0, block, torch.randn(2, 4, 2, 12), torch.randn(2, 4, 2, 12))
    attend = ContextAttention(cache, 20, 21, window, (2, 2), 1)
    together = attend(0, q, k, v)
    (both,) = attend.groups
    finished = both._replace(queries=slice(0, 4), table=both.table[: -4 * window], mask=None)
    attend.groups = [finished, both._replace(queries=slice(4, both.queries.stop), mask=None)]
    assert torch.allclose(together, attend(0, q, k, v), atol=1e-5)


def test_gradients_do_not_enter_the_cache() -> None:
    cache = KeyValueCache(PUBLISHED, 1, 1, 1, 1, 2)
    k = torch.ones(1, 1, 1, 2, requires_grad=True)
    cache.write(0, 0, 2 * k, 3 * k)
    assert not cache.k.requires_grad


def test_tables_made_while_somebody_plays_serve_training_too() -> None:
    """Positions no other test asks for: the table is made here, and kept."""
    with torch.inference_mode():
        table = block_table((0, 3, 917), 1, (1, 2), 6, torch.device("cpu"))
    q = torch.randn(1, 6, 1, 6, requires_grad=True)
    rotate(q, table).sum().backward()
    assert q.grad is not None
