#!/usr/bin/env python3
"""Golden vectors of the published I-ViT operators, by their float formulas.

Li and Gu, "I-ViT: Integer-only Quantization for Efficient Vision Transformer Inference", ICCV 2023: Algorithm 1
(Shiftmax), Algorithm 2 (ShiftGELU), section 3.5 (I-LayerNorm) and the dyadic requantization of section 3.2, in float64
as the published code computes them. Every step is asserted to stay below 2^53, where float64 holds integers exactly.

    python3 tests/vectors/generate.py tests/vectors/ivit      # needs numpy only
"""

import json
import sys
from pathlib import Path

import numpy as np

SEED = 20231002
EXACT = 2.0**53
CLAMP = 2.0**31 - 1


def exact(a):
    assert np.all(np.abs(a) < EXACT), "a step leaves the exact range of float64"
    return a


def exp_shift(x, scale, n):
    """Shift-based exponential: integers at scale `scale / 2^n`."""
    x = x + np.floor(x / 2) - np.floor(x / 16)
    x0 = np.floor(-1.0 / scale)
    x = np.maximum(x, n * x0)
    q = np.floor(x / x0)
    r = x - x0 * q
    # A few bits times a power of two: exact however large, as for the positive arguments of ShiftGELU's `e_zero`.
    return np.maximum(np.floor((r / 2 - x0) * 2.0 ** (n - q)), 0)


def shiftmax(x, scale, n, bits):
    e = exp_shift(x - x.max(axis=-1, keepdims=True), scale, n)
    total = np.minimum(exact(e.sum(axis=-1, keepdims=True)), CLAMP)
    factor = np.floor(CLAMP / total)
    return np.floor(exact(e * factor) / 2.0 ** (32 - bits))


def shiftgelu(x, scale, n, bits):
    row_max = x.max(axis=-1, keepdims=True)
    e = exp_shift(x - row_max, scale * 1.702, n)
    e_zero = exp_shift(-row_max, scale * 1.702, n)
    factor = np.floor(CLAMP / np.minimum(e + e_zero, CLAMP))
    return x * np.floor(exact(e * factor) / 2.0 ** (32 - bits))


def ilayernorm(x, weight, bias):
    y = x - np.round(x.mean(axis=-1, keepdims=True))
    var = exact((y**2).sum(axis=-1, keepdims=True))
    k = np.full_like(var, 2.0**16)
    for _ in range(10):
        k = np.floor((k + np.floor(var / k)) / 2)
    factor = np.floor(CLAMP / k)
    out_scale = np.sqrt(x.shape[-1]) / 2.0**30
    bias_int = np.floor(bias / weight / out_scale)
    return exact(np.floor(exact(y * factor) / 2) + bias_int), bias_int, out_scale


def dyadic(ratio):
    """`ratio = mult / 2^shift`, `mult` rounded half up to 31 bits."""
    mantissa, exponent = np.frexp(ratio)
    return np.floor(mantissa * 2.0**31 + 0.5).astype(np.int64), (31 - exponent).astype(np.int64)


def half_even_shift(acc, mult, shift):
    """`round_half_even(acc * mult / 2^shift)` over Python's integers: the 62-bit product is beyond float64."""
    product = int(acc) * int(mult)
    floor = product >> int(shift)
    rest = product - (floor << int(shift))
    half = 1 << (int(shift) - 1)
    return floor + (rest > half or (rest == half and floor % 2 == 1))


def requantize(acc, mult, shift, bits):
    mult, shift = np.broadcast_to(mult, acc.shape), np.broadcast_to(shift, acc.shape)
    scaled = [half_even_shift(a, m, s) for a, m, s in zip(acc.flat, mult.flat, shift.flat)]
    return np.array(scaled, dtype=np.int64).reshape(acc.shape)


def limited(y, bits):
    return np.clip(y, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int32)


class Folder:
    def __init__(self, path):
        self.path, self.index = Path(path), []
        self.path.mkdir(parents=True, exist_ok=True)

    def add(self, name, constants, **arrays):
        np.savez_compressed(self.path / f"{name}.npz", **arrays)
        described = {key: [list(a.shape), str(a.dtype)] for key, a in arrays.items()}
        self.index.append({"name": name, **constants, "arrays": described})

    def close(self):
        (self.path / "index.json").write_text(json.dumps(self.index, indent=1) + "\n")


def rows(rng, shape, spread):
    """Rows of 8-bit values of different spreads, with a constant row and one of both extremes."""
    width = rng.choice(spread, size=(*shape[:-1], 1))
    x = np.clip(np.round(rng.normal(size=shape) * width), -128, 127)
    flat = x.reshape(-1, shape[-1])
    flat[0] = rng.integers(-128, 128)
    flat[-1] = np.where(rng.random(shape[-1]) < 0.5, -128, 127)
    return flat.reshape(shape)


def main(folder):
    rng, out = np.random.default_rng(SEED), Folder(folder)
    for i, (scale, shape) in enumerate([(0.3, (4, 9)), (0.04, (2, 3, 50)), (0.0078125, (3, 197)), (0.0011, (2, 33))]):
        for bits in (8, 16):
            x = rows(rng, shape, [2, 12, 60])
            y = shiftmax(x, scale, 15, bits)
            constants = {"op": "shiftmax", "in_scale": scale, "n": 15, "out_bits": bits, "out_scale": 2.0 ** (1 - bits)}
            out.add(f"shiftmax_{bits}_{i}", constants, x=x.astype(np.int32), y=y.astype(np.int32))
    for i, (scale, shape) in enumerate([(0.11, (6, 17)), (0.03125, (2, 2, 64)), (0.0093, (4, 128)), (0.41, (3, 5))]):
        x = rows(rng, shape, [3, 20, 70])
        # A row without positive values, where the exponential at zero is clamped.
        x.reshape(-1, shape[-1])[1] = -1 - np.abs(x.reshape(-1, shape[-1])[1])
        y = shiftgelu(x, scale, 23, 8)
        constants = {"op": "shiftgelu", "in_scale": scale, "n": 23, "sigmoid_bits": 8, "out_scale": scale / 128}
        out.add(f"shiftgelu_{i}", constants, x=x.astype(np.int32), y=y.astype(np.int64))
    for i, (spread, shape) in enumerate([(9000, (4, 16)), (300, (2, 3, 64)), (7, (3, 192)), (20000, (2, 320))]):
        x = np.clip(np.round(rng.normal(size=shape) * spread + rng.normal() * spread), -32768, 32767)
        x.reshape(-1, shape[-1])[0] = -32768
        weight = rng.uniform(0.2, 2, shape[-1]) * rng.choice([-1, 1], shape[-1])
        bias = rng.normal(size=shape[-1])
        y, bias_int, out_scale = ilayernorm(x, weight, bias)
        constants = {"op": "ilayernorm", "in_scale": 0.001, "out_scale_without_weight": out_scale}
        integers = {"x": x.astype(np.int32), "bias_int": bias_int.astype(np.int64), "y": y.astype(np.int64)}
        out.add(f"ilayernorm_{i}", constants, weight=weight, bias=bias, **integers)
    for i, (bits, shape, reach) in enumerate([(8, (5, 24), 31), (16, (2, 3, 16), 24), (8, (7, 1), 12), (16, (4, 40), 31)]):
        acc = rng.integers(-(2**reach), 2**reach, size=shape)
        identity = rng.integers(-32768, 32768, size=shape)
        out_scale = 2.0**reach / 2.0**bits
        mult, shift = dyadic(rng.uniform(0.1, 3, shape[-1]) / out_scale)
        identity_mult, identity_shift = dyadic(np.array([2.0**bits / 2.0**16 * rng.uniform(0.2, 1)]))
        # Exact halves: ratios of a power of two over odd accumulators.
        mult[0], shift[0] = 2**30, 30 + max(1, reach - bits)
        acc.reshape(-1, shape[-1])[:, 0] = (2 * rng.integers(-60, 60, acc.size // shape[-1]) + 1) << max(0, reach - bits - 1)
        y = requantize(acc, mult, shift, bits)
        both = y + requantize(identity, identity_mult, identity_shift, bits)
        arrays = {"acc": acc.astype(np.int32), "mult": mult, "shift": shift, "y": limited(y, bits)}
        arrays |= {"identity": identity.astype(np.int32), "identity_mult": identity_mult}
        arrays |= {"identity_shift": identity_shift, "y_with_identity": limited(both, bits)}
        out.add(f"requant_{bits}_{i}", {"op": "requantize", "out_bits": bits, "out_scale": out_scale}, **arrays)
    out.close()


if __name__ == "__main__":
    main(sys.argv[1])
