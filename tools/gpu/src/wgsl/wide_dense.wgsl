// Layers over 16-bit activations: weights one by one.

struct Halves {
    // Low bits of the sum that are left out.
    drop: u32,
    low_bias: Blob,
}

// Weight `k` of `channel`.
fn weight(d: Dense, matrix: u32, k_of_channel: u32, channel: u32, k: u32) -> i32 {
    return signed_byte(packed_weights(d, matrix, k_of_channel, channel, k >> 2u), k & 3u);
}
