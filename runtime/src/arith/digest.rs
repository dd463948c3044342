//! The digest of a tensor: 64 bits that every backend can compute, a GPU in parallel.
//!
//! The bytes are little-endian `u32` words `w_i`, the last padded with zeros. Each half is
//! `finish(len) + sum_i mix(w_i ^ (i * 0x9e3779b1 + seed))` over `u32` with wrap-around. A sum does not depend on the
//! order; the position enters through the mix. Only 32-bit multiplications are needed.

/// Seeds of the low and the high half.
pub const SEEDS: [u32; 2] = [0x2545_f491, 0x8f1b_bcdc];
/// Multiplier of the word index (2^32 / golden ratio).
pub const INDEX_MULTIPLIER: u32 = 0x9e37_79b1;

/// The finalizer of MurmurHash3: every bit of `x` reaches every bit of the result.
#[inline(always)]
pub const fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Digest of `bytes`.
pub fn digest(bytes: &[u8]) -> u64 {
    part(bytes, 0, bytes.len())
}

/// Digest of two parts of a tensor from the shares of each.
pub const fn join(a: u64, b: u64) -> u64 {
    let low = (a as u32).wrapping_add(b as u32);
    let high = ((a >> 32) as u32).wrapping_add((b >> 32) as u32);
    low as u64 | (high as u64) << 32
}

/// Share of `bytes`, which start at byte `offset` (a multiple of 4) of a tensor of `total` bytes, in its digest. The
/// length counts with the first part; a part that is not the last holds whole words.
pub fn part(bytes: &[u8], offset: usize, total: usize) -> u64 {
    let length = SEEDS.map(|seed| mix((total as u32) ^ seed));
    let mut halves = if offset == 0 { length } else { [0; 2] };
    let (words, tail) = bytes.as_chunks::<4>();
    let mut index = (offset / 4) as u32;
    let mut add = |word: u32| {
        let position = index.wrapping_mul(INDEX_MULTIPLIER);
        for (half, seed) in halves.iter_mut().zip(SEEDS) {
            *half = half.wrapping_add(mix(word ^ position.wrapping_add(seed)));
        }
        index = index.wrapping_add(1);
    };
    for word in words {
        add(u32::from_le_bytes(*word));
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        add(u32::from_le_bytes(last));
    }
    u64::from(halves[0]) | u64::from(halves[1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Random;
    use crate::tensor::Dtype;
    use std::vec::Vec;

    #[test]
    fn position_length_and_value_all_count() {
        let base = digest(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_ne!(base, digest(&[5, 6, 7, 8, 1, 2, 3, 4]));
        assert_ne!(base, digest(&[1, 2, 3, 4, 5, 6, 7, 9]));
        assert_ne!(digest(&[1]), digest(&[1, 0]));
        assert_ne!(digest(&[]), digest(&[0]));
    }

    #[test]
    fn every_flipped_bit_and_every_exchange_of_words_counts() {
        let mut random = Random(3);
        for len in [1usize, 3, 4, 7, 64, 1001] {
            let bytes: Vec<u8> = random.values(Dtype::U8, len).into_iter().map(|b| b as u8).collect();
            let base = digest(&bytes);
            for bit in 0..len * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(digest(&other), base, "bit {bit} of {len} bytes");
            }
            for word in 1..len / 4 {
                let mut other = bytes.clone();
                (0..4).for_each(|i| other.swap(i, word * 4 + i));
                assert!(other == bytes || digest(&other) != base, "word {word} of {len} bytes");
            }
        }
    }

    #[test]
    fn shares_of_parts_join_to_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..41).collect();
        for cut in (0..=40).step_by(4) {
            let (head, tail) = bytes.split_at(cut);
            let shares = if cut == 0 { [0, part(tail, 0, 41)] } else { [part(head, 0, 41), part(tail, cut, 41)] };
            assert_eq!(join(shares[0], shares[1]), digest(&bytes), "cut at {cut}");
        }
    }

    #[test]
    fn words_can_be_mixed_in_any_order() {
        let bytes: Vec<u8> = (0..400).map(|i| (i * 7 % 251) as u8).collect();
        let halves = SEEDS.map(|seed| {
            let words = bytes.chunks(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).enumerate();
            words.rev().fold(mix(bytes.len() as u32 ^ seed), |sum, (i, w)| {
                sum.wrapping_add(mix(w ^ (i as u32).wrapping_mul(INDEX_MULTIPLIER).wrapping_add(seed)))
            })
        });
        assert_eq!(digest(&bytes), u64::from(halves[0]) | u64::from(halves[1]) << 32);
    }
}
