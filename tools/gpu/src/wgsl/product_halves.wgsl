// The 64-bit product of unsigned words, from 16-bit halves: no partial sum leaves 32 bits, since
// (2^16 - 1)^2 + (2^16 - 1) < 2^32.
fn mul_u32(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a0 * b1 + (low >> 16u);
    let carried = a1 * b0 + (middle & 0xffffu);
    return vec2((carried << 16u) | (low & 0xffffu), a1 * b1 + (middle >> 16u) + (carried >> 16u));
}

// The 64-bit product of signed words: a negative factor counts 2^32 too much in the unsigned product.
fn mul_i32(a: i32, b: i32) -> vec2<u32> {
    let product = mul_u32(bitcast<u32>(a), bitcast<u32>(b));
    let excess = select(0u, bitcast<u32>(b), a < 0) + select(0u, bitcast<u32>(a), b < 0);
    return vec2(product.x, product.y - excess);
}

