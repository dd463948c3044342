//! The high half of a 64-bit product.

/// `round_half_up(x * y / 2^32)`: the highest bit of the low half is what rounding adds to the high one.
#[inline(always)]
pub const fn mulhi_round(x: i32, y: i32) -> i32 {
    let product = x as i64 * y as i64;
    ((product >> 32) as i32).wrapping_add((product as u32 >> 31) as i32)
}
