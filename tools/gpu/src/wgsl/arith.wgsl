// 64-bit integers in two words (x low, y high), and the roundings built on the products `mul_u32` and `mul_i32` of either
// `product_halves.wgsl` or `product_native.wgsl`.

// round_half_up(a * b / 2^32): adding 2^31 carries exactly when the top bit of the low half is set.
fn mulhi_round(a: i32, b: i32) -> i32 {
    let product = mul_i32(a, b);
    return bitcast<i32>(product.y + (product.x >> 31u));
}

// floor(a * b / 2^32)
fn mulhi_floor(a: i32, b: i32) -> i32 {
    return bitcast<i32>(mul_i32(a, b).y);
}

// round_half_up(x / 2^shift), shift in 0..=30.
fn rshift_round(x: i32, shift: u32) -> i32 {
    if shift == 0u {
        return x;
    }
    return (x + (1i << (shift - 1u))) >> shift;
}

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn sub64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

// a << shift, shift in 0..=63.
fn shl64(a: vec2<u32>, shift: u32) -> vec2<u32> {
    let s = shift & 31u;
    if shift >= 32u {
        return vec2(0u, a.x << s);
    }
    if s == 0u {
        return a;
    }
    return vec2(a.x << s, (a.y << s) | (a.x >> (32u - s)));
}

// a >> shift without sign, shift in 0..=63.
fn shr64(a: vec2<u32>, shift: u32) -> vec2<u32> {
    let s = shift & 31u;
    if shift >= 32u {
        return vec2(a.y >> s, 0u);
    }
    if s == 0u {
        return a;
    }
    return vec2((a.x >> s) | (a.y << (32u - s)), a.y >> s);
}
