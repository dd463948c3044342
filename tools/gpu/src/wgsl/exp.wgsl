// Exponentials of softmax rows: scores are in log2 units with 8 fractional bits, and 2^-(q + f / 256) is a quadratic
// in f, shifted right by q.

// Stands for 1: 255 * 128, so that its rounded 8-bit form is 255.
const EXP_ONE: u32 = 32640u;
const EXP_LINEAR: u32 = 21926u;
const EXP_QUADRATIC: u32 = 22u;

// EXP_ONE * 2^-(distance / 256), floored.
fn exp_u16(distance: u32) -> u32 {
    let f = distance & 255u;
    let fraction = EXP_ONE - ((f * (EXP_LINEAR - f * EXP_QUADRATIC)) >> 8u);
    return fraction >> min(distance >> 8u, 31u);
}

// 255 * 2^-(distance / 256): the 16-bit form rounded half up.
fn exp_u8(distance: u32) -> u32 {
    return (exp_u16(distance) + 64u) >> 7u;
}

// The scale `ratio_m * 2^-ratio_shift / sum` as a multiplier (x) and a right shift (y) behind the high half of the
// product. The reciprocal is that of the sum's 16 leading bits.
fn row_scale(sum: u32, ratio_m: u32, ratio_shift: u32) -> vec2<u32> {
    let positive = max(sum, 1u);
    let zeros = countLeadingZeros(positive);
    let reciprocal = 0xffffffffu / ((positive << zeros) >> 16u);
    let shift = clamp(bitcast<i32>(ratio_shift + 15u) - bitcast<i32>(zeros), 1, 31);
    return vec2((ratio_m * reciprocal) >> 1u, bitcast<u32>(shift));
}

// round_half_up(acc * ratio / sum). The high half is below 2^30, so the rounding bit cannot overflow.
fn apply_row_scale(scale: vec2<u32>, acc: i32) -> i32 {
    return (mulhi_floor(acc, bitcast<i32>(scale.x)) + (1i << (scale.y - 1u))) >> scale.y;
}
