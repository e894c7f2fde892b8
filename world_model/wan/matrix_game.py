"""Matrix-Game 2.0: Wan's transformer, begun from a picture and led by keys and mouse.

- Beside the 16 channels of a noisy latent frame it reads 20 that tell where the stream began: a mask, and the latents of the start picture with grey after it.
- Features of the start picture stand where the text stands elsewhere.
- Action modules in the first blocks, between cross-attention and feed-forward: every place of the picture looks along time, once led by the mouse, once at
  the keys. Their keys and values are kept like those of the self-attention.
- A latent frame is told the raw frames' actions up to the one before its last: of the last four latent frames, one, four, four and three.

The facts, and where they are from, stand in docs/matrix-game-2.md.

Axes: b batch, f frames, p places of a frame, n tokens (f p), h heads, d width.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.attention import attention, rotate
from world_model.context import ContextAttention, ContextConfig, KeyValueCache
from world_model.transformer import Attend, Block, Transformer, TransformerConfig

RAW_FRAMES = (1, 4, 4, 3)  # of the last four latent frames, in what a latent frame is told
MASK_CHANNELS = 4
ROPE_BASE, ROPE_WIDTH = 256.0, 8


@dataclass(frozen=True)
class MatrixGameConfig(TransformerConfig):
    """Sizes of the network; the start picture's features take the places of ``text_dim`` and ``text_len``.

    The world's actions are keys, but for the last ``len(mouse)``: each of those moves the mouse by so much (up, right). With ``idle_key`` the network has
    one key more, its first, which is down while no other is.
    """

    action_layers: int = 15
    action_dim: int = 1024
    action_heads: int = 16
    key_dim: int = 128
    mouse: tuple[tuple[float, float], ...] = ()
    idle_key: bool = False

    @property
    def num_keys(self) -> int:
        """How many keys the network knows."""
        return self.num_actions - len(self.mouse) + self.idle_key


@dataclass(frozen=True)
class Scene:
    """Where a stream began: every layer's keys and values of the picture's features, and its latents [frames, channels, h, w], the last for ever."""

    seen: list[tuple[Tensor, Tensor]]
    latents: Tensor


class ActionCache(KeyValueCache):
    """The cache of a stream, with those of its action modules."""

    def __init__(self, context: ContextConfig, config: MatrixGameConfig, batch: int, places: int, block_frames: int, **options: Any) -> None:
        super().__init__(context, config.num_layers, batch, places * block_frames, config.num_heads, config.head_width, **options)
        sizes = (config.action_heads, config.action_dim // config.action_heads)
        self.mouse = KeyValueCache(context, config.action_layers if config.mouse else 0, batch, places * block_frames, *sizes, **options)
        self.keyboard = KeyValueCache(context, config.action_layers, batch, block_frames, *sizes, **options)

    def snapshot(self, blocks: int) -> Any:
        """Return copies of all three, as `KeyValueCache.snapshot` does."""
        return super().snapshot(blocks), self.mouse.snapshot(blocks), self.keyboard.snapshot(blocks)

    def restore(self, saved: Any) -> None:
        """Go back to a snapshot, which stays valid."""
        own, mouse, keyboard = saved
        super().restore(own)
        self.mouse.restore(mouse)
        self.keyboard.restore(keyboard)


class UnitNorm(nn.Module):
    """RMS normalisation whose weight is in the checkpoint and not applied, as published."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.eps)


class ActionModule(nn.Module):
    """Lead every place by the mouse, then by the keys; names as in the checkpoint."""

    def __init__(self, config: MatrixGameConfig) -> None:
        super().__init__()
        dim, width, raw = config.dim, config.action_dim, sum(RAW_FRAMES)
        self.heads, self.has_mouse = config.action_heads, bool(config.mouse)

        def norm() -> UnitNorm:
            return UnitNorm(width // config.action_heads, config.eps)

        if self.has_mouse:
            self.mouse_mlp = nn.Sequential(nn.Linear(dim + 2 * raw, width), nn.GELU("tanh"), nn.Linear(width, width), nn.LayerNorm(width))
            self.t_qkv, self.proj_mouse = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, dim, bias=False)
            self.img_attn_q_norm, self.img_attn_k_norm = norm(), norm()
        self.keyboard_embed = nn.Sequential(nn.Linear(config.num_keys, config.key_dim), nn.SiLU(), nn.Linear(config.key_dim, config.key_dim))
        self.mouse_attn_q, self.keyboard_attn_kv = nn.Linear(dim, width, bias=False), nn.Linear(raw * config.key_dim, 2 * width, bias=False)
        self.proj_keyboard = nn.Linear(width, dim, bias=False)
        self.key_attn_q_norm, self.key_attn_k_norm = norm(), norm()

    def forward(self, x: Tensor, keys: Tensor, mouse: Tensor, layer: int, attend: ContextAttention) -> Tensor:
        """Lead tokens x [b, n, d] by raw frames of keys [b, f, 12, keys] and of the mouse [b, f, 12, 2]."""
        cache = attend.cache
        assert isinstance(cache, ActionCache)
        if self.has_mouse:
            told = mouse.flatten(2).repeat_interleave(x.shape[1] // mouse.shape[1], 1)
            q, k, v = rearrange(self.t_qkv(self.mouse_mlp(torch.cat([x, told], -1))), "b n (three h d) -> three b n h d", three=3, h=self.heads)
            looked = along_time(cache.mouse, layer, self.img_attn_q_norm(q), self.img_attn_k_norm(k), v, attend, mouse.shape[1])
            x = x + self.proj_mouse(looked.flatten(2))
        q = rearrange(self.mouse_attn_q(x), "b n (h d) -> b n h d", h=self.heads)
        k, v = rearrange(self.keyboard_attn_kv(self.keyboard_embed(keys).flatten(2)), "b f (two h d) -> two b f h d", two=2, h=self.heads)
        looked = along_time(cache.keyboard, layer, self.key_attn_q_norm(q), self.key_attn_k_norm(k), v, attend, keys.shape[1])
        return x + self.proj_keyboard(looked.flatten(2))


def along_time(cache: KeyValueCache, layer: int, q: Tensor, k: Tensor, v: Tensor, attend: ContextAttention, frames: int) -> Tensor:
    """Attend with every place of q [b, n, h, d] along time, over the same blocks as the self-attention.

    `k` and `v` have the places of q or only one, which all places look at.
    """
    places = q.shape[1] // frames
    block_frames = attend.tokens // places
    per_frame = k.shape[1] // frames  # keys
    per_block = per_frame * block_frames
    if attend.clean is not None:
        cache.write(layer, attend.clean, k[:, :per_block], v[:, :per_block])
    outputs = []
    for group in attend.groups:
        own = slice(group.first // places * per_frame, group.queries.stop // places * per_frame)
        seen_k, seen_v = k[:, own], v[:, own]
        if group.blocks:
            seen_k, seen_v = cache.read(layer, group.blocks, seen_k, seen_v)
        looking, seen_k, seen_v = (
            rearrange(a, "b (f p) h d -> (b p) f h d", p=p) for a, p in ((q[:, group.queries], places), (seen_k, per_frame), (seen_v, per_frame))
        )
        table = time_table(seen_k.shape[1], q.shape[-1], q.device)
        looking, seen_k = rotate(looking, table[-looking.shape[1] :]), rotate(seen_k, table)
        seen_k, seen_v = (a.repeat_interleave(places // per_frame, 0) for a in (seen_k, seen_v))
        outputs.append(rearrange(attention(looking, seen_k, seen_v), "(b p) f h d -> b (f p) h d", p=places))
    return torch.cat(outputs, 1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def time_table(frames: int, width: int, device: torch.device) -> Tensor:
    """Return the rotary factors of so many frames, complex64 [frames, 1, width / 2]: the first `ROPE_WIDTH` numbers turn, the others stand still."""
    speeds = torch.zeros(width // 2, dtype=torch.float64)
    turning = min(ROPE_WIDTH, width) // 2
    speeds[:turning] = ROPE_BASE ** -(torch.arange(turning, dtype=torch.float64) / turning)
    angles = torch.outer(torch.arange(frames, dtype=torch.float64), speeds)[:, None]
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).to(device)


class ActionBlock(Block):
    """Wan's block, with an action module before its feed-forward if it is one of the first."""

    def __init__(self, config: MatrixGameConfig, layer: int) -> None:
        super().__init__(config)
        self.action_model = ActionModule(config) if layer < config.action_layers else None

    def forward(self, x: Tensor, e: Tensor, layer: int, attend: Attend, text: Any, skipped: int = 0) -> Tensor:
        seen, keys, mouse = text
        shift1, scale1, gate1, *after = self.modulations(e)
        shift2, scale2, gate2 = (part[:, skipped:] for part in after)
        x = torch.addcmul(x, self.self_attn(self.modulate(x, shift1, scale1), layer, attend), gate1)
        x = x + self.cross_attn(self.norm3(x), seen)
        if self.action_model is not None:
            x = self.action_model(x.flatten(1, 2), keys, mouse, layer, attend).view_as(x)
        x = x[:, skipped:]
        if not x.shape[1]:
            return x
        return torch.addcmul(x, self.ffn(self.modulate(x, shift2, scale2)), gate2)


class MatrixGame(Transformer):
    """The network; its `forward` takes a `Scene` for the text, and looks through a `ContextAttention` whose cache is an `ActionCache`."""

    def __init__(self, config: MatrixGameConfig) -> None:
        super().__init__(config)
        self.game = config
        self.config = replace(config, prediction="x0")  # the head's output as it is: `forward` knows the frames without their condition
        del self.text_embedding, self.action_embedding
        channels, dim, seen = 2 * config.in_channels + MASK_CHANNELS, config.dim, config.text_dim
        self.patch_embedding = nn.Conv3d(channels, dim, kernel_size=(1, *config.patch_size), stride=(1, *config.patch_size))
        layers = (nn.LayerNorm(seen), nn.Linear(seen, seen), nn.GELU(), nn.Linear(seen, dim), nn.LayerNorm(dim))
        self.img_emb = nn.ModuleDict({"proj": nn.Sequential(*layers)})
        self.blocks = nn.ModuleList(ActionBlock(config, layer) for layer in range(config.num_layers))

    def scene(self, features: Tensor, latents: Tensor) -> Scene:
        """Return the scene of a start picture: features [b, tokens, width], latents of it and of the grey after it [frames, channels, h, w]."""
        embedded = self.img_emb["proj"](features)
        mask = torch.zeros_like(latents[:, :MASK_CHANNELS])
        mask[0] = 1
        return Scene([block.cross_attn.project_text(embedded) for block in self.blocks], torch.cat([mask, latents], 1))  # type: ignore[union-attr,operator]

    def forward(  # type: ignore[override]
        self, x: Tensor, sigma: Tensor, attend: ContextAttention, actions: Tensor, text: Scene, wanted: int | None = None
    ) -> Tensor:
        """Predict the clean frames, as `Transformer.forward` does."""
        places = x.shape[3] * x.shape[4] // (self.config.patch_size[0] * self.config.patch_size[1])
        first = first_block(attend) * attend.tokens // places
        index = torch.arange(first, first + x.shape[1], device=x.device).clamp_max(len(text.latents) - 1)
        condition = text.latents[index].expand(len(x), -1, -1, -1, -1)
        keys, mouse = self.raw_actions(actions)
        told = [(seen, keys, mouse) for seen in text.seen]
        velocity = super().forward(torch.cat([x, condition.to(x)], 2), sigma, attend, None, told, wanted)  # type: ignore[arg-type]
        frames = x.shape[1] if wanted is None else wanted
        if not frames:
            return x[:, :0].float()
        return x[:, -frames:].float() - sigma[:, -frames:, None, None, None].float() * velocity

    def raw_actions(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys [b, f, 12, keys] and mouse [b, f, 12, 2] of raw frames for the actions [b, f, 4, num_actions] of the last four latent frames."""
        counts = torch.tensor(RAW_FRAMES, device=actions.device)
        raw = actions.repeat_interleave(counts, 2, output_size=sum(RAW_FRAMES)).to(self.patch_embedding.weight.dtype)
        keys, moves = raw.split([self.game.num_actions - len(self.game.mouse), len(self.game.mouse)], -1)
        if self.game.idle_key:
            keys = torch.cat([1 - keys.amax(-1, keepdim=True), keys], -1)
        return keys, moves @ raw.new_tensor(self.game.mouse).reshape(-1, 2)


def first_block(attend: ContextAttention) -> int:
    """Return the index of the first block in a pass: the clean one, else the one after those that the window sees."""
    if attend.clean is not None:
        return attend.clean
    before = attend.groups[0].blocks
    return before[-1] + 1 if before else 0
