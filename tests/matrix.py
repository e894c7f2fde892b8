"""Matrix-Game 2.0's sampler, plain and slow: no caches kept, every frame told apart, absolute positions; and its table of tensors.

Written from docs/matrix-game-2.md, sharing no code with the engine. Tokens are [frames, places, width]; there is no batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MatrixSize:
    dim: int = 1536
    ffn: int = 8960
    heads: int = 12
    layers: int = 30
    channels: int = 16
    freq: int = 256
    seen: tuple[int, int] = (257, 1280)
    action_layers: int = 15
    action: int = 1024
    action_heads: int = 16
    key_dim: int = 128
    keys: int = 4
    mouse: bool = True


TOY = MatrixSize(48, 96, 2, 3, 4, 32, (5, 12), 2, 32, 2, 6)
LATENT = (4, 6)  # of TOY's frames
BLOCK, SEEN = 3, 6  # frames


def table(size: MatrixSize) -> dict[str, tuple[int, ...]]:
    """Return every tensor of a published checkpoint with its shape."""
    d, a, channels, seen = size.dim, size.action, 2 * size.channels + 4, size.seen[1]
    linear: dict[str, tuple[int, ...]] = {
        "patch_embedding": (d, channels, 1, 2, 2), "time_embedding.0": (d, size.freq), "time_embedding.2": (d, d), "time_projection.1": (6 * d, d),
        "head.head": (4 * size.channels, d), "img_emb.proj.1": (seen, seen), "img_emb.proj.3": (d, seen),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"head.modulation": (1, 2, d)}
    norms = {"img_emb.proj.0": seen, "img_emb.proj.4": d}
    for i in range(size.layers):
        block = f"blocks.{i}"
        linear |= {f"{block}.{part}.{name}": (d, d) for part in ("self_attn", "cross_attn") for name in "qkvo"}
        linear |= {f"{block}.ffn.0": (size.ffn, d), f"{block}.ffn.2": (d, size.ffn)}
        shapes |= {f"{block}.{part}.norm_{n}.weight": (d,) for part in ("self_attn", "cross_attn") for n in "qk"} | {f"{block}.modulation": (1, 6, d)}
        norms[f"{block}.norm3"] = d
        if i < size.action_layers:
            module = f"{block}.action_model"
            linear |= {f"{module}.keyboard_embed.0": (size.key_dim, size.keys), f"{module}.keyboard_embed.2": (size.key_dim, size.key_dim)}
            shapes |= {
                f"{module}.mouse_attn_q.weight": (a, d), f"{module}.keyboard_attn_kv.weight": (2 * a, 12 * size.key_dim),
                f"{module}.proj_keyboard.weight": (d, a),
            }  # fmt: skip
            kinds = ["key"]
            if size.mouse:
                kinds.append("img")
                linear |= {f"{module}.mouse_mlp.0": (a, d + 24), f"{module}.mouse_mlp.2": (a, a)}
                norms[f"{module}.mouse_mlp.3"] = a
                shapes |= {f"{module}.t_qkv.weight": (3 * a, a), f"{module}.proj_mouse.weight": (d, a)}
            shapes |= {f"{module}.{kind}_attn_{n}_norm.weight": (a // size.action_heads,) for kind in kinds for n in "qk"}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def random_weights(size: MatrixSize = TOY, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in table(size).items():
        fan = torch.Size(shape[1:]).numel()
        around = 1.0 if len(shape) == 1 and name.endswith(".weight") else 0.0
        weights[name] = around + torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else fan**-0.5)
    return weights


class Sampler:
    """`keys` and `mouse` are of raw frames; `scene` are the 20 channels of every latent frame's condition."""

    def __init__(self, size: MatrixSize, weights: dict[str, Tensor], features: Tensor, scene: Tensor) -> None:
        self.size, self.w, self.scene = size, weights, scene
        y = self.linear("img_emb.proj.1", self.norm(features, "img_emb.proj.0", 1e-5))
        self.seen = self.norm(self.linear("img_emb.proj.3", F.gelu(y)), "img_emb.proj.4", 1e-5)
        self.keys, self.mouse = torch.zeros(0, size.keys), torch.zeros(0, 2)
        self.clean: dict[tuple[int, str, int], tuple[Tensor, Tensor]] = {}  # (layer, what, frame): rotated keys and values [places, heads, width]

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.w[f"{name}.weight"].flatten(1).T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, x: Tensor, name: str = "", eps: float = 1e-6) -> Tensor:
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
        return y * self.w[f"{name}.weight"] + self.w[f"{name}.bias"] if name else y

    def rms(self, x: Tensor, name: str = "") -> Tensor:
        y = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return y * self.w[f"{name}.weight"] if name else y

    def turn(self, x: Tensor, angles: Tensor) -> Tensor:
        even, odd = x[..., 0::2].double(), x[..., 1::2].double()
        return torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], -1).flatten(-2).float()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)

    def pass_(self, x: Tensor, t: float, first: int) -> Tensor:
        """One pass over a block x [frames, c, h, w]: its keys and values replace those that it had."""
        w, size, frames = self.w, self.size, range(first, first + len(x))
        x = torch.cat([x, torch.stack([self.scene[min(i, len(self.scene) - 1)] for i in frames])], 1)
        f, c, h, width = x.shape
        rows, columns = h // 2, width // 2
        x = x.reshape(f, c, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(f, rows * columns, -1)
        x = self.linear("patch_embedding", x)
        half = size.freq // 2
        angles = t * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        e = self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", torch.cat([angles.cos(), angles.sin()]).float())))
        e6 = self.linear("time_projection.1", F.silu(e)).unflatten(0, (6, -1))
        for i in range(size.layers):
            m = w[f"blocks.{i}.modulation"][0] + e6
            y = self.norm(x) * (1 + m[1]) + m[0]
            part = f"blocks.{i}.self_attn"
            q, k = (self.rms(self.linear(f"{part}.{n}", y), f"{part}.norm_{n}").unflatten(-1, (size.heads, -1)) for n in "qk")
            v = self.linear(f"{part}.v", y).unflatten(-1, (size.heads, -1))
            turned = torch.stack([self.angles(frame, rows, columns, q.shape[-1]) for frame in frames])
            all_k, all_v = self.remember(i, "self", first, self.turn(k, turned), v)
            y = self.attend(self.turn(q, turned).flatten(0, 1), all_k.flatten(0, 1), all_v.flatten(0, 1)).flatten(1).unflatten(0, (f, -1))
            x = x + m[2] * self.linear(f"{part}.o", y)
            y, part = self.norm(x, f"blocks.{i}.norm3"), f"blocks.{i}.cross_attn"
            q = self.rms(self.linear(f"{part}.q", y), f"{part}.norm_q").unflatten(-1, (size.heads, -1)).flatten(0, 1)
            k = self.rms(self.linear(f"{part}.k", self.seen), f"{part}.norm_k").unflatten(-1, (size.heads, -1))
            v = self.linear(f"{part}.v", self.seen).unflatten(-1, (size.heads, -1))
            x = x + self.linear(f"{part}.o", self.attend(q, k, v).flatten(1).unflatten(0, (f, -1)))
            if i < size.action_layers:
                x = self.act(x, i, first)
            y = F.gelu(self.linear(f"blocks.{i}.ffn.0", self.norm(x) * (1 + m[4]) + m[3]), approximate="tanh")
            x = x + m[5] * self.linear(f"blocks.{i}.ffn.2", y)
        m = w["head.modulation"][0] + e
        x = self.linear("head.head", self.norm(x) * (1 + m[1]) + m[0])
        return x.reshape(f, rows, columns, 2, 2, size.channels).permute(0, 5, 1, 3, 2, 4).reshape(f, size.channels, h, width)

    def angles(self, frame: int, rows: int, columns: int, width: int) -> Tensor:
        pairs = width // 2
        third = pairs // 3
        parts = []
        for row in range(rows):
            for column in range(columns):
                sizes = ((frame, pairs - 2 * third), (row, third), (column, third))
                parts.append(torch.cat([p * 10000.0 ** (-torch.arange(n, dtype=torch.float64) / n) for p, n in sizes]))
        return torch.stack(parts)[:, None]

    def remember(self, layer: int, what: str, first: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values by frame and return those of the last frames [frames, places, heads, width]."""
        for i in range(len(k)):
            self.clean[layer, what, first + i] = k[i], v[i]
        end = first + len(k)
        pairs = [self.clean[layer, what, frame] for frame in range(max(0, end - SEEN), end)]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def act(self, x: Tensor, layer: int, first: int) -> Tensor:
        module, heads = f"blocks.{layer}.action_model", self.size.action_heads
        frames, places = x.shape[:2]

        def raw(of: Tensor) -> Tensor:
            """Raw frames [4 i - 12, 4 i) of every latent frame i, the first repeated to the left."""
            return torch.stack([torch.stack([of[max(0, r)] for r in range(4 * i - 12, 4 * i)]) for i in range(first, first + frames)])

        def turned(a: Tensor) -> Tensor:
            speeds = torch.zeros(a.shape[-1] // 2, dtype=torch.float64)
            speeds[:4] = 256.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
            return torch.stack([self.turn(a[i], (first + i) * speeds) for i in range(frames)])

        def along(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """q [frames, places, heads, width]; k, v [all frames, places or 1, heads, width]."""
            return torch.stack([self.attend(q[:, p], k[:, min(p, k.shape[1] - 1)], v[:, min(p, k.shape[1] - 1)]) for p in range(places)], 1).flatten(2)

        if self.size.mouse:
            y = torch.cat([x, raw(self.mouse).flatten(1)[:, None].expand(-1, places, -1)], -1)
            y = self.linear(f"{module}.mouse_mlp.2", F.gelu(self.linear(f"{module}.mouse_mlp.0", y), approximate="tanh"))
            q, k, v = self.linear(f"{module}.t_qkv", self.norm(y, f"{module}.mouse_mlp.3", 1e-5)).unflatten(-1, (3, heads, -1)).unbind(2)
            all_k, all_v = self.remember(layer, "mouse", first, turned(self.rms(k)), v)
            x = x + self.linear(f"{module}.proj_mouse", along(turned(self.rms(q)), all_k, all_v))
        told = self.linear(f"{module}.keyboard_embed.2", F.silu(self.linear(f"{module}.keyboard_embed.0", raw(self.keys)))).flatten(1)
        k, v = self.linear(f"{module}.keyboard_attn_kv", told)[:, None].unflatten(-1, (2, heads, -1)).unbind(2)
        q = self.linear(f"{module}.mouse_attn_q", x).unflatten(-1, (heads, -1))
        all_k, all_v = self.remember(layer, "keys", first, turned(self.rms(k)), v)
        return x + self.linear(f"{module}.proj_keyboard", along(turned(self.rms(q)), all_k, all_v))

    def block(self, number: int, keys: Tensor, mouse: Tensor, noise: list[Tensor], levels: list[float]) -> Tensor:
        """Make a block under an action that is held for all its raw frames."""
        count = 12 if number else 9
        self.keys, self.mouse = torch.cat([self.keys, keys.expand(count, -1)]), torch.cat([self.mouse, mouse.expand(count, -1)])
        x0 = torch.zeros_like(noise[0])
        for level, draw in zip(levels, noise, strict=True):
            x = (1 - level) * x0 + level * draw
            x0 = x - level * self.pass_(x, 1000 * level, number * BLOCK)
        self.pass_(x0, 0.0, number * BLOCK)
        return x0
