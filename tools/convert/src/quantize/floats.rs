//! Numbers as small floating-point patterns, for products by addition.

use shiftformer::arith::lmul::{FloatFormat, product};

/// Largest number that values are scaled to: the largest of the format, for 8 bits; 1 where exponents reach far beyond.
pub fn largest(format: FloatFormat) -> f64 {
    match format {
        FloatFormat::E4m3 => 448.0,
        FloatFormat::E5m2 => 57344.0,
        FloatFormat::Bf16 => 1.0,
    }
}

fn bias(format: FloatFormat) -> i32 {
    (1 << (format.exponent_bits() - 1)) - 1
}

/// The pattern nearest to `value`, ties to the even one. There are no subnormal numbers: below the smallest normal one, that
/// or zero. Beyond the largest that values are scaled to, that one.
pub fn pattern(format: FloatFormat, value: f64) -> u32 {
    let (m, bias) = (format.mantissa_bits(), bias(format));
    let sign = if value < 0.0 { format.sign() } else { 0 };
    let size = value.abs().min(largest(format));
    let smallest = 2f64.powi(1 - bias);
    if size <= smallest / 2.0 {
        return 0;
    }
    let size = size.max(smallest);
    let exponent = size.log2().floor() as i32;
    let steps = (size / 2f64.powi(exponent - m as i32)).round_ties_even() as u32;
    sign | ((((exponent + bias) as u32) << m) + steps - (1 << m))
}

/// What a pattern stands for.
pub fn value(format: FloatFormat, pattern: u32) -> f64 {
    let (m, size) = (format.mantissa_bits(), pattern & (format.sign() - 1));
    let sign = if pattern & format.sign() == 0 { 1.0 } else { -1.0 };
    if size >> m == 0 {
        return 0.0;
    }
    let mantissa = 1.0 + f64::from(size & ((1 << m) - 1)) / f64::from(1u32 << m);
    sign * mantissa * 2f64.powi((size >> m) as i32 - bias(format))
}

/// Real value of a step of [`Fixed`](shiftformer::arith::lmul::Fixed) at `base`.
pub fn step(format: FloatFormat, base: u32) -> f64 {
    2f64.powi(base as i32 - 2 * bias(format) - format.mantissa_bits() as i32)
}

/// How much larger a product by addition is than the product, in the mean over all mantissas.
pub fn gain(format: FloatFormat) -> f64 {
    let m = format.mantissa_bits();
    let one = 1u32 << m;
    let ratio = |a: u32, b: u32| {
        let sum = product(a, b, m);
        let found = f64::from(one + sum % one) * f64::from(1u32 << (sum >> m)) * f64::from(one);
        found / (f64::from(one + a) * f64::from(one + b))
    };
    let pairs = (0..one).flat_map(|a| (0..one).map(move |b| ratio(a, b)));
    pairs.sum::<f64>() / f64::from(one * one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_normal_numbers_are_nearest() {
        for &format in FloatFormat::ALL {
            let m = format.mantissa_bits();
            let last = pattern(format, f64::INFINITY);
            assert_eq!(value(format, last), largest(format));
            for size in (1 << m)..=last {
                let here = value(format, size);
                assert_eq!((pattern(format, here), pattern(format, -here)), (size, size | format.sign()));
                let next = value(format, size + 1);
                assert_eq!(pattern(format, here + 0.4 * (next - here)), size);
            }
        }
        assert_eq!(pattern(FloatFormat::E4m3, 1.0), 0x38);
        assert_eq!(pattern(FloatFormat::E5m2, -1.5), 0xbe);
        assert_eq!(pattern(FloatFormat::Bf16, 0.5), 0x3f00);
        assert_eq!([0.0, 2f64.powi(-8), -2f64.powi(-7)].map(|v| pattern(FloatFormat::E4m3, v)), [0; 3]);
        assert_eq!(pattern(FloatFormat::E4m3, 1.2 * 2f64.powi(-7)), 8);
        // Halfway between 1.125 and 1.25, and between 1 and 1.125: to the even mantissa.
        assert_eq!([1.1875, 1.0625].map(|v| pattern(FloatFormat::E4m3, v)), [0x3a, 0x38]);
    }

    #[test]
    fn the_mean_error_is_that_of_the_enumeration() {
        for (format, percent) in [(FloatFormat::E5m2, 14.67), (FloatFormat::E4m3, 4.93), (FloatFormat::Bf16, 0.41)] {
            assert!((100.0 * (gain(format) - 1.0) - percent).abs() < 0.01);
        }
    }
}
