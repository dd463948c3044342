// Arithmetic of the published I-ViT operators: rounding to even over exact products of up to 96 bits, and the
// shift-based exponential.

// The clamp of sums and the numerator of reciprocals.
const IVIT_ONE: u32 = 0x7fffffffu;

fn negated64(a: vec2<u32>) -> vec2<u32> {
    return add64(vec2(~a.x, ~a.y), vec2(1u, 0u));
}

fn is_negative64(a: vec2<u32>) -> bool {
    return (a.y >> 31u) != 0u;
}

fn magnitude64(a: vec2<u32>) -> vec2<u32> {
    if is_negative64(a) {
        return negated64(a);
    }
    return a;
}

// a >> 1 with sign.
fn halved64(a: vec2<u32>) -> vec2<u32> {
    return vec2((a.x >> 1u) | (a.y << 31u), bitcast<u32>(bitcast<i32>(a.y) >> 1u));
}

fn widened(x: i32) -> vec2<u32> {
    return vec2(bitcast<u32>(x), bitcast<u32>(x >> 31u));
}

// The i32 nearest to a signed 64-bit value.
fn saturated64(a: vec2<u32>) -> i32 {
    let low = bitcast<i32>(a.x);
    if widened(low).y == a.y {
        return low;
    }
    return select(0x7fffffff, bitcast<i32>(0x80000000u), is_negative64(a));
}

// round_half_even(m / 2^shift) of an unsigned 96-bit value, shift in 0..=63.
fn half_even96(m: vec3<u32>, shift: u32) -> vec3<u32> {
    if shift == 0u {
        return m;
    }
    let bits = shift & 31u;
    let words = select(m, vec3(m.yz, 0u), shift >= 32u);
    var quotient = words;
    if bits != 0u {
        quotient = (words >> vec3(bits)) | (vec3(words.yz, 0u) << vec3(32u - bits));
    }
    let top = shift - 1u;
    let last = select(m.x, m.y, top >= 32u);
    let half = (last >> (top & 31u)) & 1u;
    let below = (last & ((1u << (top & 31u)) - 1u)) | select(0u, m.x, top >= 32u);
    if half == 1u && (below != 0u || (quotient.x & 1u) == 1u) {
        let low = add64(quotient.xy, vec2(1u, 0u));
        quotient = vec3(low, quotient.z + select(0u, 1u, low.x == 0u && low.y == 0u));
    }
    return quotient;
}

// A ratio as it lies in a blob: pairs of multiplier and shift.
fn blob_ratio(blob: Blob, index: u32) -> vec2<i32> {
    return vec2(blob_i32(blob, 2u * index), blob_i32(blob, 2u * index + 1u));
}

// round_half_even(x * ratio) in 64 bits. Rounding to even treats both signs alike.
fn scaled(x: i32, multiplier: i32, shift: u32) -> vec2<u32> {
    let product = mul_u32(bitcast<u32>(abs(x)), bitcast<u32>(abs(multiplier)));
    let rounded = half_even96(vec3(product, 0u), shift).xy;
    if (x < 0) != (multiplier < 0) {
        return negated64(rounded);
    }
    return rounded;
}

// round_half_even(y * ratio) of a 64-bit value, limited to 32 bits.
fn scaled_wide(y: vec2<u32>, multiplier: i32, shift: u32) -> i32 {
    let m = bitcast<u32>(abs(multiplier));
    let magnitude = magnitude64(y);
    let low = mul_u32(magnitude.x, m);
    let high = add64(mul_u32(magnitude.y, m), vec2(low.y, 0u));
    let rounded = half_even96(vec3(low.x, high), shift);
    let negative = is_negative64(y) != (multiplier < 0);
    let limit = select(0x7fffffffu, 0x80000000u, negative);
    let clamped = select(limit, min(rounded.x, limit), rounded.y == 0u && rounded.z == 0u);
    return select(bitcast<i32>(clamped), bitcast<i32>(0u - clamped), negative);
}

// The exponential `exp(S * x) * period * 2^n` for |x| <= 2^17: x * log2(e) is x + x / 2 - x / 16, one halving takes
// `period` steps, and a straight line joins the halvings.
fn shift_exp(period: u32, n: u32, x: i32) -> vec2<u32> {
    let steps = x + (x >> 1u) - (x >> 4u);
    var distance = bitcast<u32>(abs(steps));
    var shift = 0u;
    var rest = 0u;
    if steps <= 0 {
        distance = min(distance, period * n);
        let halvings = distance / period;
        shift = n - halvings;
        rest = distance - halvings * period;
    } else {
        let up = (distance - 1u) / period + 1u;
        shift = n + up;
        rest = up * period - distance;
    }
    let line = sub64(shl64(vec2(period, 0u), 1u), vec2(rest, 0u));
    return shr64(shl64(line, min(shift, 31u)), 1u);
}

fn clamped_to_one(e: vec2<u32>) -> u32 {
    return select(IVIT_ONE, min(e.x, IVIT_ONE), e.y == 0u);
}

// e * factor >> shift, saturated to 32 bits; factor = floor(IVIT_ONE / sum) for a sum not below e, clamped to IVIT_ONE.
// A factor above one means that e is below 2^31.
fn share(e: vec2<u32>, factor: u32, shift: u32) -> u32 {
    var product = e;
    if factor != 1u {
        product = mul_u32(e.x, factor);
    }
    let shifted = shr64(product, shift);
    return select(0xffffffffu, shifted.x, shifted.y == 0u);
}
