"""What a published world needs beside its file: an encoder of text (UMT5) or of the start picture (CLIP), and a video autoencoder (Wan 2.1).

They come from `transformers` and `diffusers`, out of a local folder or the Hugging Face hub's cache; nothing is downloaded here, and nothing but
safetensors is read. This is the only module that knows these libraries, and nothing else of them is used. Both parts can be replaced by anything with the
same signature.
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.card import WorldError
from world_model.transformer import TransformerConfig
from world_model.wan.decoder import CausalDecoder, Decoder

PROMPTS_KEPT = 16
LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
SETTLED = 30  # latent frames of a picture with grey after it; from here on all are alike, for the autoencoder looks back 112 frames
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Parts:
    """The parts of a text world that are not in its file.

    Attributes:
        encode: from a prompt to its embedding [1, text_len, text_dim].
        new_decoder: returns the decoder of a new stream.
    """

    encode: Callable[[str], Tensor]
    new_decoder: Callable[[], Decoder]


@dataclass(frozen=True)
class PictureParts:
    """The parts of a key world that are not in its file.

    Attributes:
        see: from a start picture, uint8 [height, width, 3], to its features [1, text_len, text_dim] and to the latents [frames, channels, h, w] of a video
            of it with grey after it, of which the last goes on for ever.
        new_decoder: returns the decoder of a new stream.
    """

    see: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    new_decoder: Callable[[], Decoder]


def load_parts(source: str | Path, config: TransformerConfig, device: torch.device, dtype: torch.dtype, *, offload: bool = False) -> Parts:
    """Load text encoder and video autoencoder.

    Args:
        source: a folder with ``tokenizer``, ``text_encoder`` and ``vae``, or the name of such a repository in the hub's cache.
        config: of the transformer that they are to fit.
        offload: keep the text encoder in main memory; for a prompt its layers visit the device one after the other.

    Raises:
        WorldError: the libraries are not installed, the files are not there, or they do not fit; one sentence that says what to do.
    """
    with _told(source):
        from diffusers import AutoencoderKLWan  # type: ignore[import-not-found]
        from transformers import AutoTokenizer, UMT5EncoderModel  # type: ignore[import-not-found]

        tokenizer = AutoTokenizer.from_pretrained(source, subfolder="tokenizer", local_files_only=True)
        encoder = UMT5EncoderModel.from_pretrained(source, subfolder="text_encoder", dtype=dtype, **LOCAL)
        autoencoder = _autoencoder(AutoencoderKLWan, source, device, dtype)
    _check_fit(source, "text", encoder.config.d_model, autoencoder.config.z_dim, config)
    encode = TextEncoder(encoder, tokenizer, config.text_len, device, offload=offload)
    return Parts(lru_cache(maxsize=PROMPTS_KEPT)(encode), lambda: CausalDecoder(autoencoder))


def load_picture_parts(source: str | Path, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> PictureParts:
    """Load picture encoder and video autoencoder, from a folder with ``image_encoder`` and ``vae`` or such a repository; otherwise as `load_parts`."""
    with _told(source):
        from diffusers import AutoencoderKLWan
        from transformers import CLIPVisionModel

        encoder: Any = CLIPVisionModel.from_pretrained(source, subfolder="image_encoder", dtype=dtype, **LOCAL)
        encoder.to(device).eval().requires_grad_(False)
        autoencoder = _autoencoder(AutoencoderKLWan, source, device, dtype)
    _check_fit(source, "the picture", encoder.config.hidden_size, autoencoder.config.z_dim, config)
    return PictureParts(PictureEncoder(encoder, autoencoder), lambda: CausalDecoder(autoencoder))


@contextmanager
def _told(source: str | Path) -> Iterator[None]:
    """Say in one sentence what is missing."""
    try:
        yield
    except ImportError as error:
        raise WorldError(f"Published worlds need transformers and diffusers ({error}): pip install -e '.[published]'.") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise WorldError(
            f"The encoder and the video autoencoder are not in {source} ({' '.join(str(error).split())[:200]}); give their folder by --parts, or fetch them: "
            f"hf download {source} --exclude 'transformer/*'."
        ) from error


def _autoencoder(kind: Any, source: str | Path, device: torch.device, dtype: torch.dtype) -> Any:
    autoencoder = kind.from_pretrained(source, subfolder="vae", torch_dtype=dtype, low_cpu_mem_usage=False, **LOCAL)
    return autoencoder.to(device).eval().requires_grad_(False)


def _check_fit(source: str | Path, read: str, width: int, channels: int, config: TransformerConfig) -> None:
    if (width, channels) != (config.text_dim, config.in_channels):
        raise WorldError(
            f"The parts in {source} give {width} numbers per token of {read} and {channels} channels of video, "
            f"but the world's transformer takes {config.text_dim} and {config.in_channels}."
        )


class PictureEncoder:
    """See a start picture as Wan 2.1's worlds of pictures do.

    Args:
        model: transformers' `CLIPVisionModel`; its last layer but one is taken.
        autoencoder: diffusers' `AutoencoderKLWan`.
    """

    def __init__(self, model: Any, autoencoder: Any) -> None:
        self.model, self.autoencoder = model, autoencoder

    @torch.no_grad()
    def __call__(self, picture: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return features and latents, see `PictureParts.see`."""
        weight, config = self.autoencoder.post_quant_conv.weight, self.autoencoder.config
        pixels = torch.from_numpy(picture.copy()).to(weight.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        small = F.interpolate(pixels, size=2 * (self.model.config.image_size,), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(numbers, device=weight.device)[:, None, None] for numbers in (CLIP_MEAN, CLIP_STD))
        features = self.model(pixel_values=((small / 2 + 0.5 - mean) / std).to(weight.dtype), output_hidden_states=True).hidden_states[-2]
        video = torch.cat([pixels[:, :, None], pixels.new_zeros(1, 3, 4 * (SETTLED - 1), *pixels.shape[2:])], 2)
        latents = self.autoencoder.encode(video.to(weight.dtype)).latent_dist.mode()[0].transpose(0, 1).float()
        mean, std = (torch.tensor(numbers, device=weight.device)[:, None, None] for numbers in (config.latents_mean, config.latents_std))
        return features, (latents - mean) / std


class TextEncoder:
    """Embed prompts as Wan 2.1 does: a fixed number of tokens, those after the end set to zero.

    Args:
        model: transformers' `UMT5EncoderModel`.
        tokenizer: its tokenizer.
        length: tokens of a prompt.
        device: where to compute.
        offload: keep the model in main memory; for a prompt its layers visit the device one after the other.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int, device: torch.device, *, offload: bool = False) -> None:
        self.model, self.tokenizer, self.length, self.device = model.eval().requires_grad_(False), tokenizer, length, device
        self.model.to("cpu" if offload else device)
        for layer in (*model.encoder.block, model.encoder.final_layer_norm) if offload else ():
            visit(layer, device)

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """Return the embedding of a prompt [1, length, text_dim]."""
        words = " ".join(html.unescape(html.unescape(prompt)).split())
        tokens = self.tokenizer(words, padding="max_length", max_length=self.length, truncation=True, return_attention_mask=True, return_tensors="pt")
        mask, table = tokens.attention_mask.to(self.device), self.model.get_input_embeddings()
        read = table(tokens.input_ids.to(table.weight.device)).to(self.device)
        embedding = self.model(inputs_embeds=read, attention_mask=mask).last_hidden_state
        return embedding * mask[..., None].to(embedding)


def visit(layer: nn.Module, device: torch.device) -> None:
    """Let a layer's weights be on a device only while it computes; at home they stay where they are."""
    home = [(parameter, parameter.data) for parameter in layer.parameters()]

    def leave(*_: Any) -> None:
        for parameter, data in home:
            parameter.data = data.to(device)

    def come_back(*_: Any) -> None:
        for parameter, data in home:
            parameter.data = data

    layer.register_forward_pre_hook(leave)
    layer.register_forward_hook(come_back)
