"""The published sampler, plain and slow: two passes per block, absolute positions, every clean key kept for ever and picked by rule.

Written from the description of the method, sharing no code with the engine: it makes golden runs of any size to hold the engine against.
Keys and values are [frames of a block * tokens, heads, width]; there is no batch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Size:
    levels: int = 5
    block_frames: int = 3
    blocks: int = 10
    cache: int = 8
    attention: int = 7
    dim: int = 48
    heads: int = 2
    layers: int = 2
    patch: tuple[int, int] = (2, 2)
    latent: tuple[int, int, int] = (4, 4, 6)
    freq_dim: int = 32
    text: tuple[int, int] = (5, 12)


def random_weights(size: Size) -> dict[str, Tensor]:
    dim, ffn, patch = size.dim, 2 * size.dim, size.patch[0] * size.patch[1] * size.latent[0]
    shapes = {
        "patch_embedding": (dim, size.latent[0], 1, *size.patch), "text_embedding.0": (dim, size.text[1]), "text_embedding.2": (dim, dim),
        "time_embedding.0": (dim, size.freq_dim), "time_embedding.2": (dim, dim), "time_projection.1": (6 * dim, dim), "head.head": (patch, dim),
    }  # fmt: skip
    for i in range(size.layers):
        shapes |= {f"blocks.{i}.{part}.{name}": (dim, dim) for part in ("self_attn", "cross_attn") for name in "qkvo"}
        shapes |= {f"blocks.{i}.ffn.0": (ffn, dim), f"blocks.{i}.ffn.2": (dim, ffn)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape) * (shape[1:].numel() if isinstance(shape, torch.Size) else torch.Size(shape[1:]).numel()) ** -0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    for i in range(size.layers):
        weights[f"blocks.{i}.modulation"] = torch.randn(1, 6, dim) / dim**0.5
        weights[f"blocks.{i}.norm3.weight"], weights[f"blocks.{i}.norm3.bias"] = 1 + 0.1 * torch.randn(dim), 0.1 * torch.randn(dim)
        weights |= {f"blocks.{i}.{p}.norm_{n}.weight": 1 + 0.1 * torch.randn(dim) for p in ("self_attn", "cross_attn") for n in "qk"}
    return weights | {"head.modulation": torch.randn(1, 2, dim) / dim**0.5}


class Sampler:
    def __init__(self, size: Size, weights: dict[str, Tensor], prompt: Tensor) -> None:
        self.size, self.w = size, weights
        self.prompt = self.linear("text_embedding.2", F.gelu(self.linear("text_embedding.0", prompt), approximate="tanh"))
        self.clean: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, block): unrotated keys and values of its clean pass

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].flatten(1).T + self.w[f"{name}.bias"]

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def norm(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    def project(self, part: str, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = self.rms(f"{part}.norm_q", self.linear(f"{part}.q", x)), self.rms(f"{part}.norm_k", self.linear(f"{part}.k", source))
        return tuple(rearrange(a, "n (h d) -> n h d", h=self.size.heads) for a in (q, k, self.linear(f"{part}.v", source)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v).flatten(1)

    def rotate(self, x: Tensor, blocks: list[int]) -> Tensor:
        """Turn adjacent pairs by (frame, row, column); block b holds the frames from b * block_frames."""
        pairs, rows, columns = x.shape[-1] // 2, self.size.latent[1] // self.size.patch[0], self.size.latent[2] // self.size.patch[1]
        third = pairs // 3
        angles = []
        for block in blocks:
            for frame in range(block * self.size.block_frames, (block + 1) * self.size.block_frames):
                for row in range(rows):
                    for column in range(columns):
                        parts = ((frame, pairs - 2 * third), (row, third), (column, third))
                        angles.append([position * 10000.0 ** (-i / n) for position, n in parts for i in range(n)])
        a = torch.tensor(angles, dtype=torch.float64)[:, None]
        even, odd = x[..., 0::2].double(), x[..., 1::2].double()
        return torch.stack([even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos()], -1).flatten(-2).float()

    def velocity(self, x: Tensor, t: list[float], first: int, clean: bool) -> Tensor:
        """One pass over the blocks from `first` on, x [frames, c, h, w], one timestep per frame."""
        size, w = self.size, self.w
        blocks = list(range(first, first + len(x) // size.block_frames))
        patches = rearrange(x, "f c (h p) (w q) -> (f h w) (c p q)", p=size.patch[0], q=size.patch[1])
        x = self.linear("patch_embedding", patches)
        tokens = len(x) // len(t)
        half = size.freq_dim // 2
        speeds = torch.tensor([10000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
        angles = torch.tensor(t, dtype=torch.float64)[:, None] * speeds
        e = self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", torch.cat([angles.cos(), angles.sin()], 1).float())))
        e6 = self.linear("time_projection.1", F.silu(e)).unflatten(1, (6, -1))
        for i in range(size.layers):
            m = (w[f"blocks.{i}.modulation"] + e6).repeat_interleave(tokens, 0).unbind(1)
            q, k, v = self.project(f"blocks.{i}.self_attn", *2 * [self.norm(x) * (1 + m[1]) + m[0]])
            x = x + m[2] * self.linear(f"blocks.{i}.self_attn.o", self.attend(*self.span(i, blocks, q, k, v, clean)))
            y = self.norm(x) * w[f"blocks.{i}.norm3.weight"] + w[f"blocks.{i}.norm3.bias"]
            x = x + self.linear(f"blocks.{i}.cross_attn.o", self.attend(*self.project(f"blocks.{i}.cross_attn", y, self.prompt)))
            y = F.gelu(self.linear(f"blocks.{i}.ffn.0", self.norm(x) * (1 + m[4]) + m[3]), approximate="tanh")
            x = x + m[5] * self.linear(f"blocks.{i}.ffn.2", y)
        m = (w["head.modulation"] + e[:, None]).repeat_interleave(tokens, 0).unbind(1)
        x = self.linear("head.head", self.norm(x) * (1 + m[1]) + m[0])
        rows = size.latent[1] // size.patch[0]
        return rearrange(x, "(f h w) (p q c) -> f c (h p) (w q)", f=len(t), h=rows, p=size.patch[0], q=size.patch[1])

    def span(self, layer: int, blocks: list[int], q: Tensor, k: Tensor, v: Tensor, clean: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, and rotated keys and values of all that they see."""
        size, first = self.size, blocks[0]
        cached = [0, *range(max(1, first - (size.cache - 2)), first + 1)] if first else [0]  # with the oldest block of this pass
        if clean:
            self.clean[layer, first] = k, v
            seen = cached[-size.attention :][:-1]
            places = seen  # true positions, the first block of the video at zero
        elif first == 0:
            seen, places = [], []
        else:
            room = size.attention - len(blocks) - 1
            working = cached[1:-1][-room:] if room > 0 else []
            seen, places = [0, *working], [first - len(working) - 1, *working]  # the sink directly before the working blocks
        past = [self.clean[layer, block] for block in seen]
        keys = [self.rotate(pair[0], [place]) for pair, place in zip(past, places, strict=True)]
        return self.rotate(q, blocks), torch.cat([*keys, self.rotate(k, blocks)]), torch.cat([*(pair[1] for pair in past), v])


@torch.no_grad()
def write_golden(path: Path, size: Size, seed: int = 0) -> None:
    """Sample with random weights and write the run in the format of the published golden file."""
    torch.manual_seed(seed)
    weights, prompt = random_weights(size), torch.randn(1, *size.text)
    steps = [1000 * (size.levels - i) / size.levels for i in range(size.levels)]
    shift = 5.0
    timesteps = torch.tensor([1000 * shift * (s / 1000) / (1 + (shift - 1) * s / 1000) for s in steps])
    noise = torch.randn(1, size.blocks * size.block_frames, *size.latent)
    sampler, n, last = Sampler(size, weights, prompt[0]), size.block_frames, size.levels - 1
    x, done = noise[0].clone(), torch.zeros_like(noise[0])
    draws: dict[str, Tensor] = {}
    for window in range(size.blocks + last):
        first, end = max(0, window - last), min(size.blocks - 1, window)
        levels = [window - block for block in range(first, end + 1)]  # each block goes one level down per window
        rows = slice(first * n, (end + 1) * n)
        sigma = timesteps[levels].repeat_interleave(n) / 1000
        v = sampler.velocity(x[rows], (1000 * sigma).tolist(), first, clean=False)
        x0 = x[rows] - sigma[:, None, None, None] * v
        for i, level in enumerate(levels):
            own = slice(i * n, (i + 1) * n)
            if level == last:
                done[(first + i) * n : (first + i + 1) * n] = x0[own]
                continue
            draw = torch.randn_like(x0)
            draws[f"renoise.{len(draws):03d}"] = draw
            below = timesteps[level + 1] / 1000
            x[(first + i) * n : (first + i + 1) * n] = (1 - below) * x0[own] + below * draw[own]
        sampler.velocity(x0[:n], [0.0] * n, first, clean=True)
    config = {
        "dim": size.dim, "ffn_dim": 2 * size.dim, "num_heads": size.heads, "num_layers": size.layers, "freq_dim": size.freq_dim,
        "text_dim": size.text[1], "text_len": size.text[0], "eps": 1e-6,
    }  # fmt: skip
    facts = {
        "config": config, "frames_per_block": n, "blocks": size.blocks, "shift": shift, "steps": steps,
        "cache_blocks": size.cache, "attention_blocks": size.attention, "latent_hw": size.latent[1:],
    }  # fmt: skip
    tensors = {f"weights.{name}": t.contiguous() for name, t in weights.items()}
    tensors |= {"prompt_embeds": prompt, "noise": noise, "denoising_steps": timesteps, "latents": done[None].clone(), **draws}
    save_file(tensors, path, {name: json.dumps(value) for name, value in facts.items()})
