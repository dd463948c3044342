//! Random numbers that are the same everywhere.

/// PCG-XSH-RR with 64 bits of state: `state = state * 6364136223846793005 + increment`, of which 32 bits are taken by an
/// xorshift and a rotation.
///
/// # Reference
/// M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation",
/// HMC-CS-2014-0905; `pcg32_srandom_r` and `pcg32_random_r` of the C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcg32 {
    state: u64,
    increment: u64,
}

/// Multiplier of the congruence.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
/// The sequence [`Pcg32::new`] takes, the one of the C library's demonstration.
const SEQUENCE: u64 = 54;

impl Pcg32 {
    /// The generator of `seed`.
    pub const fn new(seed: u64) -> Self {
        let increment = SEQUENCE << 1 | 1;
        let state = increment.wrapping_add(seed).wrapping_mul(MULTIPLIER).wrapping_add(increment);
        Self { state, increment }
    }

    /// The next 32 bits.
    pub const fn next(&mut self) -> u32 {
        let state = self.state;
        self.state = state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
        let mixed = (((state >> 18) ^ state) >> 27) as u32;
        mixed.rotate_right((state >> 59) as u32)
    }

    /// A number below `bound`, all of them equally likely; 0 for `bound` 0.
    ///
    /// Draws `r` of 32 bits until `r >= 2^32 mod bound`, then takes `r mod bound`.
    pub const fn below(&mut self, bound: u32) -> u32 {
        let Some(first) = bound.wrapping_neg().checked_rem(bound) else { return 0 };
        loop {
            let r = self.next();
            if r >= first {
                return match r.checked_rem(bound) {
                    Some(rest) => rest,
                    None => 0,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_library() {
        // Round 1 of pcg32-demo, seed 42, sequence 54.
        let mut random = Pcg32::new(42);
        let numbers = [(); 6].map(|()| random.next());
        assert_eq!(numbers, [0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e]);
    }

    #[test]
    fn bounded_numbers_are_below_the_bound_and_even() {
        let mut random = Pcg32::new(1);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[random.below(7) as usize] += 1);
        assert!(counts.iter().all(|&n| (9_700..10_300).contains(&n)), "{counts:?}");
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        assert!((0..100).all(|_| random.below(u32::MAX) < u32::MAX));
    }
}
