// Four neighbouring elements of a tensor of signed bytes or of 16 bits.

fn four_at(t: Tensor, dtype: u32, sample: u32, four: u32) -> vec4<i32> {
    if dtype == I8 {
        let w = bitcast<i32>(word(t, sample, four));
        return vec4((w << 24u) >> 24u, (w << 16u) >> 24u, (w << 8u) >> 24u, w >> 24u);
    }
    let low = bitcast<i32>(word(t, sample, 2u * four));
    let high = bitcast<i32>(word(t, sample, 2u * four + 1u));
    return vec4((low << 16u) >> 16u, low >> 16u, (high << 16u) >> 16u, high >> 16u);
}

fn set_four(t: Tensor, dtype: u32, sample: u32, four: u32, values: vec4<i32>) {
    if dtype == I8 {
        set_word(t, sample, four, packed_i8(values));
        return;
    }
    let words = packed_i16(values);
    set_word(t, sample, 2u * four, words.x);
    set_word(t, sample, 2u * four + 1u, words.y);
}
