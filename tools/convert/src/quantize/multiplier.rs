//! Real factors as a multiplication and shifts.

/// Real factors as `multiplier * 2^(acc_shift - 32)`, one shift for all.
///
/// The shift is the smallest for which every multiplier is below 2^31: see [`shiftformer::arith::requant`].
pub fn multipliers(ratios: &[f64]) -> (u32, Vec<i32>) {
    let largest = ratios.iter().fold(0.0f64, |m, r| m.max(r.abs()));
    let mut acc_shift = 0;
    while acc_shift < 30 && largest * 2f64.powi(32 - acc_shift) > f64::from(i32::MAX) {
        acc_shift += 1;
    }
    let quantize = |ratio: &f64| {
        let scaled = (ratio * 2f64.powi(32 - acc_shift)).round();
        scaled.clamp(-f64::from(i32::MAX), f64::from(i32::MAX)) as i32
    };
    (acc_shift as u32, ratios.iter().map(quantize).collect())
}

/// One factor.
pub fn multiplier(ratio: f64) -> (u32, i32) {
    let (shift, values) = multipliers(&[ratio]);
    (shift, values[0])
}

/// `ratio = m * 2^-shift` with `m` in `2^14 .. 2^15` and `shift` in `10..=20`; clamped to that range.
pub fn row_ratio(ratio: f64) -> (u32, u32) {
    let ratio = ratio.clamp(2f64.powi(-6), 31.99);
    let mut shift = 14 - ratio.log2().floor() as i32;
    let mut m = (ratio * 2f64.powi(shift)).round();
    if m >= 32768.0 {
        shift -= 1;
        m = (ratio * 2f64.powi(shift)).round();
    }
    (m.clamp(16384.0, 32767.0) as u32, shift.clamp(10, 20) as u32)
}

/// The published dyadic form `ratio = m * 2^-shift` as `[m, shift]`, the mantissa of 31 bits rounded half up.
///
/// A mantissa of 2^31 is written as 2^30 with the shift less one; ratios below 2^-33 become `[0, 0]`, the multiplier of a
/// ratio of 2^31 or more is limited.
pub fn dyadic(ratio: f64) -> [i32; 2] {
    if ratio == 0.0 || !ratio.is_finite() {
        return [0, 0];
    }
    let exponent = ratio.abs().log2().floor() as i32 + 1;
    // The logarithm may be off by one beside a power of two.
    let exponent = [exponent - 1, exponent, exponent + 1]
        .into_iter()
        .find(|&e| ratio.abs() * 2f64.powi(-e) < 1.0)
        .unwrap_or(exponent);
    let mantissa = (ratio.abs() * 2f64.powi(31 - exponent) + 0.5).floor();
    let (m, shift) =
        if mantissa >= 2f64.powi(31) { (1 << 30, 30 - exponent) } else { (mantissa as i32, 31 - exponent) };
    let signed = if ratio < 0.0 { -m } else { m };
    match shift {
        ..0 => [signed.signum() * i32::MAX, 0],
        0..=63 => [signed, shift],
        _ => [0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dyadic_ratios_are_mantissas_of_31_bits() {
        assert_eq!(dyadic(1.0), [1 << 30, 30]);
        assert_eq!(dyadic(0.75), [3 << 29, 31]);
        assert_eq!(dyadic(-0.75), [-(3 << 29), 31]);
        // Rounds up to 2^31.
        assert_eq!(dyadic(1.0 - 2f64.powi(-40)), [1 << 30, 30]);
        assert_eq!(dyadic(2f64.powi(-33)), [1 << 30, 63]);
        assert_eq!(dyadic(2f64.powi(-34)), [0, 0]);
        assert_eq!(dyadic(1e12), [i32::MAX, 0]);
        assert_eq!(dyadic(f64::NAN), [0, 0]);
    }

    #[test]
    fn multipliers_keep_31_bits() {
        for ratio in [1e-6, 0.003, 0.25, 0.49, 0.5, 1.0, 7.3, 1000.0] {
            let (shift, m) = multiplier(ratio);
            let back = f64::from(m) * 2f64.powi(shift as i32 - 32);
            assert!((back - ratio).abs() <= 2f64.powi(shift as i32 - 33), "{ratio}: {back}");
        }
    }

    #[test]
    fn row_ratios_keep_15_bits() {
        for ratio in [0.016, 0.3, 0.99999, 1.0, 3.7, 31.0] {
            let (m, shift) = row_ratio(ratio);
            assert!((1 << 14..1 << 15).contains(&m) && (10..=20).contains(&shift));
            let back = f64::from(m) * 2f64.powi(-(shift as i32));
            assert!((back / ratio - 1.0).abs() < 1.0 / 16384.0, "{ratio}: {back}");
        }
    }
}
