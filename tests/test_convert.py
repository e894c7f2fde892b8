"""From a published checkpoint to a world file: the exact layout, and what is refused."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from published import random_weights
from test_parity import GOLDEN, read
from toy_published import HEIGHT, PARTS, SIZE, WIDTH, save_checkpoint, toy_world_file

import main
from world_model.card import read_card
from world_model.parity import TOLERANCE, replay
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan.convert import WINDOW
from world_model.world import World

LINEAR = {
    "patch_embedding": (1536, 16, 1, 2, 2), "text_embedding.0": (1536, 4096), "text_embedding.2": (1536, 1536), "time_embedding.0": (1536, 256),
    "time_embedding.2": (1536, 1536), "time_projection.1": (9216, 1536), "head.head": (64, 1536),
}  # fmt: skip
BLOCK = {f"{part}.{name}": (1536, 1536) for part in ("self_attn", "cross_attn") for name in "qkvo"} | {"ffn.0": (8960, 1536), "ffn.2": (1536, 8960)}
NORMS = [f"{part}.norm_{name}.weight" for part in ("self_attn", "cross_attn") for name in "qk"] + ["norm3.weight", "norm3.bias"]


def test_the_table_of_the_published_checkpoint() -> None:
    """825 tensors, 1,418,996,800 numbers, by name and shape; nothing is allocated."""
    table: dict[str, tuple[int, ...]] = {"head.modulation": (1, 2, 1536)}
    linear = LINEAR | {f"blocks.{i}.{name}": shape for i in range(30) for name, shape in BLOCK.items()}
    for name, shape in linear.items():
        table |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for i in range(30):
        table |= {f"blocks.{i}.{name}": (1536,) for name in NORMS} | {f"blocks.{i}.modulation": (1, 6, 1536)}
    with torch.device("meta"):
        config = TransformerConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_channels=16, patch_size=(2, 2), text_dim=4096, text_len=512)
        ours = {name: tuple(t.shape) for name, t in Transformer(config).state_dict().items()}
    assert len(table) == 825
    assert ours == table
    assert sum(torch.Size(shape).numel() for shape in table.values()) == 1_418_996_800


def test_a_converted_world_is_the_published_sampler(tmp_path: Path) -> None:
    """Golden weights, wrapped as published, through the converter and the loader: the golden latents come out."""
    tensors, _ = read(GOLDEN)
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    checkpoint = save_checkpoint(tmp_path / "rolling_forcing_dmd.pt", weights)
    arguments = f"convert {checkpoint} --out {tmp_path}/rf.safetensors --width 48 --height 32 --heads 2 --dtype float32".split()
    assert main.main(arguments) == 0
    world = World.load(tmp_path / "rf.safetensors", "cpu", torch.float32, parts=PARTS)
    ours, theirs = replay(GOLDEN, model=world.transformer)
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    assert world.window == WINDOW
    assert [round(1000 * sigma, 3) for sigma in world.window.ladder] == [round(float(t), 3) for t in tensors["denoising_steps"]]
    assert world.latent_shape == tuple(theirs.shape[2:])


@pytest.mark.parametrize("prefix", ["", "model.", "model._fsdp_wrapped_module.", "_orig_mod.model._checkpoint_wrapped_module."])
def test_wrappers_are_stripped_and_the_average_is_preferred(prefix: str, tmp_path: Path) -> None:
    weights = random_weights(SIZE)
    wrapped = {prefix + name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): t for name, t in weights.items()}
    for top in ("generator", "generator_ema"):
        other = {"generator": {name: torch.zeros_like(t) for name, t in wrapped.items()}} if top == "generator_ema" else {}
        torch.save(other | {top: wrapped, "critic": {"x": torch.zeros(2)}}, tmp_path / "toy.pt")
        assert main.main(f"convert {tmp_path}/toy.pt --out {tmp_path}/toy.safetensors --heads 2 --text-len 7 --width 96 --height 64".split()) == 0
        world = World.load(tmp_path / "toy.safetensors", "cpu", torch.bfloat16, parts=PARTS)
        ours = world.transformer.state_dict()
        assert ours.keys() == weights.keys() and all(torch.equal(ours[name], t.bfloat16()) for name, t in weights.items())


def test_the_card_of_a_converted_world(tmp_path: Path) -> None:
    card = read_card(toy_world_file(tmp_path))
    assert (card.width, card.height, card.fps, card.actions, card.max_rollback) == (WIDTH, HEIGHT, 16.0, (), 4)
    assert card.window["block_frames"] == 3 and card.window["context"]["sink"] == 1 and len(card.window["ladder"]) == 5
    assert card.parts == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


class Burglar:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("burgled"),)


def test_what_cannot_be_converted_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    weights = random_weights(SIZE)
    good = {"generator": weights}
    name = "blocks.1.ffn.2.weight"
    bad = {
        "missing": {"generator": {k: t for k, t in weights.items() if k != name}},
        "too many": {"generator": weights | {"blocks.0.extra": torch.zeros(1)}},
        "in the shape": {"generator": weights | {name: torch.zeros(3, 3)}},
        "not finite": {"generator": weights | {name: weights[name] * torch.nan}},
        "not a tensor of floating": {"generator": weights | {name: weights[name].long()}},
        "there twice": {"generator": weights | {f"model.{name}": weights[name]}},
        "not in the layout": {"generator": {"conv.weight": torch.zeros(2, 2)}},
        "neither generator_ema nor generator": {"critic": weights},
        "nor generator;": torch.zeros(3),
        "tensors alone": {"generator": weights, "burglar": Burglar()},
    }
    for words, saved in bad.items():
        torch.save(saved, "bad.pt")
        assert main.main(["convert", "bad.pt", "--out", "bad.safetensors", "--heads", "2"]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, (words, said)
    torch.save(good, "good.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Burglar(), protocol=2))
    Path("cut.pt").write_bytes(Path("good.pt").read_bytes()[:5000])
    Path("empty.pt").write_bytes(b"")
    asked = {
        "pickle.pt --out bad.safetensors": "tensors alone", "cut.pt --out bad.safetensors": "cut.pt", "empty.pt --out bad.safetensors": "tensors alone",
        "none.pt --out bad.safetensors": "Cannot read none.pt", "good.pt --out bad.pt": "named something.safetensors",
        "good.pt --out bad.safetensors --heads 2 --width 840": "multiple of", "good.pt --out bad.safetensors --heads 7": "num_heads",
        "good.pt --out none/bad.safetensors --heads 2": "Cannot write",
    }  # fmt: skip
    for arguments, words in asked.items():
        assert main.main(["convert", *arguments.split()]) == 2, arguments
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, (arguments, said)
    assert not Path("burgled").exists() and not Path("bad.safetensors").exists()


def test_converting_twice_gives_the_same_file(tmp_path: Path) -> None:
    digests = [hashlib.sha256(toy_world_file(tmp_path).read_bytes()).hexdigest() for _ in range(2)]
    assert digests[0] == digests[1]
