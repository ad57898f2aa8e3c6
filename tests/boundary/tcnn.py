"""tiny-cuda-nn in torch: what its kernels compute, and a stand-in for its module with its habits.

The habits: one flat vector of float32 parameters a module, drawn by a seed of its own; inputs [P, C] only; batches padded to a
multiple; half-precision results; a first derivative only.
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BATCH = 256
"""tinycudann pads batches to a multiple of that."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def tcnn_hash_grid(
    points: Tensor, params: Tensor, *, levels: int, features: int, log2_size: int, base: int, growth: float
) -> Tensor:
    """tiny-cuda-nn's HashGrid with linear interpolation: [P, levels * features] at points [P, 3] in 0..1.

    Its levels differ from nerfstudio's own in torch: cells are shifted by a half, and small levels are dense.
    """
    result, offset = [], 0
    primes = (1, 2654435761, 805459861)
    for level in range(levels):
        scale = 2.0 ** (level * math.log2(growth)) * base - 1
        resolution = math.ceil(scale) + 1
        size = min(_round_up(resolution**3, 8), 1 << log2_size)
        table = params[offset : offset + size * features].reshape(size, features)
        offset += size * features
        place = points * scale + 0.5
        corner = place.floor()
        share = place - corner
        values = points.new_zeros(len(points), features)
        for c in range(8):
            bits = [c >> axis & 1 for axis in range(3)]
            cell = [corner[:, axis].long() + bits[axis] for axis in range(3)]
            if resolution**3 <= 1 << log2_size:
                index = cell[0] + cell[1] * resolution + cell[2] * resolution**2
            else:
                index = cell[0] * primes[0] ^ cell[1] * primes[1] ^ cell[2] * primes[2]
            weight = points.new_ones(len(points))
            for axis in range(3):
                weight = weight * (share[:, axis] if bits[axis] else 1 - share[:, axis])
            values = values + weight[:, None] * table[index % size]
        result.append(values)
    assert offset == len(params), "the levels take all parameters"
    return torch.cat(result, dim=1)


def tcnn_perceptron(values: Tensor, params: Tensor, *, outputs: int, width: int, hidden: int) -> Tensor:
    """tiny-cuda-nn's FullyFusedMLP with ReLU: [P, outputs] of values [P, C]. It has no biases, but ones pad the input."""
    inputs, offset = _round_up(values.shape[1], 16), 0
    values = torch.cat([values, values.new_ones(len(values), inputs - values.shape[1])], dim=1)
    sizes = [inputs, *[width] * hidden, _round_up(outputs, 16)]
    for layer, (into, out) in enumerate(pairwise(sizes)):
        matrix = params[offset : offset + out * into].reshape(out, into)
        offset += out * into
        values = values @ matrix.T
        if layer < len(sizes) - 2:
            values = values.relu()
    assert offset == len(params), "the matrices take all parameters"
    return values[:, :outputs]


class _Once(torch.autograd.Function):
    """A function whose backward cannot be walked through again."""

    @staticmethod
    def forward(ctx: Any, compute: Any, values: Tensor, params: Tensor) -> Tensor:
        ctx.compute = compute
        ctx.save_for_backward(values, params)
        return compute(values, params)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        with torch.enable_grad():
            values, params = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            found = torch.autograd.grad(
                ctx.compute(values, params), (values, params), gradient, allow_unused=True
            )
        return None, *(
            torch.zeros_like(t) if g is None else g for g, t in zip(found, (values, params), strict=True)
        )


class _Module(nn.Module):
    def __init__(self, inputs: int, outputs: int, count: int, seed: int, spread: float) -> None:
        super().__init__()
        self.n_input_dims, self.n_output_dims = inputs, outputs
        generator = torch.Generator().manual_seed(seed)
        self.params = nn.Parameter((2 * torch.rand(count, generator=generator) - 1) * spread)

    def compute(self, values: Tensor, params: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, values: Tensor) -> Tensor:
        if values.dim() != 2 or values.shape[1] != self.n_input_dims:
            raise ValueError(f"tinycudann takes [P, {self.n_input_dims}], not {list(values.shape)}")
        count = len(values)
        padded = torch.cat([values, values.new_zeros(-count % BATCH, values.shape[1])])
        # master weights in float32, arithmetic and results in half
        found = _Once.apply(self.compute, padded.float(), self.params.half().float())
        return found[:count].half()


class Encoding(_Module):
    """tinycudann.Encoding of a HashGrid."""

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: Any = None
    ) -> None:
        assert encoding_config["otype"] == "HashGrid"
        self.options = {
            "levels": encoding_config["n_levels"],
            "features": encoding_config["n_features_per_level"],
            "log2_size": encoding_config["log2_hashmap_size"],
            "base": encoding_config["base_resolution"],
            "growth": float(encoding_config["per_level_scale"]),
        }
        count = sum(size for size in self._sizes())
        outputs = self.options["levels"] * self.options["features"]
        super().__init__(n_input_dims, outputs, count, seed, 1e-4)

    def _sizes(self) -> list[int]:
        o = self.options
        resolutions = [
            math.ceil(2.0 ** (level * math.log2(o["growth"])) * o["base"] - 1) + 1
            for level in range(o["levels"])
        ]
        return [min(_round_up(r**3, 8), 1 << o["log2_size"]) * o["features"] for r in resolutions]

    def compute(self, values: Tensor, params: Tensor) -> Tensor:
        return tcnn_hash_grid(values, params, **self.options)


class Network(_Module):
    """tinycudann.Network, a FullyFusedMLP."""

    def __init__(
        self, n_input_dims: int, n_output_dims: int, network_config: dict[str, Any], seed: int = 1337
    ) -> None:
        width, hidden = network_config["n_neurons"], network_config["n_hidden_layers"]
        assert width in (16, 32, 64, 128), "FullyFusedMLP has these widths only"
        sizes = [_round_up(n_input_dims, 16), *[width] * hidden, _round_up(n_output_dims, 16)]
        count = sum(into * out for into, out in pairwise(sizes))
        super().__init__(n_input_dims, n_output_dims, count, seed, (6 / (2 * width)) ** 0.5)
        self.options = {"outputs": n_output_dims, "width": width, "hidden": hidden}

    def compute(self, values: Tensor, params: Tensor) -> Tensor:
        return tcnn_perceptron(values, params, **self.options)


def stand_in() -> ModuleType:
    """Something to be put in the place of the module `tinycudann`."""
    module = ModuleType("tinycudann")
    module.Encoding, module.Network = Encoding, Network  # type: ignore[attr-defined]
    return module
