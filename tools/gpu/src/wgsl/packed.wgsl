// Four columns at a time: products of packed bytes, and elements packed into words.

const ONES: u32 = 0x01010101u;

// Four words of four columns, one for each of four keys, as four words of four keys.
fn transposed(w: vec4<u32>) -> vec4<u32> {
    let even = vec2((w.x & 0xff00ffu) | ((w.y & 0xff00ffu) << 8u), (w.z & 0xff00ffu) | ((w.w & 0xff00ffu) << 8u));
    let odd = vec2(((w.x >> 8u) & 0xff00ffu) | (w.y & 0xff00ff00u), ((w.z >> 8u) & 0xff00ffu) | (w.w & 0xff00ff00u));
    return vec4(
        (even.x & 0xffffu) | (even.y << 16u),
        (odd.x & 0xffffu) | (odd.y << 16u),
        (even.x >> 16u) | (even.y & 0xffff0000u),
        (odd.x >> 16u) | (odd.y & 0xffff0000u),
    );
}

fn dot_columns(e: u32, columns: vec4<u32>) -> vec4<i32> {
    return vec4(
        dot4I8Packed(e, columns.x),
        dot4I8Packed(e, columns.y),
        dot4I8Packed(e, columns.z),
        dot4I8Packed(e, columns.w),
    );
}

// Four values, saturated, as the word of an 8-bit tensor.
fn packed_i8(values: vec4<i32>) -> u32 {
    let bytes = bitcast<vec4<u32>>(clamp(values, vec4(-128), vec4(127))) & vec4(0xffu);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

// Four values, saturated, as two words of a 16-bit tensor.
fn packed_i16(values: vec4<i32>) -> vec2<u32> {
    let halves = bitcast<vec4<u32>>(clamp(values, vec4(-32768), vec4(32767))) & vec4(0xffffu);
    return vec2(halves.x | (halves.y << 16u), halves.z | (halves.w << 16u));
}
