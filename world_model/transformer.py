"""The video diffusion transformer: one class for our own worlds and for the published checkpoints.

- Wan 2.1's arithmetic and key layout, so that published weights load by name.
- Timesteps, and therefore modulation, per frame: every frame of a rolling window has its own noise level.
- Actions are added to the per-frame time vector through a zero-initialised layer; a text-only checkpoint is the case without
  actions, a small world the case without text.
- Which keys a query sees is not decided here: each block hands q, k and v (before rotation) to an `Attend`. The stream's looks into
  its cache, the trainer's into a long clip, and both run the same weights.

Axes: b batch, f frames, c latent channels, (h w) latent grid, n tokens, d width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.above import RecallFromAbove
from world_model.attention import attention
from world_model.bodies import BODY, LIFE, RecallBodies
from world_model.kept import Kept
from world_model.motion import Motion
from world_model.packing import Product, join, joined_product
from world_model.recall import PLACE, Recall

TIME_BASE = 10000.0


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer; names follow Wan 2.1.

    ``prediction`` says what the head's output means: "velocity" (noise minus clean, as published) or "x0" (the clean frame).
    ``places``, if not None, is the (rows, columns) of tokens in a frame and gives each place a learned embedding: floors are below and walking zooms
    about the middle, which relative positions alone do not tell. ``motion_channels``, if not 0, is the width of motion compensation
    (`world_model.motion`, with ``motion_blocks`` residual pairs), whose prediction is added to the head's; ``recall_width``, if not 0, are the texels along
    the map of the memory of places which it is given (`world_model.recall`, with ``recall_blocks`` residual pairs, for pictures of a horizontal
    ``field_of_view`` in degrees, or seen ``from_above``, as in `world_model.above`, or with at most so many ``bodies`` of so many ``kinds``, as in
    `world_model.bodies`), ``recall_least`` how much of it is taken in any case, and ``follow_width`` is the width of the network which guesses places.
    The published checkpoints have none of these.
    Every frame is told the last ``action_history`` actions up to its own: bodies have inertia, and a game may turn more slowly at first. With ``stands_still``
    a frame that is told of none is the frame before it, in worlds where nothing moves but the player: what little a network would change feeds on itself.
    """

    dim: int = 384
    ffn_dim: int = 1536
    num_heads: int = 4
    num_layers: int = 6
    in_channels: int = 8
    patch_size: tuple[int, int] = (2, 4)
    freq_dim: int = 256
    places: tuple[int, int] | None = None
    motion_channels: int = 0
    motion_blocks: int = 3
    recall_width: int = 0
    recall_blocks: int = 1
    recall_least: float = 0.0
    follow_width: int = 512
    field_of_view: float = 90.0
    from_above: bool = False
    bodies: int = 0
    kinds: int = 1
    num_actions: int = 0
    action_history: int = 1
    stands_still: bool = False
    text_dim: int = 0
    text_len: int = 0
    eps: float = 1e-6
    prediction: str = "x0"

    @property
    def place_numbers(self) -> int:
        """How many numbers a place has; 0 in worlds without a memory."""
        return (PLACE + (LIFE + self.bodies * BODY if self.bodies else 0)) if self.recall_width else 0

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


class Attend(Protocol):
    """Decide which keys the queries of one layer see.

    Called with q, k, v [b, n, heads, head width] of all tokens in the pass, normalised but not rotated; returns the same shape as q.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class RMSNorm(nn.RMSNorm):
    """RMS normalisation in the dtype of its input (under autocast the weight is float32)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)  # type: ignore[arg-type]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Bring the last axis of x to a root mean square of one, times a weight."""
    if x.device.type != "cpu":
        return F.rms_norm(x, x.shape[-1:], None, eps) * weight.to(x.dtype)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # torch's own norm copies x in float32, and takes 2.5 times as long
    return x * (length.square() / x.shape[-1] + eps).rsqrt().to(x.dtype) * weight.to(x.dtype)


class SelfAttention(nn.Module):
    """Projections and q/k norms of one self-attention; the attention itself is the caller's."""

    packed: tuple[Product, Tensor] | None = None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.eps = config.num_heads, config.eps
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        return self.o(attend(layer, *self.project(x.flatten(1, 2))).flatten(2)).view_as(x)

    def project(self, x: Tensor) -> Iterable[Tensor]:
        """Return queries, keys and values [b, n, heads, head width] of tokens [b, n, d], queries and keys normalised over all heads."""
        b, n, d = x.shape
        shape = b, n, self.heads, d // self.heads
        if self.packed is None or torch.is_grad_enabled():
            return self.norm_q(self.q(x)).view(shape), self.norm_k(self.k(x)).view(shape), self.v(x).view(shape)
        project, norm = self.packed
        qk, v = project(x).view(b, n, 3, d).split((2, 1), 2)
        q, k = rms_norm(qk, norm, self.eps).unbind(2)
        return q.view(shape), k.view(shape), v.view(shape)

    def pack(self, *, packed: bool = True) -> None:
        """Make one product of the three projections and one norm of two where no gradient is wanted; the weights become parts of larger tensors.

        `packed` says whether this product may have a packed weight (`world_model.packing`).
        """
        self.packed = joined_product(self.q, self.k, self.v, packed=packed), join(self.norm_q.weight, self.norm_k.weight)


class CrossAttention(SelfAttention):
    """Attention to the text; its keys and values are computed once per prompt by `project_text`."""

    def project_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [b, text, heads, head width] of embedded text [b, text, d]."""
        k, v = self.norm_k(self.k(text)), self.v(text)
        return rearrange(k, "b n (h d) -> b n h d", h=self.heads), rearrange(v, "b n (h d) -> b n h d", h=self.heads)

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        q = self.norm_q(self.q(x.flatten(1, 2))).unflatten(-1, (self.heads, -1))
        return self.o(attention(q, *text).flatten(2)).view_as(x)


class Block(nn.Module):
    """Modulated self-attention, optional cross-attention to text, modulated feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dim, self.eps = config.dim, config.eps
        self.self_attn = SelfAttention(config)
        if config.text_dim:
            self.norm3 = nn.LayerNorm(config.dim, config.eps)
            self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(nn.Linear(config.dim, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, config.dim))
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim).uniform_(-1, 1).mul_((3 / config.dim) ** 0.5))

    def forward(self, x: Tensor, e: Tensor, layer: int, attend: Attend, text: tuple[Tensor, Tensor] | None, skipped: int = 0) -> Tensor:
        """Return tokens [b, f, n, d] for tokens x of the same shape under the modulation e [b, f, 1, 6, d] of their frames.

        The first `skipped` frames are only attended to, and left out of what is returned.
        """
        shift1, scale1, gate1, *after = self.modulations(e)
        shift2, scale2, gate2 = (part[:, skipped:] for part in after)
        x = torch.addcmul(x, self.self_attn(self.modulate(x, shift1, scale1), layer, attend), gate1)[:, skipped:]
        if not x.shape[1]:
            return x
        if text is not None:
            x = x + self.cross_attn(self.norm3(x), text)
        return torch.addcmul(x, self.ffn(self.modulate(x, shift2, scale2)), gate2)

    def modulations(self, e: Tensor) -> Iterable[Tensor]:
        """Return shift, scale (about one) and gate of the attention and those of the feed-forward layer, [b, f, 1, d] each, for e as in `forward`."""
        parts = self.modulation.to(e.dtype) + e
        parts[..., 1::3, :] += 1
        return parts.unbind(3)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Return tokens [b, f, n, d] normalised, scaled and shifted frame by frame, [b, f, 1, d] each."""
        return torch.addcmul(shift, F.layer_norm(x, (self.dim,), eps=self.eps), scale)


class Head(nn.Module):
    """Modulated projection from tokens to latent patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dim, self.eps = config.dim, config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch_size) * config.in_channels)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim).uniform_(-1, 1).mul_((3 / config.dim) ** 0.5))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation.to(e.dtype) + e[:, :, None, None]).unbind(3)
        return self.head(torch.addcmul(shift, F.layer_norm(x, (self.dim,), eps=self.eps), 1 + scale))


class Transformer(nn.Module):
    """Predict velocity or x0 of noisy latent frames, conditioned on per-frame noise levels, actions and text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self._kept = Kept()
        dim, patch = config.dim, (1, *config.patch_size)
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        if config.places:
            self.place_embedding = nn.Parameter(torch.zeros(math.prod(config.places), dim))
        if config.motion_channels:
            recalls = bool(config.recall_width)
            self.motion = Motion(config.in_channels, dim, config.patch_size, config.motion_channels, config.motion_blocks, recalls)
        if config.recall_width:
            assert config.places is not None, "a memory of places needs frames of one size"
            height, width = (places * patch for places, patch in zip(config.places, config.patch_size, strict=True))
            shape, told = (config.in_channels, height, width), config.action_history * config.num_actions
            sizes = config.recall_width, config.recall_blocks, config.follow_width, config.field_of_view
            if config.bodies:
                self.recall: Recall = RecallBodies(shape, told, *sizes, config.bodies, config.kinds)
            else:
                self.recall = (RecallFromAbove if config.from_above else Recall)(shape, told, *sizes)
        if config.text_dim:
            self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.num_actions:
            first, last = nn.Linear(config.action_history * config.num_actions, dim), nn.Linear(dim, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.action_embedding = nn.Sequential(first, nn.SiLU(), last)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        nn.init.zeros_(self.head.head.weight)

    def embed_text(self, text: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's text keys and values for text embeddings [b, text, text_dim]; reuse them until the prompt changes."""
        embedded = self.text_embedding(text)
        return [block.cross_attn.project_text(embedded) for block in self.blocks]  # type: ignore[union-attr,operator]

    def embed_times(self, sigma: Tensor) -> Tensor:
        """Return vectors [b, f, d] of noise levels [b, f]; the few that play needs are made once."""

        def embed() -> Tensor:
            return self.time_embedding(sinusoid(1000 * sigma, self.config.freq_dim).to(self.patch_embedding.weight.dtype))

        if sigma.device.type != "cpu" or not torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu"):
            return embed()
        return self._kept(tuple(map(tuple, sigma.tolist())), embed, *self.time_embedding.parameters())

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        attend: Attend,
        actions: Tensor | None = None,
        text: list[tuple[Tensor, Tensor]] | None = None,
        wanted: int | None = None,
        before: Tensor | None = None,
        recalled: Tensor | None = None,
        refined: int | None = None,
    ) -> Tensor:
        """Run the network on frames x [b, f, c, h, w] at noise levels sigma [b, f] in [0, 1].

        Args:
            attend: which keys each query sees.
            actions: [b, f, action_history, num_actions], the actions that led to each frame, its own last.
            text: what `embed_text` returned.
            wanted: how many of the last frames to predict (default: all); the others are only attended to.
            before: [b, wanted, c, h, w], for each of these the frame before it, as far as it is known; only for models with motion compensation.
            recalled: [b, wanted, c, h, w], what is remembered from where these were taken (`world_model.recall`); only for models that recall.
            refined: how many of the first of these frames motion compensation refines (`Motion.forward`; default: all).

        Returns:
            The clean frames predicted (x0), [b, wanted, c, h, w], float32.
        """
        _, frames, _, height, width = x.shape
        rows, columns = height // self.config.patch_size[0], width // self.config.patch_size[1]
        weight = self.patch_embedding.weight
        patches = rearrange(x.to(weight.dtype), "b f c (h p) (w q) -> b f (h w) (c p q)", p=self.config.patch_size[0], q=self.config.patch_size[1])
        tokens = F.linear(patches, weight.flatten(1), self.patch_embedding.bias)  # [b, f, n, d]; equals the strided convolution
        if self.config.places:
            tokens = tokens + self.place_embedding.to(tokens.dtype)

        e = self.embed_times(sigma)
        if actions is not None:
            e = e + self.action_embedding(actions.flatten(2).to(weight.dtype))
        e6 = self.time_projection(e).unflatten(-1, (1, 6, -1))  # [b, f, 1, 6, d]
        skipped = 0 if wanted is None else frames - wanted
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, e6, layer, attend, None if text is None else text[layer], skipped if layer == last else 0)
        x, sigma, e = x[:, skipped:], sigma[:, skipped:], e[:, skipped:]
        frames -= skipped
        if not frames:
            return x.float()
        out = self.head(tokens, e).float()
        out = rearrange(
            out, "b f (h w) (p q c) -> b f c (h p) (w q)",
            h=rows, w=columns, p=self.config.patch_size[0], q=self.config.patch_size[1],
        )  # fmt: skip
        x0 = out if self.config.prediction == "x0" else x.float() - sigma[..., None, None, None].float() * out
        if self.config.motion_channels:
            assert before is not None, "a model with motion compensation needs the frames before"
            assert (recalled is not None) == bool(self.config.recall_width), "a model that recalls needs what is remembered"
            least = self.recall.remembers() * self.config.recall_least if self.config.recall_width else 0.0
            x0 = x0 + self.motion(x, before, tokens, e, recalled, refined, least)
        if self.config.stands_still:
            assert before is not None and actions is not None, "a model that stands still needs the frames before, and actions"
            x0 = torch.where(actions[:, -frames:].flatten(2).any(-1)[..., None, None, None], x0, before.float())
        return x0


def sinusoid(t: Tensor, size: int) -> Tensor:
    """Embed timesteps t in [0, 1000] of any shape: `size` numbers each, cosines first, computed in float64."""
    half = size // 2
    speeds = TIME_BASE ** -(torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = t.double().unsqueeze(-1) * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()
