"""What only a GPU can tell: its dtypes and kernels, compiled blocks, a lent layer, and the published sizes in real memory. Skipped without CUDA."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_published import PARTS, toy_world_file

from world_model.noise import AddressedNoise
from world_model.stream import RollingWindow
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan.convert import WINDOW
from world_model.wan.parts import visit
from world_model.wan.text_world import TextStream
from world_model.world import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")


def play(world: World, ticks: int = 4) -> np.ndarray:
    stream = world.stream(1)
    assert isinstance(stream, TextStream)
    blocks = []
    for tick in range(ticks):
        stream.prompt = "a cat" if tick < 2 else "a dog"
        blocks.append(stream.tick([]))
    return np.concatenate(blocks).astype(np.float32)


def test_a_text_world_is_the_same_on_the_gpu(tmp_path: Path) -> None:
    path = toy_world_file(tmp_path)
    expected = play(World.load(path, "cpu", torch.float32, parts=PARTS))
    for dtype, tolerance in ((torch.float32, 0.5), (torch.bfloat16, 12.0), (torch.float16, 3.0)):
        frames = play(World.load(path, "cuda", dtype, parts=PARTS))
        assert float(np.abs(frames - expected).mean()) < tolerance, dtype


@pytest.mark.timeout(300)
def test_a_compiled_world_makes_the_same_frames(tmp_path: Path) -> None:
    path = toy_world_file(tmp_path)
    plain, compiled = (play(World.load(path, "cuda", torch.float32, parts=PARTS, compile=compile)) for compile in (False, True))
    assert float(np.abs(plain - compiled).mean()) < 0.5


def test_a_lent_layer_is_on_the_gpu_only_while_it_computes() -> None:
    layer, where = nn.Linear(3, 3), []
    weight = layer.weight.data.clone()
    visit(layer, torch.device("cuda"))
    layer.register_forward_pre_hook(lambda *_: where.append(layer.weight.device.type))
    for _ in range(2):
        assert layer(torch.zeros(1, 3, device="cuda")).is_cuda
        assert torch.equal(layer.weight, weight)
    assert where == ["cuda", "cuda"]


@pytest.mark.timeout(300)
def test_the_published_size(capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights at 480 x 832: eight blocks in a row stay finite and within the memory that the documents state. Prints the time of a block."""
    if torch.cuda.get_device_properties(0).total_memory < 22e9:
        pytest.skip("this needs 22 GB of GPU memory")
    config = TransformerConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_channels=16, patch_size=(2, 2), text_dim=4096, text_len=512, prediction="velocity"
    )
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        model = Transformer(config).bfloat16().requires_grad_(False)
    shape = (16, 60, 104)
    with torch.no_grad():
        text = model.embed_text(torch.randn(1, 512, 4096, device="cuda", dtype=torch.bfloat16))
        window = RollingWindow(model, WINDOW, AddressedNoise([0], 3, shape, "cuda"), shape, text=text)
        blocks = 0
        while blocks < 8:
            torch.cuda.synchronize()
            began_s = time.perf_counter()
            block = window.advance(None)
            blocks += block is not None
    torch.cuda.synchronize()
    assert bool(torch.isfinite(window.x).all())
    peak = torch.cuda.max_memory_allocated()
    with capsys.disabled():
        print(f"\n{torch.cuda.get_device_name()}: {time.perf_counter() - began_s:.3f} s per block, {peak / 1e9:.1f} GB")
    assert peak < 15e9
