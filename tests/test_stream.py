"""The rolling window: the same numbers by other ways, time travel, starts, and the key that is down now."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiny import make_world

from world_model.attention import attention, rotate
from world_model.context import ContextConfig, block_table
from world_model.noise import AddressedNoise
from world_model.schedule import add_noise
from world_model.stream import RollingWindow, WindowConfig
from world_model.transformer import SelfAttention, Transformer
from world_model.world import World, WorldError

ACTIONS: list[list[str]] = [[], ["forward"], ["turn_left"], ["forward", "turn_right"]]
LATENT = (8, 4, 4)
ROUNDING = {"atol": 1e-4, "rtol": 1e-4}  # a picture that is moved on from frame to frame keeps the rounding of all frames before


def walk(length: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [ACTIONS[i] for i in rng.integers(len(ACTIONS), size=length)]


def latent_window(world: World, *, config: WindowConfig | None = None, seed: int = 1, past: int = 4, **options: bool) -> RollingWindow:
    """Return a window whose past is the first frames of the world's first start clip."""
    config = config or world.window
    window = RollingWindow(world.transformer, config, AddressedNoise([seed], config.block_frames, LATENT), LATENT, **options)
    window.remember(world.starts["latents"][:1, :past].float(), world.starts["actions"][:1, :past].float())
    return window


@torch.no_grad()
def advance(window: RollingWindow, action: torch.Tensor, *, late: bool = True) -> torch.Tensor:
    block = None
    while block is None:
        block = window.advance(action[None], late=late)
    return block


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return (torch.rand(60, 3, generator=torch.Generator().manual_seed(3)) < 0.4).float()


# The same numbers two ways


@pytest.mark.parametrize("clean_sees_sink", [True, False])
@pytest.mark.parametrize("block_frames", [1, 2])
def test_fused_equals_two_passes(block_frames: int, clean_sees_sink: bool, vectors: torch.Tensor) -> None:
    world = make_world(block_frames)
    context = ContextConfig(sink=2, cache=6, attention=9, clean_sees_sink=clean_sees_sink)
    config = WindowConfig(world.window.ladder, block_frames, context)
    fused, apart = (latent_window(world, config=config, fused=fused) for fused in (True, False))
    for action in vectors:
        a, b = advance(fused, action), advance(apart, action)
        assert torch.allclose(a, b, **ROUNDING)
    assert float(a.std()) > 0.1


def test_a_batch_equals_its_streams(tiny_world: World) -> None:
    seeds, starts = [3, 2**64 - 1, 11], [2, 0, 1]
    tapes = [walk(25, seed) for seed in range(3)]
    batch = tiny_world.stream(seeds, starts)
    singles = [tiny_world.stream(seed, start) for seed, start in zip(seeds, starts, strict=True)]
    assert np.array_equal(batch.screen, np.stack([single.screen for single in singles]))
    for step in zip(*tapes, strict=True):
        frames = batch.tick(step, rollback=0)
        for row, single, action in zip(range(3), singles, step, strict=True):
            assert np.abs(frames[row].astype(int) - single.tick(action, rollback=0)).max() <= 1
            assert torch.allclose(batch.window.x[row], single.window.x[0], **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("clean_sees_sink", [True, False])
@pytest.mark.parametrize("block_frames", [1, 2])
@pytest.mark.parametrize("past", [0, 2, 6, 12])
def test_a_past_enters_at_once_as_it_does_block_by_block(block_frames: int, clean_sees_sink: bool, past: int, vectors: torch.Tensor) -> None:
    """Of one that is longer than the context, only what that will hold enters, and sink and recent blocks lie side by side."""
    world = make_world(block_frames)
    config = WindowConfig(world.window.ladder, block_frames, ContextConfig(sink=2, cache=6, attention=9, clean_sees_sink=clean_sees_sink))
    latents, actions = torch.randn(1, past, *LATENT, generator=torch.Generator().manual_seed(4)), vectors[None, :past]
    windows = [RollingWindow(world.transformer, config, AddressedNoise([1], block_frames, LATENT), LATENT) for _ in range(2)]
    windows[0].remember(latents, actions)
    blocks = list(range(past // block_frames))
    for block in [*blocks[:2], *blocks[-4:]] if clean_sees_sink and len(blocks) > 6 else blocks:
        windows[1]._flush()
        windows[1]._finish(*(t[:, block * block_frames :][:, :block_frames] for t in (latents, actions)))
    for action in vectors[:10]:
        a, b = (advance(window, action) for window in windows)
        assert torch.allclose(a, b, **ROUNDING)


class Recomputed:
    """What the stream computes, without a cache: each tick is one pass over the whole history, with a mask.

    Every finished frame's keys come from a clean copy of it that sees the finished frames the context rule gives it, the window sees what the
    rule gives the window. Positions differ per query, so each query group rotates for itself.
    """

    def __init__(self, config: ContextConfig, history: int, window: int, tokens: int) -> None:
        self.groups = [([*config.before_clean(frame), frame], [frame]) for frame in range(history)]
        own = list(range(history, history + window))
        self.groups.append((config.before_window(history, window) + own, own))
        self.tokens = tokens

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        frames = [t.unflatten(1, (-1, self.tokens)) for t in (q, k, v)]
        outputs = []
        for seen, own in self.groups:
            table = block_table(tuple(range(len(seen))), 1, (4, 2), q.shape[-1], q.device)
            gq, gk, gv = frames[0][:, own].flatten(1, 2), frames[1][:, seen].flatten(1, 2), frames[2][:, seen].flatten(1, 2)
            outputs.append(attention(rotate(gq, table[-gq.shape[1] :]), rotate(gk, table), gv))
        return torch.cat(outputs, 1)


@torch.no_grad()
def test_cache_equals_recompute(tiny_world: World, vectors: torch.Tensor) -> None:
    world, ladder = tiny_world, tiny_world.window.ladder
    window = latent_window(world)
    history, labels = world.starts["latents"][:1, :4].float(), world.starts["actions"][:1, :4].float()
    noise = AddressedNoise([1], 1, LATENT)
    x = torch.zeros(1, 0, *LATENT)
    levels: list[int] = []
    estimates = x
    for action in vectors[:20]:
        finished = advance(window, action)
        ours = None
        while ours is None:
            x, levels = torch.cat([x, noise(history.shape[1] + len(levels), 0)], 1), [*levels, 0]
            past, size = history.shape[1], len(levels)
            sigma = torch.tensor([[0.0] * past + [ladder[level] for level in levels]], dtype=torch.float64)
            held = action.expand(1, size, -1)
            attend = Recomputed(world.window.context, past, size, 8)
            before = torch.cat([history[:, -1:], estimates], 1)
            x0 = world.transformer(torch.cat([history, x], 1), sigma, attend, torch.cat([labels, held], 1), None, x.shape[1], before)
            if levels[0] == len(ladder) - 1:
                ours, x0, levels = x0[:, :1], x0[:, 1:], levels[1:]
                history, labels = torch.cat([history, ours], 1), torch.cat([labels, held[:, :1]], 1)
            levels, estimates = [level + 1 for level in levels], x0
            x = torch.cat([add_noise(x0[:, i : i + 1], noise(history.shape[1] + i, level), ladder[level]) for i, level in enumerate(levels)], 1)
        assert torch.allclose(finished, ours, **ROUNDING)
    assert history.shape[1] > world.window.context.cache + world.window.context.sink  # frames have left the context


def test_positions_never_end(tiny_world: World, vectors: torch.Tensor) -> None:
    """A stream moved a thousand million frames on, with its noise and its ring, goes on as if nothing had happened."""
    window, moved = latent_window(tiny_world), latent_window(tiny_world)
    for action in vectors[:10]:
        advance(window, action), advance(moved, action)
    ring = tiny_world.window.context.cache - tiny_world.window.context.sink
    by = ring * 10**9
    noise = moved.noise
    moved.start += by
    moved.noise = lambda block, level, rollback=0: noise(block - by, level, rollback)
    for action in vectors[10:30]:
        assert torch.equal(advance(window, action), advance(moved, action))


# Time travel


def test_restore_equals_never_having_left(tiny_world: World) -> None:
    tape, detour = walk(30), walk(12, seed=9)
    straight, traveller = tiny_world.stream(5), tiny_world.stream(5)
    for action in tape[:15]:
        straight.tick(action), traveller.tick(action)
    saved = traveller.snapshot()
    for _ in range(2):  # a snapshot stays valid, however often it is used
        for action in detour:
            traveller.tick(action)
        traveller.restore(saved)
        assert traveller.frame == 15
        assert np.array_equal(traveller.screen, straight.screen)
    for action in tape[15:]:
        assert np.array_equal(straight.tick(action), traveller.tick(action))


def test_restore_before_the_first_tick(tiny_world: World) -> None:
    stream = tiny_world.stream(5)
    saved = stream.snapshot()
    frames = [stream.tick(action) for action in walk(8)]
    stream.restore(saved)
    assert all(np.array_equal(frame, stream.tick(action)) for frame, action in zip(frames, walk(8), strict=True))


def test_branches(tiny_world: World) -> None:
    stream = tiny_world.stream(1, 2)
    for action in walk(10):
        stream.tick(action)
    saved = stream.snapshot()

    def future(actions: list[list[str]]) -> np.ndarray:
        stream.restore(saved)
        return np.stack([stream.tick(action) for action in actions])

    left, again, right = future([["turn_left"]] * 6), future([["turn_left"]] * 6), future([["turn_right"]] * 6)
    assert np.array_equal(left, again)
    for a, b in zip(left, right, strict=True):
        assert np.abs(a.astype(int) - b).mean() > 0.5


def test_a_snapshot_moves_to_another_stream(tiny_world: World) -> None:
    here, there = tiny_world.stream(4), tiny_world.stream(4, 1)
    for action in walk(7):
        here.tick(action)
    there.tick([])
    there.restore(here.snapshot())
    for action in walk(10, seed=2):
        assert np.array_equal(here.tick(action), there.tick(action))


def test_a_stream_that_begins_where_the_last_one_did_is_as_if_it_had_looked_at_the_start_itself() -> None:
    def play(world: World, seed: int, start: int) -> list[np.ndarray]:
        stream = world.stream(seed, start)
        return [stream.tick(action) for action in walk(6)]

    world = make_world()
    for seed, start in ((1, 0), (2, 0), (2, 1), (1, 1), (1, 0)):
        assert np.array_equal(play(world, seed, start), play(make_world(), seed, start)), (seed, start)


class TimeTravel(RuleBasedStateMachine):
    """Whatever is ticked, saved and restored: the screen is the one of a stream that took this history straight."""

    world = make_world()

    @initialize(seed=st.integers(0, 3), start=st.integers(0, 2))
    def begin(self, seed: int, start: int) -> None:
        self.stream = self.world.stream(seed, start)
        self.origin = (seed, start)
        self.history: tuple[int, ...] = ()
        self.saved: list[tuple[tuple[int, ...], dict]] = []
        self.known: dict[tuple[int, ...], np.ndarray] = {(): self.stream.screen}

    @rule(action=st.integers(0, 3))
    def tick(self, action: int) -> None:
        frame = self.stream.tick(ACTIONS[action])
        self.history += (action,)
        assert np.array_equal(self.known.setdefault(self.history, frame), frame)

    @rule()
    def snapshot(self) -> None:
        self.saved.append((self.history, self.stream.snapshot()))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.history, saved = data.draw(st.sampled_from(self.saved))
        self.stream.restore(saved)

    @invariant()
    def screen_is_that_of_the_history(self) -> None:
        if hasattr(self, "stream"):
            assert self.stream.frame == len(self.history)
            assert np.array_equal(self.stream.screen, self.known[self.history])
            assert bool(torch.isfinite(self.stream.window.x).all())

    def teardown(self) -> None:
        if hasattr(self, "stream"):
            straight = self.world.stream(*self.origin)
            for action in self.history:
                straight.tick(ACTIONS[action])
            assert np.array_equal(straight.screen, self.stream.screen)


TestTimeTravel = TimeTravel.TestCase
TestTimeTravel.settings = settings(max_examples=15, stateful_step_count=20)


# Starts


def test_starts_from_an_index(tiny_world: World) -> None:
    for start in range(3):
        stream = tiny_world.stream(0, start)
        assert np.array_equal(stream.screen, tiny_world.starts["screens"][start].numpy())
        frame = stream.tick([])
        assert frame.shape == (32, 32, 3)
        assert frame.dtype == np.uint8
    firsts = [tiny_world.stream(0, start).tick([]) for start in range(3)]
    assert len({frame.tobytes() for frame in firsts}) == 3


def test_starts_from_a_picture(tiny_world: World) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    stream = tiny_world.stream(0, picture)
    assert np.array_equal(stream.screen, picture)
    frames = [stream.tick(action) for action in walk(12)]
    as_clip = tiny_world.stream(0, picture[None])
    assert all(np.array_equal(frame, as_clip.tick(action)) for frame, action in zip(frames, walk(12), strict=True))
    other = tiny_world.stream(0, 255 - picture)
    assert not np.array_equal(other.tick(walk(12)[0]), frames[0])


def test_starts_from_a_clip_with_actions(tiny_world: World) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)  # longer than the context
    actions = np.eye(3, dtype=np.float32)[np.arange(9) % 3]
    given = tiny_world.stream(0, clip, actions=actions).tick([])
    held_nothing = tiny_world.stream(0, clip).tick([])
    assert not np.array_equal(given, held_nothing)
    pair = tiny_world.stream([0, 0], clip, actions=actions).tick([[], []])
    assert np.abs(pair.astype(int) - given).max() <= 1


def test_starts_that_do_not_fit(tiny_world: World) -> None:
    bad = [
        3, -1, np.zeros((32, 33, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 3), np.float32), np.zeros((1, 1, 32, 32, 3), np.uint8),
    ]  # fmt: skip
    for start in bad:
        with pytest.raises(WorldError):
            tiny_world.stream(0, start)
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    for actions in (np.zeros((1, 3)), np.zeros((2, 4)), np.full((2, 3), np.nan)):
        with pytest.raises(WorldError):
            tiny_world.stream(0, clip, actions=actions)
    for seed in (-1, 2**64):
        with pytest.raises(WorldError, match="seed"):
            tiny_world.stream(seed)
    with pytest.raises(WorldError):
        tiny_world.stream([1, 2], [0])


def test_ways_to_say_an_action(tiny_world: World) -> None:
    ways = [["forward", "turn_right"], {"forward": 1.0, "turn_right": 1}, ("turn_right", "forward"), np.array([1, 0, 1]), torch.tensor([1.0, 0.0, 1.0])]
    frames = [tiny_world.stream(2).tick(way) for way in ways]
    assert all(np.array_equal(frame, frames[0]) for frame in frames)
    for bad in (["jump"], {"forward": 1, "jump": 0}, {"forward": float("nan")}, np.zeros(2), np.array([0, np.nan, 0])):
        with pytest.raises(WorldError):
            tiny_world.action_vector(bad)


# The key that is down now


def gaps(world: World, *, late: bool, ticks: int = 8) -> list[float]:
    """Return how far the latents of twins lie apart, by tick, after they part: one turns left from now on, one right."""
    twins = [latent_window(world), latent_window(world)]
    forward, left, right = torch.eye(3)
    for _ in range(6):
        for twin in twins:
            advance(twin, forward, late=late)
    return [float((advance(twins[0], left, late=late) - advance(twins[1], right, late=late)).abs().mean()) for _ in range(ticks)]


def test_late_binding_obeys_at_the_next_frame(tiny_world: World) -> None:
    assert all(gap > 0.01 for gap in gaps(tiny_world, late=True))


def test_early_binding_obeys_only_with_the_block_that_enters(tiny_world: World) -> None:
    # The window attends in both directions, so frames ahead can whisper back; labelled with the new action is only the block that enters.
    twin = latent_window(tiny_world)
    forward, left, _ = torch.eye(3)
    for _ in range(6):
        advance(twin, forward, late=False)
    size = len(tiny_world.window.ladder)
    for n in range(size):
        assert torch.equal(twin.actions[0], forward.expand(size - 1, -1) if n == 0 else torch.cat([forward.expand(size - 1 - n, -1), left.expand(n, -1)]))
        advance(twin, left, late=False)
    assert torch.equal(twin.actions[0], left.expand(size - 1, -1))


# Rollback


def rolled(window: RollingWindow, action: torch.Tensor, levels: int) -> torch.Tensor:
    with torch.no_grad():
        window.roll_back(action[None], levels)
    return advance(window, action)


@pytest.mark.parametrize("fused", [True, False])
def test_a_full_rollback_forgets_all_speculation(tiny_world: World, vectors: torch.Tensor, fused: bool) -> None:
    """Whatever stood in the window, the next frame follows from the past, the new action and the noise alone; with less rollback it does not."""
    full = len(tiny_world.window.ladder) - 1
    for levels in range(full + 1):
        twins = [latent_window(tiny_world, fused=fused), latent_window(tiny_world, fused=fused)]
        for action in vectors[:7]:
            for twin in twins:
                advance(twin, action)
        twins[1].x0, twins[1].x = torch.randn_like(twins[1].x0), torch.randn_like(twins[1].x)
        frames = [rolled(twin, vectors[8], levels) for twin in twins]
        assert torch.equal(*frames) == (levels == full)


def test_a_rollback_leaves_the_window_as_it_was_in_shape_and_draws_no_noise_twice(tiny_world: World, vectors: torch.Tensor) -> None:
    window, draws = latent_window(tiny_world), []
    noise = window.noise
    window.noise = lambda *address: draws.append((*address, 0)[:3]) or noise(*address)
    for n, action in enumerate(vectors[:20]):
        before = window.start, list(window.levels), tuple(window.x.shape)
        with torch.no_grad():
            passes = window.roll_back(action[None], n % 4)
        assert (window.start, window.levels, tuple(window.x.shape)) == before
        assert passes == (n % 4 if n else 0)  # nothing to unmake before the first tick
        advance(window, action)
        assert torch.equal(window.actions[0], action.expand(3, -1))
    assert len(set(draws)) == len(draws)


def test_fused_equals_two_passes_with_rollbacks(tiny_world: World, vectors: torch.Tensor) -> None:
    fused, apart = (latent_window(tiny_world, fused=fused) for fused in (True, False))
    for n, action in enumerate(vectors[:20]):
        torch.testing.assert_close(rolled(fused, action, n % 4), rolled(apart, action, n % 4), **ROUNDING)


def test_a_held_action_costs_nothing(tiny_world: World) -> None:
    """Only another action than the last tick's rolls back, and a stream says so."""
    stream, plain = tiny_world.stream(3), tiny_world.stream(3)
    told = []
    for n, action in enumerate([["forward"]] * 6 + [{"forward": 1.0}, ["forward", "turn_left"], ["turn_left", "forward"], []]):
        frame, other = stream.tick(action, rollback=3), plain.tick(action, rollback=0)
        told.append(stream.rolled_back)
        assert np.array_equal(frame, other) == (n < 7)
    assert told == [0] * 7 + [3, 0, 3]


def test_where_nothing_moves_but_the_player_the_picture_stands_while_nothing_is_told(tiny_world: World) -> None:
    config = replace(tiny_world.transformer.config, stands_still=True, action_history=2)
    torch.manual_seed(0)
    model = Transformer(config)
    weights = tiny_world.transformer.state_dict()
    model.load_state_dict(weights | {"action_embedding.0.weight": torch.cat([weights["action_embedding.0.weight"]] * 2, 1)})
    stream = World(tiny_world.card, tiny_world.autoencoder, model, tiny_world.window, tiny_world.starts).stream(3)
    frames = [stream.tick(action, rollback=1) for action in ([["forward"]] * 3 + [[]] * 6 + [["forward"]] + [[]] * 3)]
    same = [np.array_equal(a, b) for a, b in pairwise(frames)]
    assert same == [False] * 3 + [True] * 5 + [False] * 2 + [True] * 2


@pytest.mark.parametrize("rollback", [-1, 4])
def test_rollbacks_that_do_not_exist(tiny_world: World, rollback: int) -> None:
    with pytest.raises(WorldError, match="by 0 to 3 levels"):
        tiny_world.stream().tick([], rollback=rollback)


def test_unlabelled_models_ignore_actions(tiny_world: World) -> None:
    """The last action layer starts at zero: before training, actions change nothing, and late binding cannot either."""
    model = Transformer(tiny_world.transformer.config)
    model.load_state_dict(tiny_world.transformer.state_dict())
    torch.nn.init.zeros_(model.action_embedding[2].weight)
    torch.nn.init.zeros_(model.action_embedding[2].bias)
    world = World(tiny_world.card, tiny_world.autoencoder, model, tiny_world.window, tiny_world.starts)
    assert gaps(world, late=True) == [0.0] * 8


def test_block_frames(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("blocks") / "world.safetensors"
    make_world(block_frames=3).save(path)
    world = World.load(path, "cpu", torch.float32)
    stream = world.stream(1)
    for action in walk(10):
        frames = stream.tick(action)
        assert frames.shape == (3, 32, 32, 3)
    assert world.stream([1, 2]).tick([[], []]).shape == (2, 3, 32, 32, 3)


@torch.no_grad()
def test_packed_projections_are_the_same_and_stay_so(tiny_world_path: Path) -> None:
    """Queries, keys and values are one product in play; the weights remain where training and files look for them."""
    transformer = World.load(tiny_world_path, "cpu", torch.float32).transformer
    packed, plain = transformer.blocks[0].self_attn, SelfAttention(transformer.config)
    x = torch.randn(2, 5, packed.q.in_features)
    packed.pack(packed=False)  # together, but not in another layout
    for weights in (packed.state_dict(), {name: torch.randn_like(weight) for name, weight in packed.state_dict().items()}):
        for module in (packed, plain):
            module.load_state_dict(weights)
        assert packed.packed is not None and plain.packed is None
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(packed.project(x), plain.project(x), strict=True))
