"""The engine against golden runs of the published sampler: the one that was handed down, and runs of other sizes made here."""

from pathlib import Path

import pytest
import torch
from published import Size, write_golden
from safetensors import safe_open
from safetensors.torch import save_file

from world_model.parity import TOLERANCE, main, replay

GOLDEN = Path(__file__).parent / "rolling-golden.safetensors"
SIZES = {
    "as published": Size(),
    "one frame per block": Size(levels=4, block_frames=1, blocks=13, cache=8, attention=7),
    "two frames, cache smaller than attention": Size(levels=3, block_frames=2, blocks=9, cache=4, attention=7),
    "cache equal to attention": Size(levels=4, block_frames=1, blocks=11, cache=6, attention=6, patch=(1, 2)),
    "cache of sink and one": Size(levels=2, block_frames=3, blocks=6, cache=2, attention=3),
    "cache never full": Size(levels=3, block_frames=2, blocks=5, cache=20, attention=30),
    "cache larger than attention": Size(levels=2, block_frames=1, blocks=16, cache=12, attention=4, heads=3),
    "no room for recent blocks": Size(levels=5, block_frames=1, blocks=9, cache=5, attention=6, latent=(3, 2, 4), patch=(1, 1)),
    "one level": Size(levels=1, block_frames=2, blocks=6, cache=4, attention=3),
    "as many blocks as levels": Size(levels=6, block_frames=1, blocks=6, cache=3, attention=9, layers=3),
}


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("fused", [True, False])
def test_published_run(fused: bool) -> None:
    ours, theirs = replay(GOLDEN, fused=fused)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("name", SIZES)
def test_other_sizes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    write_golden(path, SIZES[name])
    for fused in (True, False):
        ours, theirs = replay(path, fused=fused)
        assert ours.shape == theirs.shape
        assert float(theirs.std()) > 0.3
        assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_ladder_from_nominal_steps(tmp_path: Path) -> None:
    tensors, facts = read(GOLDEN)
    del tensors["denoising_steps"]
    save_file(tensors, tmp_path / "golden.safetensors", facts)
    assert main(tmp_path / "golden.safetensors") == 0


def test_exit_code_of_the_published_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GOLDEN) == 0
    assert "largest absolute difference over 30 latent frames" in capsys.readouterr().out


@pytest.mark.parametrize("frame", [0, 14, 29])
def test_a_changed_latent_is_found(frame: int, tmp_path: Path) -> None:
    tensors, facts = read(GOLDEN)
    tensors["latents"][0, frame, 3, 1, 2] += 2 * TOLERANCE
    save_file(tensors, tmp_path / "golden.safetensors", facts)
    assert main(tmp_path / "golden.safetensors") == 1


def test_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, facts = read(GOLDEN)
    whole = GOLDEN.read_bytes()
    path = tmp_path / "golden.safetensors"
    breaks = {
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "no facts": lambda: save_file(tensors, path),
        "a draw missing": lambda: save_file({k: t for k, t in tensors.items() if k != "renoise.000"}, path, facts),
        "weights missing": lambda: save_file({k: t for k, t in tensors.items() if not k.startswith("weights.head")}, path, facts),
        "wrong prompt": lambda: save_file(tensors | {"prompt_embeds": torch.zeros(1, 3, 2)}, path, facts),
        "not a number": lambda: save_file(tensors, path, facts | {"frames_per_block": "three"}),
        "no frames": lambda: save_file(tensors, path, facts | {"frames_per_block": "0"}),
        "not JSON": lambda: save_file(tensors, path, facts | {"config": "{"}),
    }
    for name, damage in breaks.items():
        damage()
        assert main(path) == 2, name
        message = capsys.readouterr().err
        assert message.count("\n") == 1, (name, message)
    assert main(tmp_path / "nowhere.safetensors") == 2
