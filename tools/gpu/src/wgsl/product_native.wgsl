// The 64-bit product of unsigned words (x low, y high), where the adapter has 64-bit integers.
fn mul_u32(a: u32, b: u32) -> vec2<u32> {
    let product = u64(a) * u64(b);
    return vec2(u32(product & 0xfffffffflu), u32(product >> 32u));
}

