"""The figures of docs/published.md are those of the code: counted on the meta device, where nothing is computed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from world_model.stream import RollingWindow
from world_model.transformer import Transformer, TransformerConfig
from world_model.wan.convert import WINDOW
from world_model.wan.decoder import CausalDecoder

DOCUMENT = (Path(__file__).parent.parent / "docs" / "published.md").read_text(encoding="utf-8")
LAYERS = 30


def figure(row: str, column: int = 1) -> float:
    """Return the number in a row of one of the document's tables."""
    line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {row} |"))
    return float(line.split("|")[1 + column].strip().strip("*"))


def tera(counter: FlopCounterMode) -> float:
    return counter.get_total_flops() / 1e12


def steady(layers: int, height: int, width: int) -> RollingWindow:
    """Return a window of the published size, but for its depth, in the steady state."""
    config = TransformerConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=layers, in_channels=16, patch_size=(2, 2), text_dim=4096, text_len=512, prediction="velocity"
    )
    with torch.device("meta"):
        model, shape = Transformer(config).bfloat16(), (16, height // 8, width // 8)
        text = model.embed_text(torch.zeros(1, 512, 4096, dtype=torch.bfloat16))

        def noise(block: int, level: int, rollback: int = 0) -> Tensor:
            return torch.zeros(1, WINDOW.block_frames, *shape)

        window = RollingWindow(model, WINDOW, noise, shape, text=text)
        for _ in range(14):
            window.advance(None)
    return window


def passes(window: RollingWindow, rollback: int) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        window.roll_back(torch.zeros(1, 0), rollback)
        window.advance(None)
    return tera(counter)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which knows nothing of the meta device


@torch.no_grad()
def test_what_a_block_costs_the_transformer() -> None:
    windows = [steady(layers, 480, 832) for layers in (1, 2)]

    def cost(rollback: int) -> float:
        one, two = (passes(window, rollback) for window in windows)
        return one + (LAYERS - 1) * (two - one)

    parts = ("projections and feed-forward", "window attends to sink, recent block and itself", "clean block attends to the last seven blocks")
    assert cost(0) == pytest.approx(figure("**transformer**"), abs=0.05)
    assert sum(figure(row) for row in (*parts, "attention to the text")) == pytest.approx(figure("**transformer**"), abs=0.2)
    told = next(line for line in DOCUMENT.splitlines() if "with depth 1, 2, 3, 4 the tick comes to" in line)
    assert [f"{cost(depth):.0f}" for depth in (1, 2, 3, 4)] == told.split("comes to ")[1].removesuffix(" TFLOP.").split(", ")
    one, two = (passes(steady(layers, 352, 640), 0) for layers in (1, 2))
    assert f"takes {one + (LAYERS - 1) * (two - one):.0f} TFLOP" in DOCUMENT
    gigabytes = LAYERS * 2 * windows[0].cache.k.numel() * 2 / 1e9
    assert gigabytes == pytest.approx(figure("context"), abs=0.005)
    assert windows[0].text is not None
    assert LAYERS * sum(4 * k.numel() for k, _ in windows[0].text) / 1e9 == pytest.approx(figure("text keys of the prompt"), abs=0.005)


@torch.no_grad()
def test_what_a_block_costs_the_video_autoencoder() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        decoder = CausalDecoder(diffusers.AutoencoderKLWan().bfloat16().eval())
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                assert decoder.decode(torch.zeros(3, 16, 60, 104)).shape[1:] == (480, 832, 3)
    assert tera(counter) == pytest.approx(figure("decoder"), abs=0.05)
    assert decoder.features is not None
    assert sum(2 * t.numel() for t in decoder.features if t is not None) / 1e9 == pytest.approx(figure("its features between calls"), abs=0.005)
    assert sum(2 * p.numel() for p in decoder.autoencoder.parameters()) / 1e9 == pytest.approx(figure("video autoencoder"), abs=0.005)


def test_how_large_the_text_encoder_is() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        numbers = sum(p.numel() for p in transformers.UMT5EncoderModel(config).parameters())
    assert 2 * numbers / 1e9 == pytest.approx(figure("text encoder"), abs=0.05)


def test_the_times_follow_from_the_flops_and_the_datasheets() -> None:
    dit, decoder, small = figure("**transformer**"), figure("decoder"), (95, 23)
    assert f"block takes {small[0]} TFLOP and its decoder {small[1]}." in DOCUMENT
    for card in ("RTX 4090", "RTX 5090", "A100 SXM", "L40S", "H100 SXM, H200", "B200"):
        peak = figure(card, 1)
        times = [dit / (0.5 * peak), decoder / (0.3 * peak)]
        expected = [*times, sum(times), 12 / sum(times), 12 / (small[0] / (0.5 * peak) + small[1] / (0.3 * peak))]
        assert [figure(card, column) for column in range(2, 7)] == pytest.approx(expected, rel=0.03), card
