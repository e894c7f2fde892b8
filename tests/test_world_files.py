"""World files: what was saved comes back, and a file from a stranger either plays or is refused in one sentence."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import make_world

from world_model import card as cards
from world_model.autoencoder import Autoencoder, AutoencoderConfig
from world_model.card import WorldError, find_world, list_worlds, read_card
from world_model.transformer import Transformer, TransformerConfig
from world_model.world import World


def play(path: Path, ticks: int = 3) -> World | None:
    """Load and tick a world that may be bad; return it if it plays, None if it was refused with one sentence."""
    try:
        world = World.load(path, "cpu", torch.float32)
        stream = world.stream(seed=1)
        for n in range(ticks):
            frame = stream.tick([name for name in world.card.action_names[:1] if n])
            assert frame.dtype == np.uint8
            assert frame.shape[-3:] == (world.card.height, world.card.width, 3)
            assert bool(torch.isfinite(stream.window.x).all())
    except WorldError as error:
        assert str(error).strip()
        assert "\n" not in str(error), error
        assert len(str(error)) < 1000
        return None
    return world


@pytest.fixture(scope="module")
def original(tiny_world_path: Path) -> bytes:
    return tiny_world_path.read_bytes()


@pytest.fixture(scope="module")
def tensors(tiny_world_path: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_world_path)


@pytest.fixture(scope="module")
def card(tiny_world_path: Path) -> dict[str, Any]:
    return msgspec.to_builtins(read_card(tiny_world_path))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "world.safetensors"


# Whole files


def test_round_trip(tiny_world: World, tmp_path: Path) -> None:
    tiny_world.save(tmp_path / "again.safetensors")
    again = World.load(tmp_path / "again.safetensors", "cpu", torch.float32)
    assert again.card == tiny_world.card
    for part in ("transformer", "autoencoder"):
        ours, theirs = getattr(again, part).state_dict(), getattr(tiny_world, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(again.starts[name], tiny_world.starts[name]) for name in ("latents", "actions", "screens"))
    assert again.window == tiny_world.window
    assert np.array_equal(again.stream(3).tick(["forward"]), tiny_world.stream(3).tick(["forward"]))
    assert [file.name for file in tmp_path.iterdir()] == ["again.safetensors"]
    assert len(again.sha256) == 64


def test_save_keeps_the_old_file_until_the_new_one_is_whole(tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "world.safetensors"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("world_model.world.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny_world.save(path)
    assert path.read_bytes() == b"old"


def test_weights_are_bfloat16_on_disk(tensors: dict[str, torch.Tensor]) -> None:
    assert {t.dtype for name, t in tensors.items() if not name.startswith("starts.")} == {torch.bfloat16}


def test_a_world_is_immutable_to_its_streams(tiny_world: World) -> None:
    before = {name: t.clone() for name, t in tiny_world.transformer.state_dict().items()} | {f"s.{k}": v.clone() for k, v in tiny_world.starts.items()}
    stream = tiny_world.stream(0)
    for _ in range(12):
        stream.tick(["forward"])
    after = tiny_world.transformer.state_dict() | {f"s.{k}": v for k, v in tiny_world.starts.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in tiny_world.transformer.parameters())


def test_worlds_are_found_by_name(tiny_world_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = cards.user_folder() / "worlds"
    folder.mkdir(parents=True)
    shutil.copy(tiny_world_path, folder / "tiny.safetensors")
    (folder / "broken.safetensors").write_bytes(b"not a world")
    found = {path.stem: entry for path, entry in list_worlds()}
    assert found["tiny"] == read_card(tiny_world_path)
    assert isinstance(found["broken"], WorldError)
    assert find_world("tiny") == folder / "tiny.safetensors"
    with pytest.raises(WorldError, match="choose from: broken, tiny"):
        find_world("moon")
    with pytest.raises(WorldError, match="no world file"):
        find_world(str(tmp_path / "moon.safetensors"))


def test_unknown_device(tiny_world_path: Path) -> None:
    for device in ("abacus", "cuda:99", ""):
        with pytest.raises(WorldError, match="no device"):
            World.load(tiny_world_path, device)


# Damaged bytes


@given(st.data())
def test_truncated(original: bytes, scratch: Path, data: st.DataObject) -> None:
    scratch.write_bytes(original[: data.draw(st.integers(0, len(original) - 1))])
    assert play(scratch) is None


@settings(max_examples=200)
@given(st.data())
def test_bits_flipped_in_the_header(original: bytes, scratch: Path, data: st.DataObject) -> None:
    end = 8 + struct.unpack("<Q", original[:8])[0]
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    scratch.write_bytes(damaged)
    play(scratch)


@settings(max_examples=60)
@given(st.data())
def test_bits_flipped_in_the_weights(original: bytes, scratch: Path, data: st.DataObject) -> None:
    end = 8 + struct.unpack("<Q", original[:8])[0]
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 30))):
        damaged[data.draw(st.integers(end, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    scratch.write_bytes(damaged)
    play(scratch)


@given(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1, 8 << 20])))
def test_wrong_header_length(original: bytes, scratch: Path, length: int) -> None:
    if length != struct.unpack("<Q", original[:8])[0]:
        scratch.write_bytes(struct.pack("<Q", length) + original[8:])
        assert play(scratch) is None


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_garbage(scratch: Path, garbage: bytes) -> None:
    scratch.write_bytes(garbage)
    assert play(scratch) is None
    scratch.write_bytes(struct.pack("<Q", len(garbage)) + garbage)
    assert play(scratch) is None


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, '{"__metadata__":' + "[" * 5000 + "]" * 5000 + "}", '{"__metadata__": 3}', "[]", "1e999", "NaN", '"\\ud800"'],
)
def test_odd_headers(scratch: Path, text: str) -> None:
    scratch.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(100))
    assert play(scratch) is None


def test_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    assert play(tmp_path / "folder.safetensors") is None
    assert play(tmp_path / "nowhere.safetensors") is None


# Wrong tensors


TENSOR_FAULTS: dict[str, Callable[[dict[str, torch.Tensor], str], object]] = {
    "missing": lambda t, name: t.pop(name),
    "renamed": lambda t, name: t.update({name + "x": t.pop(name)}),
    "reshaped": lambda t, name: t.update({name: t[name].flatten()[None]}),
    "longer": lambda t, name: t.update({name: torch.cat([t[name], t[name]])}),
    "whole numbers": lambda t, name: t.update({name: torch.zeros_like(t[name], dtype=torch.int64)}),
    "double": lambda t, name: t.update({name: t[name].double()}),
    "truth values": lambda t, name: t.update({name: t[name].bool()}),
    "not a number": lambda t, name: t.update({name: torch.full_like(t[name].float(), torch.nan)}),
    "infinite": lambda t, name: t.update({name: torch.full_like(t[name].float(), torch.inf)}),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_wrong_tensors(tensors: dict[str, torch.Tensor], card: dict[str, Any], scratch: Path, fault: str) -> None:
    names = [
        "starts.latents", "starts.actions", "starts.screens", "transformer.patch_embedding.weight", "transformer.blocks.1.modulation",
        "transformer.action_embedding.2.weight", "autoencoder.latent_mean", "autoencoder.decoder.0.weight",
    ]  # fmt: skip
    for name in names:
        changed = dict(tensors)
        TENSOR_FAULTS[fault](changed, name)
        save_file(changed, scratch, {"card": json.dumps(card)})
        assert play(scratch) is None, name


def test_extra_tensors(tensors: dict[str, torch.Tensor], card: dict[str, Any], scratch: Path) -> None:
    for name in ("extra", "transformer.blocks.2.modulation", "transformer.", "starts.masks"):
        save_file(tensors | {name: torch.zeros(1)}, scratch, {"card": json.dumps(card)})
        assert play(scratch) is None, name


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-30, 1e10, 1e30, 3e38])
def test_extreme_weights(tensors: dict[str, torch.Tensor], card: dict[str, Any], scratch: Path, scale: float) -> None:
    parts = ("transformer.blocks.0.ffn.0.weight", "transformer.head.head.weight", "transformer.time_projection.1.bias", "autoencoder.latent_matrix")
    for part in (*parts, "starts.latents"):
        save_file(tensors | {part: torch.full_like(tensors[part], scale)}, scratch, {"card": json.dumps(card)})
        play(scratch)


# Wrong cards

NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 5, 7, 16, 17, 1000, 16384, 16385, 2**31, 2**63, 2**64, 10**30, -0.5, 0.3, 1e300]
ODDITIES: list[Any] = [None, True, "", "x", "x" * 5000, [], {}, [[]], [1, 2], {"a": 1}, [10**9] * 3, list(range(1000))]


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the path of every value in a tree of dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, part in inner for place in places(part, (*at, key))]


def changed(card: dict[str, Any], place: tuple, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(card))
    at = copy
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return copy


@settings(max_examples=400)
@given(st.data())
def test_hostile_cards(tensors: dict[str, torch.Tensor], card: dict[str, Any], scratch: Path, data: st.DataObject) -> None:
    bad = card
    for _ in range(data.draw(st.integers(1, 2))):
        bad = changed(bad, data.draw(st.sampled_from(places(bad))), data.draw(st.sampled_from(NUMBERS + ODDITIES)))
    save_file(tensors, scratch, {"card": json.dumps(bad)})
    play(scratch)


REFUSED = {
    "another format": (("format",), 2),
    "a duplicate action": (("actions", 1, "name"), "forward"),
    "an action name with a path": (("actions", 1, "name"), "../forward"),
    "a name with a path": (("name",), "../../etc/passwd"),
    "an empty name": (("name",), ""),
    "no frames": (("fps",), 0),
    "negative frames": (("fps",), -17.5),
    "huge width": (("width",), 1 << 30),
    "odd width": (("width",), 33),
    "no starts": (("num_starts",), 0),
    "huge starts": (("num_starts",), 1 << 40),
    "more starts than there are": (("num_starts",), 4),
    "an unknown field": (("plugin",), "os.system"),
    "an unknown size": (("transformer", "depth"), 2),
    "an unknown context size": (("window", "context", "depth"), 2),
    "no heads": (("transformer", "num_heads"), 0),
    "heads that do not divide": (("transformer", "num_heads"), 5),
    "a thousand layers": (("transformer", "num_layers"), 1000),
    "a huge width": (("transformer", "dim"), 1 << 40),
    "a thin patch": (("transformer", "patch_size"), [1, 0]),
    "three patch sizes": (("transformer", "patch_size"), [1, 1, 1]),
    "text": (("transformer", "text_dim"), 16),
    "parts of a text world": (("parts",), "Wan-AI/Wan2.1"),
    "parts with a path": (("parts",), "../../etc"),
    "no actions": (("transformer", "num_actions"), 0),
    "negative eps": (("transformer", "eps"), -1.0),
    "another prediction": (("transformer", "prediction"), "noise"),
    "bodies without a memory": (("transformer", "bodies"), 3),
    "more of a memory than there is": (("transformer", "recall_least"), 1.5),
    "no patch": (("autoencoder", "patch"), 0),
    "no channels": (("autoencoder", "channels"), []),
    "negative blocks": (("autoencoder", "decoder_blocks"), -1),
    "an empty ladder": (("window", "ladder"), []),
    "a rising ladder": (("window", "ladder"), [1.0, 0.5, 0.6]),
    "a ladder to zero": (("window", "ladder"), [1.0, 0.5, 0.0]),
    "a ladder from half": (("window", "ladder"), [0.5, 0.25]),
    "a long ladder": (("window", "ladder"), [1 - i / 100 for i in range(50)]),
    "no sink": (("window", "context", "sink"), 0),
    "a sink as large as the cache": (("window", "context", "sink"), 6),
    "a window that leaves no room": (("window", "context", "attention"), 5),
    "a huge cache": (("window", "context", "cache"), 1 << 20),
    "blocks that do not divide the starts": (("window", "block_frames"), 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_cards(tensors: dict[str, torch.Tensor], card: dict[str, Any], scratch: Path, name: str) -> None:
    save_file(tensors, scratch, {"card": json.dumps(changed(card, *REFUSED[name]))})
    assert play(scratch) is None


CARD_TEXTS = {
    "empty": "", "null": "null", "a list": "[]", "cut": '{"format": 1', "deep": '{"transformer":' + "[" * 50_000 + "]" * 50_000 + "}", "NaN": '{"fps": NaN}',
    "long": '{"name": "' + "x" * (cards.MAX_CARD_BYTES + 1) + '"}', "surrogate": '{"name": "\\ud800"}',
}  # fmt: skip


@pytest.mark.parametrize("name", CARD_TEXTS)
def test_cards_that_are_not_cards(tensors: dict[str, torch.Tensor], scratch: Path, name: str) -> None:
    save_file(tensors, scratch, {"card": CARD_TEXTS[name]})
    assert play(scratch) is None


def test_no_card(tensors: dict[str, torch.Tensor], scratch: Path) -> None:
    save_file(tensors, scratch)
    assert play(scratch) is None


def test_a_small_file_cannot_ask_for_much_memory(scratch: Path) -> None:
    """All shapes fit the card, the weights are few, and still the context would take gigabytes."""
    base = make_world()
    autoencoder = Autoencoder(AutoencoderConfig(height=512, width=512, channels=(1,), latent_channels=1, patch=1, encoder_blocks=0, decoder_blocks=0))
    transformer = Transformer(TransformerConfig(dim=12, ffn_dim=1, num_heads=1, num_layers=1, in_channels=1, patch_size=(1, 1), freq_dim=2, num_actions=3))
    starts = {"latents": torch.zeros(1, 1, 1, 512, 512).bfloat16(), "actions": torch.zeros(1, 1, 3), "screens": torch.zeros(1, 512, 512, 3, dtype=torch.uint8)}
    changes = {
        "width": 512, "height": 512, "num_starts": 1, "start_frames": 1, "transformer": asdict(transformer.config), "autoencoder": asdict(autoencoder.config),
        "window": asdict(base.window),
    }  # fmt: skip
    World(msgspec.structs.replace(base.card, **changes), autoencoder, transformer, base.window, starts).save(scratch)
    with pytest.raises(WorldError, match="tokens at once"):
        World.load(scratch, "cpu", torch.float32)
