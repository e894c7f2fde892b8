"""Text worlds: blocks of frames, prompts that change on the way, streams without an end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_published import HEIGHT, PARTS, WIDTH, TinyDecoder, encode, toy_world_file

from world_model.card import WorldError
from world_model.context import block_table
from world_model.wan.parts import Parts
from world_model.wan.text_world import TextStream, TextWorld
from world_model.world import World, compile_blocks


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def world(path: Path) -> World:
    return World.load(path, "cpu", torch.float32, parts=PARTS)


def play(world: World, prompts: list[str], seed: int = 1, **options) -> np.ndarray:
    """Tick once per prompt; return all frames."""
    stream = world.stream(seed)
    assert isinstance(stream, TextStream)
    blocks = []
    for prompt in prompts:
        stream.prompt = prompt
        blocks.append(stream.tick([], **options))
    return np.concatenate(blocks)


def test_the_first_block_is_nine_frames_and_every_other_twelve(world: World) -> None:
    stream = world.stream(3)
    assert stream.screen.shape == (HEIGHT, WIDTH, 3)
    shapes = [stream.tick([]).shape for _ in range(3)]
    assert shapes == [(n, HEIGHT, WIDTH, 3) for n in (9, 12, 12)]
    assert world.begun is None, "what a stream of a published world begins with takes gigabytes"


def test_the_prompt_and_the_seed_make_the_picture(world: World) -> None:
    one = play(world, ["a cat"] * 3)
    assert np.array_equal(one, play(world, ["a cat"] * 3))
    assert not np.array_equal(one, play(world, ["a dog"] * 3))
    assert not np.array_equal(one, play(world, ["a cat"] * 3, seed=2))


def test_another_prompt_counts_from_the_next_block_on(world: World) -> None:
    """Frames before it are the same; with a rollback of the whole window the very next block has forgotten what the old prompt had planned."""
    same, other = play(world, ["a cat"] * 5), play(world, ["a cat"] * 3 + ["a dog"] * 2)
    assert np.array_equal(same[:33], other[:33])
    assert not np.array_equal(same[33:45], other[33:45])
    shallow = play(world, ["a cat"] * 3 + ["a dog"] * 2, rollback=0)
    assert np.array_equal(same[:33], shallow[:33])
    assert not np.array_equal(other[33:45], shallow[33:45]) and not np.array_equal(same[33:45], shallow[33:45])


def test_a_prompt_is_read_once(path: Path) -> None:
    read: list[str] = []

    def reader(prompt: str) -> torch.Tensor:
        read.append(prompt)
        return encode(prompt)

    stream = World.load(path, "cpu", torch.float32, parts=Parts(reader, TinyDecoder)).stream(0)
    assert isinstance(stream, TextStream)
    rolled_back = []
    for prompt in ("a", "a", "b", "b", "c"):
        stream.prompt = prompt
        stream.tick([])
        rolled_back.append(stream.rolled_back)
    assert read == ["a", "b", "c"]
    assert rolled_back == [0, 0, 4, 0, 4]


def test_restore_equals_never_having_left(world: World) -> None:
    stream = world.stream(5)
    assert isinstance(stream, TextStream)
    start = stream.snapshot()
    stream.prompt = "a cat"
    stream.tick([])
    saved = stream.snapshot()
    expected = [stream.tick([]) for _ in range(2)]
    stream.prompt = "a dog"
    stream.tick([])
    stream.restore(saved)
    assert stream.prompt == "a cat"
    assert all(np.array_equal(stream.tick([]), frames) for frames in expected)
    stream.restore(start)
    assert len(stream.tick([])) == 9


@pytest.mark.parametrize(("width", "height"), [(16, 16), (80, 48), (48, 112)])
def test_any_multiple_of_sixteen_pixels(width: int, height: int, tmp_path: Path) -> None:
    world = World.load(toy_world_file(tmp_path, width, height), "cpu", torch.float32, parts=PARTS)
    assert play(world, ["a"] * 2).shape == (21, height, width, 3)


def test_a_stream_never_ends(tmp_path: Path) -> None:
    """More than 1100 latent frames; the published code stops at 1024. Neither memory nor tables grow."""
    world = World.load(toy_world_file(tmp_path, 32, 16), "cpu", torch.float32, parts=PARTS)
    stream = world.stream(0)
    block_table.cache_clear()
    spread = [float(stream.tick([]).std()) for _ in range(370)]
    assert stream.window.start * world.window.block_frames > 1100
    assert stream.window.x.shape[1] == 12 and block_table.cache_info().currsize < 20
    assert min(spread[-20:]) > 0.5 * min(spread[:20])


def test_fused_passes_give_the_same_latents(world: World) -> None:
    latents = []
    for fused in (True, False):
        stream = world.stream(1, fused=fused)
        for _ in range(9):
            stream.tick([])
        latents.append(stream.window.x)
    assert torch.allclose(*latents, atol=1e-4)


def test_compiled_blocks_give_the_same_latents(path: Path, world: World) -> None:
    """One pass; a compiler that writes code needs a GPU to be worth it, so here it only traces."""
    compiled = World.load(path, "cpu", torch.float32, parts=PARTS)
    compile_blocks(compiled.transformer, backend="eager")
    windows = [w.stream(1).window for w in (compiled, world)]
    for window in windows:
        window.text = world.transformer.embed_text(encode("a cat"))
        window.advance(None)
    assert torch.allclose(windows[0].x0, windows[1].x0, atol=1e-5)


def test_what_a_text_world_does_not_have_is_refused(world: World) -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for arguments in ({"seed": [1, 2]}, {"start": 1}, {"start": picture}):
        with pytest.raises(WorldError, match="begins from nothing"):
            world.stream(**arguments)  # type: ignore[arg-type]
    with pytest.raises(WorldError, match="no action 'jump'"):
        world.stream(0).tick(["jump"])


def test_a_world_file_keeps_the_transformer_alone(world: World, tmp_path: Path) -> None:
    world.save(tmp_path / "again.safetensors", torch.float32)
    again = World.load(tmp_path / "again.safetensors", "cpu", torch.float32, parts=PARTS)
    assert isinstance(again, TextWorld) and again.card == world.card
    assert np.array_equal(play(again, ["a"] * 2), play(world, ["a"] * 2))
