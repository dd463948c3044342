// The 64-bit product of unsigned words (x low, y high), where the adapter has 64-bit integers.
fn mul_u32(a: u32, b: u32) -> vec2<u32> {
    let product = u64(a) * u64(b);
    return vec2(u32(product & 0xfffffffflu), u32(product >> 32u));
}

// The 64-bit product of signed words.
fn mul_i32(a: i32, b: i32) -> vec2<u32> {
    let product = bitcast<u64>(i64(a) * i64(b));
    return vec2(u32(product & 0xfffffffflu), u32(product >> 32u));
}

