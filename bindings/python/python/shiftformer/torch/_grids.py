"""Values on the grids of the integer runtime, with straight-through gradients.

A value is a tensor of whole numbers in ``float32``, which holds 24 bits exactly, beside its scale and zero point. Every layer
computes twice: in integers, what the runtime computes, and in reals, whose gradient is taken; the result is the first with
the gradient of the second. Where integers saturate, no gradient passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _integers as ints


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, whole: Tensor) -> Tensor:
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def straight(real: Callable[[], Tensor], whole: Tensor, bits: int) -> Tensor:
    """The integers ``whole``, limited to ``bits``, with the gradient of ``real``, which is in the same steps."""
    low, high = ints.limits(bits)
    result = whole.clamp(low, high).to(torch.float32)
    if not torch.is_grad_enabled():
        return result
    soft = real()
    if not soft.requires_grad:
        return result
    through: Tensor = _Straight.apply(soft.clamp(low - 0.5, high + 0.5), result)
    return through


@dataclass
class Grid:
    """``real = scale * (q - zero) * factor``.

    Attributes:
        q: Whole numbers.
        scale: With the gradient of a trained scale.
        exact: The scale as the converter sees it.
        zero: The zero point, whole but for raw pixels.
        bits: 8 or 16.
        factor: Of multiplications by numbers, which cost nothing: they are another reading of the same integers.
    """

    q: Tensor
    scale: Tensor
    exact: float
    zero: float
    bits: int
    factor: float = 1.0

    @property
    def step(self) -> float:
        """Real units of a step."""
        return self.exact * self.factor

    def real(self) -> Tensor:
        """The value, in ``float32``."""
        return (self.q - self.zero) * (self.scale * self.factor)

    def moved(self, q: Tensor) -> Grid:
        return replace(self, q=q)

    def whole(self) -> Tensor:
        return self.q.detach().to(torch.int64)


@dataclass
class Forms:
    """A value in 8 bits, in 16 bits, or in both."""

    narrow: Optional[Grid] = None
    wide: Optional[Grid] = None

    def any(self) -> Grid:
        grid = self.wide if self.wide is not None else self.narrow
        assert grid is not None
        return grid

    def eight(self) -> Grid:
        assert self.narrow is not None
        return self.narrow

    def moved(self, move: Callable[[Tensor], Any]) -> Any:
        """The same after a movement; a tuple where it takes the tensor apart."""
        grids = (self.narrow, self.wide)
        results = [None if g is None else move(g.q) for g in grids]
        first = next(r for r in results if r is not None)
        if not isinstance(first, Tensor):
            count = len(first)
            parts = [[None if r is None else r[i] for r in results] for i in range(count)]
            return tuple(self._of(part) for part in parts)
        return self._of(results)

    def _of(self, parts: list[Optional[Tensor]]) -> Forms:
        narrow, wide = (
            None if g is None or q is None else g.moved(q) for g, q in zip((self.narrow, self.wide), parts)
        )
        return Forms(narrow, wide)

    def scaled(self, factor: float) -> Forms:
        narrow, wide = (
            None if g is None else replace(g, factor=float(np.float32(g.factor) * np.float32(factor)))
            for g in (self.narrow, self.wide)
        )
        return Forms(narrow, wide)


class Quantizer(nn.Module):
    """Scale and zero point of an activation of 8 or 16 bits. The scale of 8 bits is trained, as its logarithm."""

    log_scale: Tensor
    zero: Tensor

    def __init__(self, bits: int, symmetric: bool) -> None:
        super().__init__()
        self.bits, self.symmetric = bits, symmetric
        start = torch.zeros(())
        if bits == 8:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)
        self.register_buffer("zero", torch.zeros((), dtype=torch.int64))
        #: Quantizers whose scale this one has to be near: that of values read through an attention.
        self.near: Optional[Quantizer] = None

    def set(self, scale: float, zero: int = 0) -> None:
        """Takes scale and zero point."""
        with torch.no_grad():
            self.log_scale.fill_(float(np.log(max(scale, 1e-12))))
            self.zero.fill_(zero)

    def scale(self) -> Tensor:
        """The scale in ``float32``, as the ONNX file holds it."""
        scale = torch.exp(self.log_scale)
        if self.bits == 8:
            scale = scale.clamp(2.0**-13, 1e5)
        if self.near is not None:
            # The quotient of both scales has 15 bits and a limited range.
            other = self.near.scale().detach()
            scale = torch.minimum(torch.maximum(scale, other / 30), other * 60)
        return scale

    def grid(self, real: Callable[[Tensor, float], Tensor], whole: Callable[[float, int], Tensor]) -> Grid:
        """The result of a layer: in reals by scale and zero point, in integers by the same."""
        scale = self.scale()
        exact, zero = float(scale.detach()), int(self.zero)
        q = straight(lambda: real(scale, zero), whole(exact, zero), self.bits)
        return Grid(q, scale, exact, zero, self.bits)

    def of_real(self, x: Tensor) -> Grid:
        """An input of the model: rounded half away from zero, saturated."""

        def whole(exact: float, zero: int) -> Tensor:
            steps = ints.half_away(x.detach().cpu().to(torch.float64).numpy() / exact + zero)
            return torch.from_numpy(steps).to(x.device)

        return self.grid(lambda scale, zero: x / scale + zero, whole)

    def of_grid(self, x: Grid) -> Grid:
        """The same value at this scale: the operator ``requant``."""

        def whole(exact: float, zero: int) -> Tensor:
            by = ints.factor(x.step / exact, x.q)
            return ints.requantized(x.whole() - int(ints.half_away(x.zero)), by, zero)

        return self.grid(lambda scale, zero: x.real() / scale + zero, whole)


class WeightQuantizer(nn.Module):
    """A scale per output channel, trained as its logarithm; all integers of ``bits`` bits, symmetric for 8."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        half = 1 << (bits - 1)
        self.low, self.high = (-half if bits < 8 else -127), half - 1
        self.log_scale = nn.Parameter(torch.log(self._best(weight.detach().flatten(1))))

    def _best(self, rows: Tensor) -> Tensor:
        """The scale with the smallest square error of each row."""
        top = float(max(self.high, 1))
        full = (rows.abs().amax(1) / top).clamp(min=1e-9)
        best, least = full, torch.full_like(full, float("inf"))
        cuts = [1 - i / 80 for i in range(70)] if self.bits < 8 else [1.0]
        for cut in cuts:
            scale = full * cut
            rounded = (rows / scale[:, None]).round().clamp(self.low, self.high) * scale[:, None]
            error = (rows - rounded).square().sum(1)
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
        return best

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The integers, and the scales ``[n]`` in ``float32``."""
        scale = torch.exp(self.log_scale).clamp(min=1e-12)
        steps = weight / scale.reshape(-1, *[1] * (weight.dim() - 1))
        rounded = steps.detach().round().clamp(self.low, self.high)
        if not torch.is_grad_enabled():
            return rounded, scale
        through: Tensor = _Straight.apply(steps.clamp(self.low - 0.5, self.high + 0.5), rounded)
        return through, scale


def exact_type(terms: int, a: int, b: int) -> torch.dtype:
    """The type in which sums of so many products of ``a`` by ``b`` bits are exact in any order."""
    return torch.float32 if terms << (a + b - 2) <= 1 << 24 else torch.float64


def constant(values: Tensor, bits: int) -> Grid:
    """A constant operand in its own symmetric range: ``Lowering::constant_forms``."""
    top = float(ints.limits(bits)[1])
    doubles = values.detach().cpu().to(torch.float64)
    exact = max(float(doubles.abs().max()) / top, 1e-30)
    whole = torch.from_numpy(ints.half_away(doubles.numpy() / exact)).to(values.device)
    q = straight(lambda: values / exact, whole, bits)
    return Grid(q, torch.tensor(exact, device=values.device), exact, 0, bits)


Product = Callable[[Tensor, Tensor], Tensor]


def dense(
    x: Grid, weight: Tensor, quantizer: WeightQuantizer, bias: Optional[Tensor], out: Quantizer, product: Product,
    residual: Optional[Grid] = None, dims: int = -1,
) -> Grid:  # fmt: skip
    """A linear layer or a convolution, requantized to ``out``; ``residual`` is added behind that, in the scale of ``out``.

    ``dims`` is the dimension of the output channels.
    """
    w, w_scale = quantizer(weight)
    kind = exact_type(w[0].numel(), x.bits, quantizer.bits)
    acc = product(x.q.to(kind), w.to(kind))
    shape = [-1 if d == dims % acc.dim() else 1 for d in range(acc.dim())]
    sums = w.flatten(1).sum(1)

    def whole(exact: float, zero: int) -> Tensor:
        scales = w_scale.detach().cpu().to(torch.float64).numpy()
        b = 0.0 if bias is None else bias.detach().cpu().to(torch.float64).numpy()
        steps = ints.half_away(b / (x.step * scales) - x.zero * sums.detach().cpu().to(torch.float64).numpy())
        steps = torch.from_numpy(np.clip(steps, -(2.0**31) + 1, 2.0**31 - 1).astype(np.int64)).to(acc.device)
        by = ints.factor(scales * x.step / exact, acc)
        total = acc.detach().to(torch.int64) + steps.reshape(shape)
        y = ints.requantized(total, ints.Factor(by.acc_shift, by.multiplier.reshape(shape)), zero)
        return y if residual is None else y + residual.whole()

    def real(scale: Tensor, zero: float) -> Tensor:
        ratio = (w_scale * (x.scale * x.factor) / scale).reshape(shape)
        y: Tensor = (acc.to(torch.float32) - x.zero * sums.reshape(shape)) * ratio + zero
        if bias is not None:
            y = y + (bias / scale).reshape(shape)
        return y if residual is None else y + residual.real() / scale

    return out.grid(real, whole)


def norm(x: Grid, gamma: Tensor, beta: Optional[Tensor], eps: float, rms: bool, out: Quantizer) -> Grid:
    """LayerNorm, or RMSNorm, over the last dimension."""
    n = x.q.shape[-1]

    def doubles(t: Tensor) -> ints.Floats:
        return np.broadcast_to(t.detach().cpu().to(torch.float64).numpy().reshape(-1), (n,))

    def whole(exact: float, zero: int) -> Tensor:
        b = np.zeros(n) if beta is None else doubles(beta)
        eps32 = float(np.float32(eps))
        words = ints.norm_words(doubles(gamma), b, eps32, n, x.step, (exact, zero, out.bits), x.q)
        return ints.layer_norm(x.whole(), rms, words)

    def real(scale: Tensor, zero: float) -> Tensor:
        r = x.real()
        if rms:
            y = r * torch.rsqrt(r.square().mean(-1, keepdim=True) + eps) * gamma
        else:
            y = F.layer_norm(r, (n,), gamma, beta, eps)
        return y / scale + zero

    return out.grid(real, whole)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def function(name: str, x: Grid, out: Quantizer) -> Grid:
    """A function of one number: a table of the 256 values."""

    def whole(exact: float, zero: int) -> Tensor:
        values = torch.from_numpy(ints.table(name, x.step, x.zero, (exact, zero, out.bits)))
        looked_up: Tensor = values.to(x.q.device)[x.whole() + 128]
        return looked_up

    return out.grid(lambda scale, zero: FUNCTIONS[name](x.real()) / scale + zero, whole)


def add(a: Grid, b: Grid, out: Quantizer, sign: float = 1.0) -> Grid:
    """A sum, or a difference; one broadcasts to the other."""

    def whole(exact: float, zero: int) -> Tensor:
        by = ints.sum_factors((a.step / exact, sign * b.step / exact), (a.zero, b.zero), (a.bits, b.bits), zero)
        return (a.whole() * by.ma + b.whole() * by.mb + by.bias) >> by.shift

    return out.grid(lambda scale, zero: (a.real() + sign * b.real()) / scale + zero, whole)


def mul(a: Grid, b: Grid, out: Quantizer) -> Grid:
    """A product, element by element."""

    def whole(exact: float, zero: int) -> Tensor:
        by = ints.factor(a.step * b.step / exact, a.q)
        parts = [g.whole() - int(ints.half_away(g.zero)) for g in (a, b)]
        return ints.requantized(parts[0] * parts[1], by, zero)

    return out.grid(lambda scale, zero: a.real() * b.real() / scale + zero, whole)


def mean(x: Grid, dims: tuple[int, ...], keep: bool, out: Quantizer) -> Grid:
    """The mean over neighbouring dimensions."""
    count = 1
    for d in dims:
        count *= x.q.shape[d]

    def whole(exact: float, zero: int) -> Tensor:
        by = ints.factor(x.step * (1.0 / count) / exact, x.q)
        total = x.whole().sum(dims, keepdim=keep) - int(ints.half_away(x.zero * count))
        return ints.requantized(total, by, zero)

    return out.grid(lambda scale, zero: x.real().mean(dims, keepdim=keep) / scale + zero, whole)


def attention(
    q: Grid, k: Grid, v: Grid, scale: float, mask: Optional[Tensor], wide_exp: bool, out: Quantizer
) -> Grid:
    """``softmax(q k scale + mask) v`` of ``[.., n, d]``, ``[.., d, m]`` and ``[.., m, e]``.

    Exponentials are powers of two relative to the row's maximum in 8 or 16 bits; values are weighted first, and divided once.
    """
    kind = exact_type(q.q.shape[-1], 8, 8)
    dots = q.q.to(kind) @ k.q.to(kind)
    # The factors of the scores, in the precision of the ONNX file.
    by_numbers = float(np.float32(np.float32(scale) * np.float32(q.factor)) * np.float32(k.factor))

    def whole(exact: float, zero: int) -> Tensor:
        by = ints.factor(q.exact * k.exact * by_numbers * ints.LOG2_UNITS, dots)
        scores = ints.requantized(dots.detach().to(torch.int64), by)
        if mask is not None:
            scores = scores + ints.bias_units(mask)
        distance = scores.amax(-1, keepdim=True) - scores
        e = ints.exp_u16(distance) if wide_exp else ints.exp_u8(distance)
        weighing = exact_type(e.shape[-1], 17 if wide_exp else 9, 8)
        acc = (e.to(weighing) @ v.q.detach().to(weighing)).to(torch.int64)
        ratio = ints.row_ratio(v.exact / exact)
        return ints.row_scaled(acc, e.sum(-1, keepdim=True), ratio) + zero

    def real(out_scale: Tensor, zero: float) -> Tensor:
        scores = dots.to(torch.float32) * (q.scale * k.scale * by_numbers)
        if mask is not None:
            scores = scores + mask.clamp(min=-1e9)
        return torch.softmax(scores, -1) @ v.q * (v.scale / out_scale) + zero

    return out.grid(real, whole)
