"""Weights laid out once as the processor multiplies them.

Left alone, oneDNN lays a weight out anew for every product; for products as small as a tick's that costs as much as a third of them. In float32 torch asks
MKL for products, which takes 1.4 times as long as oneDNN with packed weights. The operators are those that torch's own compiler calls. Where a version of torch
or the processor does not have them, on other devices and in other numbers, everything stays as it is, and so it does where a gradient is wanted. Packed layers
keep their weights, but must not be given new ones.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 64  # of the inputs for which a layout is chosen; it serves any number
NEEDED = "_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported"
AVAILABLE = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in NEEDED)
PACKED = {
    torch.bfloat16: AVAILABLE and torch.ops.mkldnn._is_mkldnn_bf16_supported(),  # not by processors without AVX-512
    torch.float32: AVAILABLE and torch.backends.cpu.get_cpu_capability().startswith("AVX"),
}

Product = Callable[[Tensor], Tensor]


def can_pack(weight: Tensor) -> bool:
    """Tell whether products with this weight can be packed."""
    return weight.device.type == "cpu" and PACKED.get(weight.dtype, False)


def packed_product(weight: Tensor, bias: Tensor, *, gelu: bool = False, packed: bool = True) -> Product:
    """Return what multiplies x [..., inputs] by a weight [outputs, inputs], packed if it can and shall be; `gelu` (tanh) only goes with packed ones."""
    if not (packed and can_pack(weight)):
        return lambda x: F.linear(x, weight, bias)
    reordered, multiply = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), torch.ops.mkldnn._linear_pointwise
    activation, algorithm = ("gelu", "tanh") if gelu else ("none", "")
    return lambda x: multiply(x, reordered, bias, activation, [], algorithm)


def joined_product(*layers: nn.Linear, packed: bool = True) -> Product:
    """Return what multiplies x [..., inputs] by the weights of layers of one size, one beside the other; they become parts of a larger tensor."""
    weight, bias = join(*(layer.weight for layer in layers)), join(*(layer.bias for layer in layers))
    return packed_product(weight.flatten(0, 1), bias.flatten(), packed=packed)


def join(*weights: Tensor) -> Tensor:
    """Make weights of one shape parts of one tensor [weights, ...], and return it."""
    whole = torch.stack([weight.data for weight in weights])
    for weight, part in zip(weights, whole, strict=True):
        weight.data = part
    return whole


def packed_convolution(layer: nn.Conv2d, rows: int, columns: int) -> Product:
    """Return a convolution's forward with packed weights, in the layout chosen for an image of `rows` x `columns`."""
    where = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *where, [1, layer.in_channels, rows, columns])
    convolve = torch.ops.mkldnn._convolution_pointwise
    return lambda x: convolve(x, packed, layer.bias, *where, "none", [], "")


def flop_formulas() -> dict[Callable, Callable[..., int]]:
    """Return how many operations packed products take, for `torch.utils.flop_counter`, which counts the plain ones only."""

    def multiply(x: Sequence[int], weight: object, *_: object, out_shape: Sequence[int], **__: object) -> int:
        return 2 * math.prod(x) * out_shape[-1]

    def convolve(x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    return {torch.ops.mkldnn._linear_pointwise: multiply, torch.ops.mkldnn._convolution_pointwise: convolve} if AVAILABLE else {}


def pack(network: nn.Module, rows: int, columns: int, done: Iterable[nn.Module] = ()) -> None:
    """Pack the linear layers and convolutions of a network that works on images of about `rows` x `columns`; `done` are those whose products others make."""
    done = set(done)
    for module in network.modules():  # what holds others comes before them
        match list(module.children()) if isinstance(module, nn.Sequential) else []:
            case [nn.Linear() as first, nn.GELU(approximate="tanh"), nn.Linear() as last] if can_pack(first.weight) and first.weight.dtype == torch.bfloat16:
                _replace(module, _one_after_the_other(packed_product(first.weight, first.bias, gelu=True), packed_product(last.weight, last.bias)))
                done |= {first, last}  # in float32 an activation in the product is slower than one after it
        if module in done:
            continue
        if isinstance(module, nn.Linear) and can_pack(module.weight):
            _replace(module, packed_product(module.weight, module.bias))
        elif isinstance(module, nn.Conv2d) and can_pack(module.weight):
            _replace(module, packed_convolution(module, rows, columns))


def _one_after_the_other(first: Product, last: Product) -> Product:
    return lambda x: last(first(x))


def _replace(module: nn.Module, packed: Product) -> None:
    module.forward = _Packed(module.forward, packed)  # type: ignore[method-assign]


class _Packed:
    """A layer's forward with packed weights; the copy of a layer computes plainly, with weights of its own."""

    def __init__(self, plain: Product, packed: Product) -> None:
        self.plain, self.packed = plain, packed

    def __call__(self, x: Tensor) -> Tensor:
        return self.plain(x) if torch.is_grad_enabled() else self.packed(x)

    def __deepcopy__(self, memo: dict) -> Product:
        return copy.deepcopy(self.plain, memo)
