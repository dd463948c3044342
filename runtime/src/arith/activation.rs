//! GELU, SiLU, sigmoid and tanh by shifts and adds, for the 256-entry tables of 8-bit arguments.
//!
//! All are made of `2^-t`, formed bit by bit from the factors `1 + 2^-k`, and one division:
//! `sigmoid = 1 / (1 + 2^-t)` with `t` the argument in log2 units.
//!
//! # Error bound
//! Against the exact function of the argument `x`, in real units:
//!
//! | source | bound |
//! |---|---|
//! | `2^-t`: what is left of the exponent after the last factor, then 26 cut bits | `2^-25 + 26 * 2^-40`, relative |
//! | `t`: coefficients and products of 30 fractional bits | `2^-27` |
//! | GELU only: `x * sigmoid(x (a1 + a3 x^2 + a5 x^4))` against `x * (1 + erf(x / sqrt 2)) / 2` | `2.6e-5` |
//! | value kept in 22 fractional bits | `2^-23` |
//!
//! With `|x| <= `[`MAX_ARGUMENT`] the error is below `2^-15` for GELU and below `2^-19` for the others. An error of the
//! unrounded value below one step moves the rounded one by at most one: the 8-bit value is within one step of the
//! correctly rounded one whenever a step is at least `2^-15`.

/// Fractional bits of an argument.
pub const ARGUMENT_BITS: u32 = 24;
/// Fractional bits of a value.
pub const VALUE_BITS: u32 = 22;
/// Maximum magnitude of an argument, in real units; greater ones are limited.
pub const MAX_ARGUMENT: i64 = 512;

/// Fractional bits of exponents and probabilities.
const UNIT_BITS: u32 = 30;
const UNIT: u64 = 1 << UNIT_BITS;
/// `log2(1 + 2^-k)` for `k = 1 ..= 26`, in `2^-30`.
const LOG2_FACTORS: [u32; 26] = [
    628_098_702,
    345_667_660,
    182_455_581,
    93_912_511,
    47_667_823,
    24_017_256,
    12_055_174,
    6_039_314,
    3_022_600,
    1_512_037,
    756_203,
    378_148,
    189_085,
    94_546,
    47_274,
    23_637,
    11_819,
    5_909,
    2_955,
    1_477,
    739,
    369,
    185,
    92,
    46,
    23,
];
/// `log2(e)`.
const LOG2_E: i64 = 1_549_082_005;
/// `log2(e)` times the coefficients of `x`, `x^3`, `x^5` in the logit of the normal distribution, fitted over `|x| <= 5.5`
/// for the smallest maximum error of GELU.
const NORMAL_LOGIT: [i64; 3] = [2_470_810_226, 114_649_562, -1_089_057];
/// `log2(e) * 2 sqrt(2 / pi)` times 1 and 0.044715: the tanh form of GELU as a sigmoid.
const TANH_LOGIT: [i64; 3] = [2_471_977_230, 110_534_462, 0];
/// `log2(e) * 1.702`.
const QUICK: i64 = 2_636_537_572;
/// Beyond 5.5 the normal distribution differs from 0 or 1 by less than 2^-25; the polynomial is not used there.
const POLYNOMIAL_LIMIT: i64 = 11 << (ARGUMENT_BITS - 1);
/// `2^-t` is zero in all bits for arguments beyond 64: `t > 92`.
const LINEAR_LIMIT: i64 = 64 << ARGUMENT_BITS;

/// `2^-t` in `2^-30`, `t` in `2^-30`.
///
/// `1 - f` is taken apart into `log2(1 + 2^-k)`, each at most once: `2^(1 - f)` is the product of the `1 + 2^-k`.
pub const fn exp2_negative(t: u64) -> u64 {
    const KEPT: u32 = 40;
    let whole = t >> UNIT_BITS;
    let fraction = (t & (UNIT - 1)) as u32;
    if whole > UNIT_BITS as u64 {
        return 0;
    }
    if fraction == 0 {
        return UNIT >> whole;
    }
    let mut rest = UNIT as u32 - fraction;
    let mut product = 1u64 << KEPT;
    let mut factors: &[u32] = &LOG2_FACTORS;
    let mut k = 1;
    while let [log2, more @ ..] = factors {
        if rest >= *log2 {
            rest -= *log2;
            product += product >> k;
        }
        factors = more;
        k += 1;
    }
    // product = 2 * 2^-f.
    product >> (KEPT + 1 - UNIT_BITS + whole as u32)
}

/// `1 / (1 + 2^-t)`, with `negative` `1 / (1 + 2^t)`, in `2^-30`; `t >= 0`.
const fn sigmoid(t: u64, negative: bool) -> u64 {
    let e = exp2_negative(t);
    let numerator = if negative { e << UNIT_BITS } else { UNIT << UNIT_BITS };
    // UNIT + e is in 2^30 ..= 2^31.
    match numerator.checked_div(UNIT + e) {
        Some(quotient) => quotient,
        None => 0,
    }
}

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    /// `f(x)` with [`VALUE_BITS`], `x` with [`ARGUMENT_BITS`].
    pub const fn value(self, x: i64) -> i64 {
        const LIMIT: i64 = MAX_ARGUMENT << ARGUMENT_BITS;
        let x = if x > LIMIT {
            LIMIT
        } else if x < -LIMIT {
            -LIMIT
        } else {
            x
        };
        let (size, negative) = (x.abs(), x < 0);
        match self {
            Self::Gelu => gated(x, sigmoid(odd_polynomial(size, NORMAL_LOGIT), negative)),
            Self::GeluTanh => gated(x, sigmoid(odd_polynomial(size, TANH_LOGIT), negative)),
            Self::QuickGelu => gated(x, sigmoid(linear(size, QUICK), negative)),
            Self::Silu => gated(x, sigmoid(linear(size, LOG2_E), negative)),
            Self::Sigmoid => rounded(sigmoid(linear(size, LOG2_E), negative) as i64, UNIT_BITS - VALUE_BITS),
            Self::Tanh => {
                // tanh(x) = 2 sigmoid(2 x) - 1, odd.
                let tanh = 2 * sigmoid(2 * linear(size, LOG2_E), false) as i64 - UNIT as i64;
                rounded(if negative { -tanh } else { tanh }, UNIT_BITS - VALUE_BITS)
            }
        }
    }
}

/// `x * factor` in `2^-30`; exact up to [`LINEAR_LIMIT`], limited beyond.
const fn linear(x: i64, factor: i64) -> u64 {
    let x = if x > LINEAR_LIMIT { LINEAR_LIMIT } else { x };
    // 2^30 * 2^31.3 fits.
    ((x * factor) >> ARGUMENT_BITS) as u64
}

/// `x (c1 + x^2 (c3 + x^2 c5))` in `2^-30`, `x >= 0` limited to [`POLYNOMIAL_LIMIT`].
const fn odd_polynomial(x: i64, [c1, c3, c5]: [i64; 3]) -> u64 {
    let x = if x > POLYNOMIAL_LIMIT { POLYNOMIAL_LIMIT } else { x };
    // x^2 < 2^29; the sums stay below 2^33, and x < 2^26.5.
    let square = (x * x) >> ARGUMENT_BITS;
    let inner = c3 + ((square * c5) >> ARGUMENT_BITS);
    let outer = c1 + ((square * inner) >> ARGUMENT_BITS);
    ((x * outer) >> ARGUMENT_BITS) as u64
}

/// `x * gate` with [`VALUE_BITS`].
const fn gated(x: i64, gate: u64) -> i64 {
    // |x| <= 2^33 and the gate is at most 2^30: two bits of the argument go first so that the product fits 62 bits.
    rounded((x >> 2) * gate as i64, ARGUMENT_BITS - 2 + UNIT_BITS - VALUE_BITS)
}

/// `round_half_up(x / 2^shift)`, `shift >= 1`.
const fn rounded(x: i64, shift: u32) -> i64 {
    (x + (1 << (shift - 1))) >> shift
}

/// An activation between 8-bit tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationTable {
    /// The function.
    pub activation: Activation,
    /// Scale of the argument, with [`ARGUMENT_BITS`].
    pub step: i64,
    /// Zero point of the argument times its scale, with [`ARGUMENT_BITS`].
    pub offset: i64,
    /// One over the scale of the value: `multiplier * 2^-shift` steps per `2^-22`; below `2^31`.
    pub multiplier: i64,
    /// Right shift of the product, `1..=62`.
    pub shift: u32,
    /// Zero point of the value.
    pub zero_point: i32,
}

impl ActivationTable {
    /// `sat8(zero_point + round_half_up(f(q * step - offset) * multiplier / 2^shift))`.
    pub const fn at(&self, q: i8) -> i8 {
        // |value| <= 2^31: the product fits.
        let value = self.activation.value(q as i64 * self.step - self.offset);
        let steps = rounded(value * self.multiplier, self.shift) + self.zero_point as i64;
        if steps > i8::MAX as i64 {
            i8::MAX
        } else if steps < i8::MIN as i64 {
            i8::MIN
        } else {
            steps as i8
        }
    }

    /// All values, for `q` from -128 to 127.
    pub fn values(&self) -> [i8; 256] {
        core::array::from_fn(|index| self.at((index as u8 ^ 0x80) as i8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn real(activation: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Gelu => x * normal(x),
            Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Silu => x * sigmoid(x),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
        }
    }

    /// The normal distribution function by its everywhere convergent series.
    fn normal(x: f64) -> f64 {
        if x.abs() > 9.0 {
            return f64::from(u8::from(x > 0.0));
        }
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    const ALL: [Activation; 6] = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::Tanh,
    ];

    #[test]
    fn powers_of_two_have_24_bits() {
        for i in 0..100_000u64 {
            let t = i * 321_007;
            let exact = (-(t as f64) / UNIT as f64).exp2();
            let error = exp2_negative(t) as f64 / UNIT as f64 - exact;
            assert!(error.abs() <= exact * 2f64.powi(-24) + 2f64.powi(-30), "{t}: {error}");
        }
        assert_eq!((exp2_negative(0), exp2_negative(UNIT), exp2_negative(u64::MAX)), (UNIT, UNIT / 2, 0));
    }

    #[test]
    fn values_are_within_the_stated_error() {
        for activation in ALL {
            let bound = 2f64.powi(if activation == Activation::Gelu { -15 } else { -19 });
            for i in -60_000..60_000i64 {
                let x = i * 2801;
                let exact = real(activation, x as f64 / (1 << ARGUMENT_BITS) as f64);
                let error = activation.value(x) as f64 / (1 << VALUE_BITS) as f64 - exact;
                assert!(error.abs() < bound, "{activation:?} {x}: {error}");
            }
            for x in [i64::MAX, i64::MIN + 1, 100 << ARGUMENT_BITS, -(100 << ARGUMENT_BITS)] {
                let limited = (x as f64 / (1 << ARGUMENT_BITS) as f64).clamp(-512.0, 512.0);
                let error = activation.value(x) as f64 / (1 << VALUE_BITS) as f64 - real(activation, limited);
                assert!(error.abs() < bound, "{activation:?} {x}: {error}");
            }
        }
    }

    /// A table of real scales, as the converter makes it.
    fn table(activation: Activation, scale: f64, zero: i32, out_scale: f64, out_zero: i32) -> ActivationTable {
        let one = (1 << ARGUMENT_BITS) as f64;
        let ratio = 1.0 / (out_scale * (1 << VALUE_BITS) as f64);
        let shift = 30 - ratio.log2().floor() as i32;
        ActivationTable {
            activation,
            step: (scale * one).round() as i64,
            offset: (f64::from(zero) * scale * one).round() as i64,
            multiplier: (ratio * 2f64.powi(shift)).round() as i64,
            shift: shift as u32,
            zero_point: out_zero,
        }
    }

    #[test]
    fn all_8_bit_values_are_within_one_step_at_all_scales() {
        // 2^-8 to 2^-1 in steps of a sixth of an octave.
        let scales: Vec<f64> = (0..=42).map(|i| 2f64.powf(-8.0 + f64::from(i) / 6.0)).collect();
        for activation in ALL {
            for &scale in &scales {
                for zero in [0, -128, 77] {
                    let f = |q: i32| real(activation, f64::from(q - zero) * scale);
                    let (low, high) = (-128..128).map(f).fold((0f64, 0f64), |(l, h), y| (l.min(y), h.max(y)));
                    let fitted = (high - low) / 255.0;
                    let outs = [
                        (fitted, (-128.0 - low / fitted).round() as i32),
                        (low.abs().max(high) / 127.0, 0),
                        (fitted / 4.0, -20),
                        (scale, 0),
                    ];
                    for (out_scale, out_zero) in outs {
                        let values = table(activation, scale, zero, out_scale, out_zero).values();
                        for (q, y) in (-128..128).zip(values) {
                            let exact = (f(q) / out_scale).round() + f64::from(out_zero);
                            let exact = exact.clamp(-128.0, 127.0);
                            let error = f64::from(y) - exact;
                            assert!(error.abs() <= 1.0, "{activation:?} {scale} {zero} {out_scale} {q}: {y} {exact}");
                        }
                    }
                }
            }
        }
    }
}
