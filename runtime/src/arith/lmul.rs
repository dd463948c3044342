//! L-Mul: the product of two floating-point numbers as one integer addition of their bit patterns.
//!
//! A pattern is a sign, an exponent and a mantissa of `m` bits; without its sign it is a whole number `E 2^m + M`, near the
//! logarithm of what it stands for. The sum of two such numbers and of the constant `2^(m - l)` is that of the product, at
//! twice the exponent bias:
//!
//! ```text
//! (1 + x)(1 + y) = 1 + x + y + x y   becomes   1 + x + y + 2^-l,   l = m for m <= 3, 3 for m = 4, 4 beyond
//! ```
//!
//! The formula as printed and the addition are not the same function: where `x + y + 2^-l` reaches 1, the addition carries
//! into the exponent and halves what lies above 1. The addition is what is defined here: it is what published code does, what
//! needs no further instruction, and it is nearer to the product from `m = 5` on (mean absolute error 2.7 % for 7.3 %). For
//! `m = 3` its error has a mean of +4.9 %, a factor that the converter takes out of the scale of the layer.
//!
//! # Reference
//! *Addition is All You Need for Energy-efficient Language Models*, arXiv 2410.00907, eq. 1 and figure 2. Differs: exponents
//! of 0 stand for zero (no subnormal numbers); there are no infinities and no NaN, their patterns are numbers.

use super::requant::rshift_round;
use crate::format::codes;

/// `l(m)` of the paper.
pub const fn offset_bits(m: u32) -> u32 {
    match m {
        0..=3 => m,
        4 => 3,
        5.. => 4,
    }
}

/// The pattern of the product of the patterns `a` and `b` with `m` bits of mantissa, all three without sign; that of the
/// product has twice the exponent bias.
#[inline(always)]
pub const fn product(a: u32, b: u32, m: u32) -> u32 {
    a.wrapping_add(b).wrapping_add(1 << (m - offset_bits(m)))
}

codes! {
    /// Formats of the patterns.
    #[cfg_attr(feature = "defmt", derive(defmt::Format))]
    FloatFormat {
        /// 8 bits: 4 of exponent, 3 of mantissa.
        E4m3 = 43,
        /// 8 bits: 5 of exponent, 2 of mantissa.
        E5m2 = 52,
        /// 16 bits: 8 of exponent, 7 of mantissa.
        Bf16 = 87,
    }
}

impl FloatFormat {
    /// Bits of the mantissa.
    #[inline(always)]
    pub const fn mantissa_bits(self) -> u32 {
        self as u32 % 10
    }

    /// Bits of the exponent.
    pub const fn exponent_bits(self) -> u32 {
        self as u32 / 10
    }

    /// Bytes of a pattern.
    #[inline(always)]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::E4m3 | Self::E5m2 => 1,
            Self::Bf16 => 2,
        }
    }

    /// The sign of a pattern.
    #[inline(always)]
    pub const fn sign(self) -> u32 {
        1 << (8 * self.bytes() - 1)
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::Bf16 => "bf16",
        }
    }
}

/// How patterns of products become whole numbers, so that they can be summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The format of the factors.
    pub format: FloatFormat,
    /// Exponent, with twice the bias, at which a mantissa of `m` bits and its leading 1 is the number itself.
    pub base: u32,
    /// Largest left shift of a mantissa, at most [`MAX_TOP`]: what is larger counts as this.
    pub top: u32,
}

/// Largest [`Fixed::top`]: a mantissa has 8 bits with its leading 1.
pub const MAX_TOP: u32 = 22;

impl Fixed {
    /// The whole number of the pattern of a product: its mantissa shifted by its exponent, rounded half up.
    #[inline(always)]
    pub const fn of_pattern(&self, pattern: u32) -> i32 {
        let m = self.format.mantissa_bits();
        let mantissa = (1 << m | pattern & ((1 << m) - 1)) as i32;
        let exponent = pattern >> m;
        if exponent >= self.base {
            let left = exponent - self.base;
            mantissa << if left < self.top { left } else { self.top }
        } else {
            let right = self.base - exponent;
            rshift_round(mantissa, if right < 30 { right } else { 30 })
        }
    }

    /// The whole number of the product of the patterns `a` and `b`, which have signs.
    #[inline(always)]
    pub const fn product(&self, a: u32, b: u32) -> i32 {
        let (sign, m) = (self.format.sign(), self.format.mantissa_bits());
        let (size_a, size_b) = (a & (sign - 1), b & (sign - 1));
        if size_a >> m == 0 || size_b >> m == 0 {
            return 0;
        }
        let size = self.of_pattern(product(size_a, size_b, m));
        if (a ^ b) & sign == 0 { size } else { -size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{ReadWords, Word};

    /// Mean, mean absolute and maximum relative error over all pairs of mantissas, in percent; `sum` of two of them is what
    /// stands for their product, in steps of `2^-m`.
    fn errors(m: u32, sum: impl Fn(u32, u32) -> f64) -> [f64; 3] {
        let one = f64::from(1u32 << m);
        let pairs = (0..1u32 << m).flat_map(|a| (0..1u32 << m).map(move |b| (a, b)));
        let error = |(a, b)| {
            let exact = (one + f64::from(a)) * (one + f64::from(b)) / one;
            100.0 * (sum(a, b) / exact - 1.0)
        };
        let (mut mean, mut absolute, mut most) = (0.0, 0.0, 0.0f64);
        for error in pairs.map(error) {
            mean += error / one / one;
            absolute += error.abs() / one / one;
            most = most.max(error.abs());
        }
        [mean, absolute, most]
    }

    #[test]
    fn errors_of_formula_and_addition_are_those_of_the_enumeration() {
        for (m, formula, addition) in [
            (2, [8.64, 11.11, 25.00], [14.67, 14.67, 25.00]),
            (3, [-0.97, 6.89, 18.22], [4.93, 5.24, 12.50]),
            (4, [-2.18, 6.94, 20.08], [4.87, 5.14, 12.50]),
            (5, [-5.87, 7.31, 22.60], [0.41, 2.67, 7.29]),
            (6, [-6.14, 7.44, 23.02], [0.41, 2.66, 7.29]),
        ] {
            let one = 1u32 << m;
            let printed = errors(m, |a, b| f64::from(one + a + b) + f64::from(one) / f64::from(1u32 << offset_bits(m)));
            let added = errors(m, |a, b| {
                let pattern = product(a, b, m);
                f64::from(one + pattern % one) * f64::from(1u32 << (pattern >> m))
            });
            for (found, wanted) in printed.iter().chain(&added).zip(formula.iter().chain(&addition)) {
                assert!((found - wanted).abs() < 0.005, "m = {m}: {printed:?} {added:?}");
            }
        }
    }

    #[test]
    fn sums_of_patterns_are_products_of_powers_of_two_but_for_the_offset() {
        // 1.5 * 2 in e4m3, whose bias is 7: 1.5 + 2^-3 at exponent 1, at a base of 2 * 7 in units of 2^-3.
        let fixed = Fixed { format: FloatFormat::E4m3, base: 14, top: 16 };
        assert_eq!(fixed.product(0x3c, 0x40), (8 + 4 + 1) << 1);
        assert_eq!(fixed.product(0xbc, 0x40), -(13 << 1));
        assert_eq!(fixed.product(0xbc, 0xc0), 13 << 1);
        // No number with an exponent of 0.
        assert_eq!(fixed.product(0x87, 0x7f), 0);
        assert_eq!(fixed.product(0x7f, 0x80), 0);
        // 2^-6 * 2^-6 is below half a unit, 1.75 * 2^-2 * 2^-1 is 1.875 * 2^-3, two units and rounded up.
        assert_eq!(fixed.product(0x08, 0x08), 0);
        assert_eq!(fixed.product(0x2e, 0x30), 2);
        let low = Fixed { top: 3, base: 10, ..fixed };
        assert_eq!(low.product(0x7f, 0x7f), 15 << 3);
    }

    #[test]
    fn codes_are_read_as_they_were_written() {
        for &format in FloatFormat::ALL {
            let mut code = 0;
            format.write(&mut |word: u32| code = word);
            assert_eq!(FloatFormat::read(&mut ReadWords::new(&code.to_le_bytes())), Some(format));
            assert_eq!(1 + format.exponent_bits() + format.mantissa_bits(), 8 * format.bytes());
        }
    }
}
