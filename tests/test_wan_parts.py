"""Text encoder and video autoencoder out of the libraries, at toy size: streaming equals decoding at once, and parts load from a folder."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matrix import TOY
from test_matrix_game import toy_file
from toy_published import SIZE, toy_world_file

import main
from world_model.card import WorldError
from world_model.session import frame_digest
from world_model.transformer import TransformerConfig
from world_model.wan.decoder import CausalDecoder
from world_model.wan.parts import SETTLED, load_parts, load_picture_parts
from world_model.wan.text_world import TextStream
from world_model.world import World

CPU = torch.device("cpu")
FITTING = TransformerConfig(in_channels=SIZE.latent[0], text_len=SIZE.text[0], text_dim=SIZE.text[1])
WORDS = ["<pad>", "</s>", "<unk>", "a", "train", "in", "the", "snow", "&"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the published one, with random weights."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    autoencoder = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2, 4, 4], latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0])
    autoencoder.save_pretrained(folder / "vae")
    width = SIZE.text[1]
    config = UMT5Config(vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=3, tie_word_embeddings=False)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    sizes = {"hidden_size": TOY.seen[1], "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(folder / "image_encoder")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("blocks", [(3, 3, 3, 1), (1, 1, 2), (5,)])
def test_decoding_block_by_block_equals_decoding_at_once(folder: Path, blocks: tuple[int, ...]) -> None:
    from diffusers import AutoencoderKLWan

    autoencoder = AutoencoderKLWan.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (autoencoder.config.latents_mean, autoencoder.config.latents_std))
    latents = 3 * torch.randn(sum(blocks), 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = autoencoder.decode((latents * std + mean).transpose(0, 1)[None]).sample[0]
    expected = ((whole + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    decoder = CausalDecoder(autoencoder)
    frames = [decoder.decode(block) for block in latents.split(blocks)]
    assert [len(part) for part in frames] == [4 * n - 3 * (i == 0) for i, n in enumerate(blocks)]
    assert len(frames[0].flatten().unique()) > 10
    assert torch.equal(torch.cat(frames), expected)


def test_two_streams_share_an_autoencoder_and_one_goes_back(folder: Path) -> None:
    parts = load_parts(folder, FITTING, CPU, torch.float32)
    latents = torch.randn(9, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    one, other = parts.new_decoder(), parts.new_decoder()
    first = one.decode(latents[:3])
    saved = one.snapshot()
    second = one.decode(latents[3:6])
    assert torch.equal(other.decode(latents[:3]), first)
    one.restore(saved)
    assert torch.equal(one.decode(latents[3:6]), second) and torch.equal(other.decode(latents[3:6]), second)


def test_prompts_are_embedded_to_a_fixed_length_with_zeros_after_the_end(folder: Path) -> None:
    parts = load_parts(folder, FITTING, CPU, torch.float32)
    embedding = parts.encode("a  train &amp;amp;\nin")
    assert embedding.shape == (1, *SIZE.text)
    assert torch.equal(embedding, parts.encode("a train & in"))
    assert bool((embedding[0, :5] != 0).any(1).all()) and not bool(embedding[0, 5:].any()), "four words and the end"
    assert parts.encode("a " * 50).shape == (1, *SIZE.text)
    offloaded = load_parts(folder, FITTING, CPU, torch.float32, offload=True)
    assert torch.equal(offloaded.encode("a train & in"), embedding)


def test_a_world_with_parts_from_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World.load(toy_world_file(tmp_path), "cpu", torch.float32, parts=folder)
    stream = world.stream(0)
    assert isinstance(stream, TextStream)
    stream.prompt = "a train in the snow"
    frames = [stream.tick([]) for _ in range(2)]
    assert [f.shape for f in frames] == [(9, 32, 48, 3), (12, 32, 48, 3)]
    assert np.concatenate(frames).std() > 1
    asked = ["play", str(tmp_path / "toy.safetensors"), "--parts", str(folder), "--headless", "--frames", "21", "--prompt", "a train in the snow"]
    assert main.main([*asked, "--dtype", "float32", "--offload"]) == 0
    assert capsys.readouterr().out.endswith(f"last frame {frame_digest(frames[-1][-1])}\n")


def test_a_start_picture_is_seen_and_followed_by_grey(folder: Path) -> None:
    """The last latent of the condition is what any longer video of the picture and grey would have there, and knows nothing of the picture."""
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel

    see = load_picture_parts(folder, FITTING, CPU, torch.float32).see
    picture, other = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    features, latents = see(picture)
    assert features.shape == (1, *TOY.seen) and latents.shape == (SETTLED, 4, 4, 6)
    other_features, other_latents = see(other)
    assert not torch.equal(features, other_features) and not torch.equal(latents[0], other_latents[0])
    assert torch.allclose(latents[-1], other_latents[-1], atol=1e-5) and not torch.equal(latents[1], latents[-1])
    autoencoder = AutoencoderKLWan.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    video = torch.zeros(1, 3, 1 + 4 * (SETTLED + 9), 32, 48)
    video[0, :, 0] = torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1
    with torch.no_grad():
        longer = autoencoder.encode(video).latent_dist.mode()[0].transpose(0, 1)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (autoencoder.config.latents_mean, autoencoder.config.latents_std))
    longer = (longer - mean) / std
    assert torch.allclose(longer[:SETTLED], latents, atol=1e-5)
    assert torch.allclose(longer[SETTLED:], latents[-1:].expand(10, -1, -1, -1), atol=1e-5)
    model, pixels = CLIPVisionModel.from_pretrained(folder / "image_encoder"), torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(pixels, size=(28, 28), mode="bicubic")
    clip = [(x - m) / s for x, m, s in zip(small[0], (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758), strict=True)]
    with torch.no_grad():
        hidden = model(pixel_values=torch.stack(clip)[None], output_hidden_states=True).hidden_states
    assert len(hidden) == 4 and torch.allclose(features, hidden[2], atol=1e-3)


def test_a_key_world_with_parts_from_a_folder(folder: Path, tmp_path: Path) -> None:
    stream = World.load(toy_file(tmp_path), "cpu", torch.float32, parts=folder).stream(0)
    assert [stream.tick(["forward"]).shape for _ in range(2)] == [(9, 32, 48, 3), (12, 32, 48, 3)]


def test_parts_that_are_not_there_are_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toy_world_file(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(WorldError, match=r"Published worlds need transformers and diffusers \(.*\): pip install -e '.\[published\]'\.$"):
        World.load(file, "cpu")


def test_a_folder_without_fitting_parts_is_told_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    file = toy_world_file(tmp_path)
    with pytest.raises(WorldError, match="give 12 numbers per token of text and 4 channels of video, but the world's transformer takes 12 and 16"):
        load_parts(folder, replace(FITTING, in_channels=16), CPU, torch.float32)
    for parts in (tmp_path, None):
        with pytest.raises(WorldError, match="hf download") as caught:
            World.load(file, "cpu", parts=parts)
        assert "\n" not in str(caught.value)
