// Products of 16-bit activations by their halves: x = 256 high + low, both signed bytes; 32639 is the maximum that has them.

fn high_half(x: i32) -> i32 {
    return (min(x, 32639) + 128) >> 8u;
}

fn low_half(x: i32) -> i32 {
    return extractBits(min(x, 32639), 0u, 8u);
}

// The sums of the halves as one.
fn joined(sums: vec2<i32>, drop: u32) -> i32 {
    return (sums.x << (8u - drop)) + (sums.y >> drop);
}
