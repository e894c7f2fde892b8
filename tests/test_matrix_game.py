"""Matrix-Game 2.0 at toy size, in the exact layout: converted, loaded, held against a plain sampler, played."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matrix import LATENT, TOY, MatrixSize, Sampler, random_weights, table
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from toy_published import TinyDecoder

import main
from world_model.card import WorldError, read_card
from world_model.session import Session
from world_model.wan.convert import LAYOUTS, MATRIX_GAME
from world_model.wan.key_world import KeyStream, KeyWorld
from world_model.wan.matrix_game import MatrixGame, MatrixGameConfig
from world_model.wan.parts import PictureParts
from world_model.world import World

HEIGHT, WIDTH = 8 * LATENT[0], 8 * LATENT[1]
SIZES = {4: TOY, 2: replace(TOY, keys=2), 7: replace(TOY, keys=7, mouse=False)}


def see(picture: np.ndarray) -> tuple[Tensor, Tensor]:
    """Random numbers that depend on the picture alone."""
    generator = torch.Generator().manual_seed(int(picture.sum()))
    return torch.randn(1, *TOY.seen, generator=generator), torch.randn(5, TOY.channels, *LATENT, generator=generator)


PARTS = PictureParts(see, TinyDecoder)


def toy_file(folder: Path, keys: int = 4, weights: dict[str, Tensor] | None = None) -> Path:
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (50, 70, 3), np.uint8)).save(folder / f"{i}.png")
    save_file({f"model.{name}": t for name, t in (weights or random_weights(SIZES[keys])).items()}, folder / "toy.safetensors")
    asked = f"convert {folder}/toy.safetensors --out {folder}/mg.safetensors --heads 2 --text-len {TOY.seen[0]} --width {WIDTH} --height {HEIGHT}"
    assert main.main([*asked.split(), "--dtype", "float32", "--pictures", str(folder / "0.png"), str(folder / "1.png")]) == 0
    return folder / "mg.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.load(toy_file(tmp_path), "cpu", torch.float32, parts=PARTS)


@pytest.mark.parametrize("keys", [4, 2, 7])
def test_the_table_of_the_published_checkpoints(keys: int) -> None:
    layout = LAYOUTS[keys]
    sizes = MatrixSize(keys=keys, mouse=keys != 7)
    config = MatrixGameConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_channels=16, patch_size=(2, 2), text_dim=1280, text_len=257, prediction="velocity",
        action_history=4, num_actions=len(layout.actions), mouse=layout.mouse, idle_key=layout.idle_key,
    )  # fmt: skip
    with torch.device("meta"):
        ours = {name: tuple(t.shape) for name, t in MatrixGame(config).state_dict().items()}
    assert ours == table(sizes)


@pytest.mark.parametrize("keys", [4, 2, 7])
@pytest.mark.parametrize("fused", [True, False])
def test_the_engine_makes_what_a_plain_sampler_makes(keys: int, fused: bool, tmp_path: Path) -> None:
    """Four blocks under changing keys: past the end of the kept frames, of the scene, and of the raw frames that are told."""
    weights = random_weights(SIZES[keys])
    world = World.load(toy_file(tmp_path, keys, weights), "cpu", torch.float32, parts=PARTS)
    stream = world.stream(3, 1, fused=fused)
    assert isinstance(world, KeyWorld) and isinstance(stream, KeyStream)
    features, latents = see(stream.screen)
    mask = torch.zeros(len(latents), 4, *LATENT)
    mask[0] = 1
    sampler, layout = Sampler(SIZES[keys], weights, features[0], torch.cat([mask, latents], 1)), LAYOUTS[keys]
    names = world.card.action_names
    for number, held in enumerate([names[:1], names[-1:], (), (*names[1:2], *names[-2:-1])]):
        vector = torch.tensor([float(name in held) for name in names])
        pressed = vector[: len(vector) - len(layout.mouse)]
        if layout.idle_key:
            pressed = torch.cat([1 - pressed.amax()[None], pressed])
        moved = sum((vector[len(vector) - len(layout.mouse) + i] * torch.tensor(move) for i, move in enumerate(layout.mouse)), torch.zeros(2))
        noise = [stream.noise(number, level, 0)[0] for level in range(3)]
        expected = sampler.block(number, pressed, moved, noise, list(MATRIX_GAME.window.ladder))
        assert stream.tick(held).shape == (12 if number else 9, HEIGHT, WIDTH, 3)
        assert stream.window.clean is not None
        assert float((stream.window.clean[0] - expected).abs().max()) < 1e-4


def test_every_key_makes_another_picture(world: World) -> None:
    stream = world.stream(1)
    stream.tick(())
    saved, seen = stream.snapshot(), set()
    for name in ((), *((name,) for name in world.card.action_names)):
        stream.restore(saved)
        stream.tick(name)
        seen.add(stream.window.clean.numpy().tobytes())
    assert len(seen) == 9
    stream.restore(saved)
    again = [stream.tick(()) for _ in range(3)]
    stream.restore(saved)
    assert all(np.array_equal(stream.tick(()), frames) for frames in again)


def test_a_stream_starts_from_a_picture_and_does_not_end(world: World) -> None:
    assert not np.array_equal(world.stream(1, 0).tick(()), world.stream(1, 1).tick(()))
    picture = world.starts["screens"][1].numpy()
    assert np.array_equal(world.stream(1, picture).tick(()), world.stream(1, 1).tick(()))
    stream = world.stream(2)
    for _ in range(350):
        frames = stream.tick(["forward"])
    assert stream.window.start * 3 > 1024 and frames.std() > 0
    for start in (2, picture[:8]):
        with pytest.raises(WorldError, match="start"):
            world.stream(0, start)


def test_played_recorded_and_replayed_with_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("world_model.wan.key_world.load_picture_parts", lambda *where, **how: PARTS)
    file, walk = toy_file(tmp_path), tmp_path / "walk"
    (tmp_path / "tape.jsonl").write_text('["forward"]\n' * 21 + '["look_left", "forward"]\n' * 12 + "[]\n" * 12)
    asked = ["play", str(file), "--headless", "--dtype", "float32", "--device", "cpu", "--seed", "4", "--start", "1"]
    assert main.main([*asked, "--actions", str(tmp_path / "tape.jsonl"), "--record", str(walk)]) == 0
    assert len(Session(walk).digests()) == 45
    assert main.main(["replay", str(walk), "--world", str(file), "--device", "cpu", "--verify"]) == 0
    assert "is bit-exact: all 45 frames" in capsys.readouterr().out
    assert main.main([*asked, "--frames", "1", "--prompt", "a cat"]) == 2
    assert capsys.readouterr().err == "Matrix-Game 2.0 obeys keys and not words, and has no use for --prompt.\n"


def test_the_card_and_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = read_card(toy_file(tmp_path))
    assert (card.fps, card.num_starts, card.licence, card.listens) == (25.0, 2, "MIT (Skywork AI).", False)
    assert card.action_names == ("forward", "back", "left", "right", "look_up", "look_down", "look_left", "look_right")
    capsys.readouterr()
    name, weights = "blocks.1.action_model.t_qkv.weight", random_weights()
    bad = {
        "missing": {k: t for k, t in weights.items() if k != name}, "in the shape": weights | {name: torch.zeros(3, 3)},
        "knows 5 keys": weights | {"blocks.0.action_model.keyboard_embed.0.weight": torch.zeros(6, 5)},
    }  # fmt: skip
    asked = f"convert {tmp_path}/bad.safetensors --out {tmp_path}/b.safetensors --heads 2 --width 48 --height 32".split()
    for words, saved in bad.items():
        save_file(saved, tmp_path / "bad.safetensors")
        assert main.main([*asked, "--pictures", str(tmp_path / "0.png")]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    save_file(weights, tmp_path / "bad.safetensors")
    assert main.main(asked) == 2 and "needs pictures to start from" in capsys.readouterr().err
    assert main.main([*asked, "--pictures", str(tmp_path / "bad.safetensors")]) == 2 and "Cannot read the picture" in capsys.readouterr().err
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    assert main.main(asked) == 2 and "Cannot read" in capsys.readouterr().err
