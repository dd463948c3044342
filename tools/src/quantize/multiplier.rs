//! Real factors as a multiplication and shifts.

/// Real factors as `multiplier * 2^(acc_shift - 32)`, one shift for all.
///
/// The shift is the least for which every multiplier is below 2^31: see [`shiftformer::arith::requant`].
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

#[cfg(test)]
mod tests {
    use super::*;

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
