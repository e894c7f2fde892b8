"""What a text world needs beside its file: a text encoder (UMT5) and a video autoencoder (Wan 2.1).

They come from `transformers` and `diffusers`, out of a local folder or the Hugging Face hub's cache; nothing is downloaded here, and nothing but
safetensors is read. This is the only module that knows these libraries, and nothing else of them is used. Both parts can be replaced by anything with the
same signature.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world_model.card import WorldError
from world_model.transformer import TransformerConfig
from world_model.wan.decoder import CausalDecoder, Decoder

PROMPTS_KEPT = 16


@dataclass(frozen=True)
class Parts:
    """The parts of a text world that are not in its file.

    Attributes:
        encode: from a prompt to its embedding [1, text_len, text_dim].
        new_decoder: returns the decoder of a new stream.
    """

    encode: Callable[[str], Tensor]
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
    try:
        from diffusers import AutoencoderKLWan  # type: ignore[import-not-found]
        from transformers import AutoTokenizer, UMT5EncoderModel  # type: ignore[import-not-found]
    except ImportError as error:
        raise WorldError(f"Text worlds need transformers and diffusers ({error}): pip install -e '.[published]'.") from error
    where: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder="tokenizer", local_files_only=True)
        encoder = UMT5EncoderModel.from_pretrained(source, subfolder="text_encoder", dtype=dtype, **where)
        autoencoder = AutoencoderKLWan.from_pretrained(source, subfolder="vae", torch_dtype=dtype, low_cpu_mem_usage=False, **where)
    except (OSError, ValueError, RuntimeError) as error:
        raise WorldError(
            f"There is no text encoder and video autoencoder in {source} ({' '.join(str(error).split())[:200]}); give their folder by --parts, or fetch them: "
            f"hf download {source} --exclude 'transformer/*'."
        ) from error
    if (encoder.config.d_model, autoencoder.config.z_dim) != (config.text_dim, config.in_channels):
        raise WorldError(
            f"The parts in {source} give {encoder.config.d_model} numbers per token of text and {autoencoder.config.z_dim} channels of video, "
            f"but the world's transformer takes {config.text_dim} and {config.in_channels}."
        )
    autoencoder.to(device).eval().requires_grad_(False)
    encode = TextEncoder(encoder, tokenizer, config.text_len, device, offload=offload)
    return Parts(lru_cache(maxsize=PROMPTS_KEPT)(encode), lambda: CausalDecoder(autoencoder))


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
