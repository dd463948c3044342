"""The arithmetic of the runtime over tensors of 64-bit integers: ``runtime/src/arith`` and ``runtime/src/ops``, line by line.

Integers that the runtime holds in 32 bits never overflow there (the certificate of a model proves it), so 64 bits give the
same values. Factors are made of scales in double precision as ``tools/convert`` makes them.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: log2 units with 8 fractional bits per natural unit: ``LOG2_UNITS`` of ``lower/elementwise.rs``.
LOG2_UNITS = math.log2(math.e) * 256.0
#: A bias that hides a score, and the real value at and below which it does.
MASKED, MASK_LIMIT = -32768, -80.0
#: Fractional bits of gamma and beta by bits of the output, and of a normalized value.
NORM_FRACTION = {8: 8, 16: 4}
NORMALIZED_BITS = 21
MAX_EPS = 1 << 57
#: Fractional bits of arguments and values of an activation; of its exponents.
ARGUMENT_BITS, VALUE_BITS, UNIT_BITS = 24, 22, 30
#: Scales for which an activation is within one step, and the magnitude of its arguments.
LEAST_SCALE, MAX_ARGUMENT = 1.0 / 16384.0, 512


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest integer of so many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def half_away(x: Any) -> Any:
    """Rounds to the nearest whole number, ties away from zero, as the converter rounds constants."""
    x = np.asarray(x, np.float64)
    whole = np.trunc(x)
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


class Factor(NamedTuple):
    """Real factors as ``multiplier * 2^(acc_shift - 32)``, one shift for all."""

    acc_shift: int
    multiplier: Tensor


def factor(ratios: Any, like: Tensor) -> Factor:
    """``quantize/multiplier.rs``: the smallest shift for which every multiplier is below 2^31."""
    ratios = np.atleast_1d(np.asarray(ratios, np.float64))
    largest, top = float(np.abs(ratios).max()), 2.0**31 - 1
    shift = 0
    while shift < 30 and largest * 2.0 ** (32 - shift) > top:
        shift += 1
    steps = np.clip(half_away(ratios * 2.0 ** (32 - shift)), -top, top).astype(np.int64)
    return Factor(shift, torch.from_numpy(steps).to(like.device))


def mulhi_round(a: Tensor, b: Tensor) -> Tensor:
    """``round_half_up(a b / 2^32)``."""
    return (a * b + (1 << 31)) >> 32


def requantized(acc: Tensor, by: Factor, zero: int = 0) -> Tensor:
    """``zero + mulhi_round(acc << acc_shift, multiplier)``; a multiplier per element of the last dimension or one for all."""
    return mulhi_round(acc << by.acc_shift, by.multiplier) + zero


def shifted(x: Tensor, shift: int) -> Tensor:
    """``round_half_up(x / 2^shift)``."""
    return (x + (1 << (shift - 1))) >> shift if shift else x


class Sum(NamedTuple):
    """``(a * ma + b * mb + bias) >> shift``."""

    ma: int
    mb: int
    bias: int
    shift: int


def sum_factors(factors: tuple[float, float], zeros: tuple[float, float], bits: tuple[int, int], zero: float) -> Sum:
    """``Lowering::emit_sum``: the largest shift for which the sum fits 32 bits."""
    reach = [float(1 << (b - 1)) for b in bits]
    shift = 30
    while True:
        one = 2.0**shift
        ma, mb = (float(half_away(f * one)) for f in factors)
        bias = (one / 2 if shift else 0.0) + zero * one - zeros[0] * ma - zeros[1] * mb
        if abs(ma) * reach[0] + abs(mb) * reach[1] + abs(bias) < 2_147_483_000.0 or shift == 0:
            return Sum(int(ma), int(mb), int(half_away(bias)), shift)
        shift -= 1


# -- exponentials and their quotient (arith/exp.rs) ------------------------------------------------------------------------

EXP2_ONE, EXP2_A, EXP2_B = 32640, 21926, 22
_F = np.arange(256, dtype=np.int64)
EXP2_FRACTION = EXP2_ONE - ((_F * (EXP2_A - _F * EXP2_B)) >> 8)


def exp_u16(distance: Tensor) -> Tensor:
    """``32640 * 2^-(distance / 256)``, floored."""
    table = torch.from_numpy(EXP2_FRACTION).to(distance.device)
    return table[distance & 255] >> (distance >> 8).clamp(max=31)


def exp_u8(distance: Tensor) -> Tensor:
    """``255 * 2^-(distance / 256)``, the 16-bit form rounded half up."""
    return (exp_u16(distance) + 64) >> 7


def bias_units(real: Tensor) -> Tensor:
    """A bias of scores in log2 units with 8 fractional bits."""
    values = real.detach().cpu().to(torch.float64).numpy()
    units = np.clip(half_away(np.nan_to_num(values, neginf=-1e30) * LOG2_UNITS), -32767, 32767)
    units = np.where(~(values > MASK_LIMIT), MASKED, units)
    return torch.from_numpy(units.astype(np.int64)).to(real.device)


def row_ratio(ratio: float) -> tuple[int, int]:
    """``ratio = m * 2^-shift`` with ``m`` in ``2^14 .. 2^15`` and ``shift`` in ``10..=20``."""
    ratio = min(max(ratio, 2.0**-6), 31.99)
    shift = 14 - math.floor(math.log2(ratio))
    m = float(half_away(ratio * 2.0**shift))
    if m >= 32768.0:
        shift -= 1
        m = float(half_away(ratio * 2.0**shift))
    return int(min(max(m, 16384.0), 32767.0)), min(max(shift, 10), 20)


def bit_length(x: Tensor) -> Tensor:
    """Bits of positive integers; 0 of 0."""
    bits = torch.frexp(x.to(torch.float64)).exponent.to(torch.int64)
    # Beyond 53 bits the conversion may have rounded up to a power of two.
    bits = bits - ((torch.ones_like(x) << (bits - 1).clamp(min=0)) > x).to(torch.int64)
    return torch.where(x > 0, bits, torch.zeros_like(bits))


def row_scaled(acc: Tensor, total: Tensor, ratio: tuple[int, int]) -> Tensor:
    """``RowScale``: ``round_half_up(acc * ratio / total)`` with a reciprocal of 16 bits; ``total`` broadcasts."""
    total = total.clamp(min=1)
    zeros = 32 - bit_length(total)
    reciprocal = 0xFFFF_FFFF // ((total << zeros) >> 16)
    multiplier = ((ratio[0] * reciprocal) & 0xFFFF_FFFF) >> 1
    shift = (ratio[1] + 15 - zeros).clamp(1, 31)
    return (((acc * multiplier) >> 32) + (torch.ones_like(shift) << (shift - 1))) >> shift


# -- normalization (arith/norm.rs) -----------------------------------------------------------------------------------------


def rsqrt(m: Tensor) -> Tensor:
    """``2^29 / sqrt(m / 2^32)`` by four steps of Newton's iteration."""
    one = 1 << 29
    r = one * 11 // 5 - ((m * (one * 6 // 5)) >> 32)
    for _ in range(4):
        square = (m * ((r * r) >> 29)) >> 32
        r = (r * (3 * one - square).clamp(min=0)) >> 30
    return r


def normalized(x: Tensor, rms: bool, eps: int) -> Tensor:
    """``(n x - sum) / sqrt(V)`` of every row, with 21 fractional bits."""
    n = x.shape[-1]
    total = torch.zeros_like(x[..., :1]) if rms else x.sum(-1, keepdim=True)
    v = (n * (x * x).sum(-1, keepdim=True) - total * total).clamp(min=0) + eps
    e = ((bit_length(v) - 1) >> 1) - 15
    m = torch.where(e >= 0, v >> (2 * e).clamp(min=0), v << (-2 * e).clamp(0, 62))
    root, shift = rsqrt(m), 8 - e
    root, shift = (torch.where(v == 0, torch.zeros_like(t), t) for t in (root, shift))
    c = n * x - total
    c = torch.where(shift >= 0, c << shift.clamp(0, 40), c >> (-shift).clamp(0, 40))
    return mulhi_round(c, root)


class Norm(NamedTuple):
    """Words of a normalization."""

    eps: int
    gamma: Tensor
    beta: Tensor
    fraction: int


def norm_words(
    gamma: Floats, beta: Floats, eps: float, width: int, scale: float, out: tuple[float, float, int], like: Tensor
) -> Norm:
    """``Lowering::layer_norm``: ``out`` is scale, zero point and bits of the result."""
    out_scale, out_zero, bits = out
    fraction = NORM_FRACTION[bits]
    top, most = 2.0**31 - 1, float(1 << 30)
    g = np.clip(half_away(gamma / out_scale * 2.0 ** (32 - NORMALIZED_BITS + fraction)), -top, top)
    b = np.clip(half_away((beta / out_scale + out_zero) * 2.0**fraction + float(1 << (fraction - 1))), -most, most)
    term = min(float(half_away(eps / (scale * scale) * float(width * width))), float(MAX_EPS))
    words = (torch.from_numpy(np.asarray(w, np.int64)).to(like.device) for w in (g, b))
    return Norm(int(term), next(words), next(words), fraction)


def layer_norm(x: Tensor, rms: bool, words: Norm) -> Tensor:
    """The rows of ``x``, normalized; to be saturated."""
    return (mulhi_round(normalized(x, rms, words.eps), words.gamma) + words.beta) >> words.fraction


# -- activations (arith/activation.rs) -------------------------------------------------------------------------------------

_LOG2_FACTORS = [
    628_098_702, 345_667_660, 182_455_581, 93_912_511, 47_667_823, 24_017_256, 12_055_174, 6_039_314, 3_022_600,
    1_512_037, 756_203, 378_148, 189_085, 94_546, 47_274, 23_637, 11_819, 5_909, 2_955, 1_477, 739, 369, 185, 92, 46, 23,
]  # fmt: skip
_LOG2_E, _QUICK = 1_549_082_005, 2_636_537_572
_NORMAL_LOGIT = (2_470_810_226, 114_649_562, -1_089_057)
_TANH_LOGIT = (2_471_977_230, 110_534_462, 0)
_UNIT = 1 << UNIT_BITS


def _exp2_negative(t: Ints) -> Ints:
    whole, fraction = t >> UNIT_BITS, t & (_UNIT - 1)
    rest, product = _UNIT - fraction, np.full_like(t, 1 << 40)
    for k, log2 in enumerate(_LOG2_FACTORS, 1):
        taken = rest >= log2
        rest = np.where(taken, rest - log2, rest)
        product = np.where(taken, product + (product >> k), product)
    value = product >> np.minimum(11 + whole, 62)
    value = np.where(fraction == 0, _UNIT >> np.minimum(whole, 62), value)
    return np.where(whole > UNIT_BITS, 0, value)


def _sigmoid(t: Ints, negative: Any) -> Ints:
    e = _exp2_negative(t)
    return np.where(negative, e << UNIT_BITS, _UNIT << UNIT_BITS) // (_UNIT + e)


def _linear(x: Ints, by: int) -> Ints:
    return (np.minimum(x, 64 << ARGUMENT_BITS) * by) >> ARGUMENT_BITS


def _odd_polynomial(x: Ints, c: tuple[int, int, int]) -> Ints:
    x = np.minimum(x, 11 << (ARGUMENT_BITS - 1))
    square = (x * x) >> ARGUMENT_BITS
    outer = c[0] + ((square * (c[1] + ((square * c[2]) >> ARGUMENT_BITS))) >> ARGUMENT_BITS)
    return (x * outer) >> ARGUMENT_BITS


def _rounded(x: Ints, shift: int) -> Ints:
    return (x + (1 << (shift - 1))) >> shift


def activation(name: str, x: Ints) -> Ints:
    """``f(x)`` with 22 fractional bits, ``x`` with 24."""
    x = np.clip(x, -MAX_ARGUMENT << ARGUMENT_BITS, MAX_ARGUMENT << ARGUMENT_BITS)
    size, negative = np.abs(x), x < 0
    if name == "sigmoid":
        return _rounded(_sigmoid(_linear(size, _LOG2_E), negative), UNIT_BITS - VALUE_BITS)
    if name == "tanh":
        tanh = 2 * _sigmoid(2 * _linear(size, _LOG2_E), False) - _UNIT
        return _rounded(np.where(negative, -tanh, tanh), UNIT_BITS - VALUE_BITS)
    logit = {
        "gelu": lambda: _odd_polynomial(size, _NORMAL_LOGIT),
        "gelu_tanh": lambda: _odd_polynomial(size, _TANH_LOGIT),
        "quick_gelu": lambda: _linear(size, _QUICK),
        "silu": lambda: _linear(size, _LOG2_E),
    }[name]()
    return _rounded((x >> 2) * _sigmoid(logit, negative), ARGUMENT_BITS - 2 + UNIT_BITS - VALUE_BITS)


_REAL: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
}


def has_integer_form(name: str, scale: float, zero: float, out_scale: float) -> bool:
    """Whether the function by shifts and adds is within one step at these scales: ``quantize/activation.rs``."""
    reach = (128.0 + abs(zero)) * scale
    return name != "relu" and scale >= LEAST_SCALE and LEAST_SCALE <= out_scale <= 1e6 and reach <= MAX_ARGUMENT


def table(name: str, scale: float, zero: float, out: tuple[float, float, int]) -> Ints:
    """The 256 values of a function of 8-bit arguments, from ``q = -128``."""
    out_scale, out_zero, bits = out
    q = np.arange(-128, 128, dtype=np.int64)
    low, high = limits(bits)
    if bits == 8 and has_integer_form(name, scale, zero, out_scale):
        one = 2.0**ARGUMENT_BITS
        step, offset = int(half_away(scale * one)), int(half_away(zero * scale * one))
        ratio = 2.0**-VALUE_BITS / out_scale
        shift = 30 - math.floor(math.log2(ratio))
        multiplier = int(half_away(ratio * 2.0**shift))
        steps = _rounded(activation(name, q * step - offset) * multiplier, shift) + int(out_zero)
    else:
        real = _REAL[name]((q - zero) * scale)
        steps = half_away(real / out_scale + out_zero).astype(np.int64)
    return np.clip(steps, low, high)
