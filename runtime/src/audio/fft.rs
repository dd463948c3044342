//! The transform of 512 real samples as one of 256 complex points.

use super::tables::SINE;

/// Complex points.
pub const POINTS: usize = 256;
/// Real and imaginary parts.
pub type Points = [[i32; 2]; POINTS];

/// Fractional bits of the sines.
const SINE_FRACTION: u32 = 30;
/// Steps of a full turn in [`turn`].
const TURN: usize = 2 * POINTS;

/// Cosine and sine of `step / 512` of a turn, of at most half a one.
fn turn(step: usize) -> [i32; 2] {
    let sine = |step: usize| SINE.get(step).copied().unwrap_or(0);
    let quarter = TURN / 4;
    if step <= quarter {
        [sine(quarter - step), sine(step)]
    } else {
        [-sine(step - quarter), sine((2 * quarter).saturating_sub(step))]
    }
}

/// `(re + i im) * (cos - i sin)`, rounded: a turn backwards.
fn turned([re, im]: [i32; 2], [cos, sin]: [i32; 2]) -> [i32; 2] {
    let [re, im, cos, sin] = [re, im, cos, sin].map(i64::from);
    let half = 1i64 << (SINE_FRACTION - 1);
    [(re * cos + im * sin + half) >> SINE_FRACTION, (im * cos - re * sin + half) >> SINE_FRACTION].map(|x| x as i32)
}

/// The discrete Fourier transform in place. Sums are not scaled: parts of at most 2^22 give parts of at most 2^30.5.
pub fn transform(points: &mut Points) {
    for at in 0..POINTS {
        let other = usize::from((at as u8).reverse_bits());
        if at < other {
            points.swap(at, other);
        }
    }
    let mut half = 1;
    while half < POINTS {
        for block in points.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (step, (low, high)) in low.iter_mut().zip(high).enumerate() {
                let [re, im] = turned(*high, turn(step * (POINTS / half)));
                let [a, b] = *low;
                *low = [a.wrapping_add(re), b.wrapping_add(im)];
                *high = [a.wrapping_sub(re), b.wrapping_sub(im)];
            }
        }
        half *= 2;
    }
}

/// Bin `bin` of the 512 real samples, of 1 to 255: the even samples' transform and that of the odd ones, a turn behind.
pub fn real_bin(points: &Points, bin: usize) -> [i32; 2] {
    let at = |bin: usize| points.get(bin % POINTS).copied().unwrap_or_default().map(i64::from);
    let ([a, b], [c, d]) = (at(bin), at(POINTS - bin % POINTS));
    // Halves of sums and differences with the conjugate at the other end.
    let [even_re, even_im, odd_re, odd_im] = [a + c, b - d, b + d, c - a].map(|x| (x >> 1) as i32);
    let [re, im] = turned([odd_re, odd_im], turn(bin));
    [even_re.wrapping_add(re), even_im.wrapping_add(im)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::f64::consts::PI;

    #[test]
    fn bins_are_those_of_the_discrete_fourier_transform() {
        let mut random = crate::ops::testing::Random(5);
        let sample = |bits: u64| (bits as i32) - (1 << 21);
        let mut points: Points = [[0; 2]; POINTS];
        points.as_flattened_mut().iter_mut().for_each(|x| *x = sample(random.below(1 << 22)));
        let samples = points;
        transform(&mut points);
        for bin in [1, 2, 3, 64, 127, 128, 129, 200, 255] {
            let (mut re, mut im) = (0f64, 0f64);
            for (at, &x) in samples.as_flattened().iter().enumerate() {
                let angle = 2.0 * PI * ((at * bin) % TURN) as f64 / TURN as f64;
                re += f64::from(x) * angle.cos();
                im -= f64::from(x) * angle.sin();
            }
            let [actual_re, actual_im] = real_bin(&points, bin).map(f64::from);
            // Eight roundings, which grow with the root of what follows, and that of the last step.
            assert!((re - actual_re).abs() < 30.0 && (im - actual_im).abs() < 30.0, "{bin}: {re} {im}");
        }
    }
}
