// Layers with packed weights: a panel of 4 channels holds, for each group of 16 K, some bytes per channel. One reader per
// weight format; the number of a format is that of the container.

struct Dense {
    format: u32,
    acc_shift: u32,
    zero_point: i32,
    weights: Blob,
    bias: Blob,
    multipliers: Blob,
    lut: Blob,
}

// Sign extension of the low nibble of each byte: 8 * 0x1e = 0xf0 sets the upper half where bit 3 is set.
fn widen_nibbles(low: u32) -> u32 {
    let nibbles = low & 0x0f0f0f0fu;
    return nibbles | ((nibbles & 0x08080808u) * 0x1eu);
}

// 8 bits: 16 bytes per channel. `group` counts those of all channels before.
fn weights_i8(first: u32, group: u32, word_of_k: u32) -> u32 {
    return weights[first + group * 4u + (word_of_k & 3u)];
}

// 4 bits: 8 bytes per channel, byte j with k = j in its low and k = j + 8 in its high nibble.
fn weights_i4(first: u32, group: u32, word_of_k: u32) -> u32 {
    let packed = weights[first + group * 2u + (word_of_k & 1u)];
    return widen_nibbles(packed >> select(0u, 4u, (word_of_k & 2u) != 0u));
}

// 2 bits: 4 bytes per channel, byte j % 4 with K j at bit 2 * (j / 4): a shift leaves four of them in the bytes of the word.
fn weights_i2(first: u32, group: u32, word_of_k: u32) -> u32 {
    let low = (weights[first + group] >> (2u * (word_of_k & 3u))) & 0x03030303u;
    return low | ((low & 0x02020202u) * 0x7eu);
}

// 3 bits: 6 bytes per channel, as 2 bits, then the signs: bit i / 4 + 4 * (i % 2) of byte 4 + i % 4 / 2 for K i. Every other
// group starts in the middle of a word.
fn weights_i3(first: u32, group: u32, word_of_k: u32) -> u32 {
    let at = first + (group * 6u >> 2u);
    let odd = (group & 1u) != 0u;
    let next = weights[at + 1u];
    let pairs = select(weights[at], (weights[at] >> 16u) | (next << 16u), odd);
    let bytes = select(next & 0xffffu, next >> 16u, odd);
    let j = word_of_k & 3u;
    let halves = (bytes & 0xffu) | ((bytes >> 8u) << 16u);
    let signs = ((halves | (halves << 4u)) >> j) & 0x01010101u;
    return ((pairs >> (2u * j)) & 0x03030303u) | (signs * 0xfcu);
}

// The words of K 4 word .. 4 word + 3 of `channel` in the packed matrix at byte `matrix` of the weights.
fn packed_weights(d: Dense, matrix: u32, k: u32, channel: u32, word_of_k: u32) -> u32 {
    let groups = (k + 15u) >> 4u;
    let group = ((channel >> 2u) * groups + (word_of_k >> 2u)) * 4u + (channel & 3u);
    let first = matrix >> 2u;
    switch d.format {
        case 8u: {
            return weights_i8(first, group, word_of_k);
        }
        case 4u: {
            return weights_i4(first, group, word_of_k);
        }
        case 3u: {
            return weights_i3(first, group, word_of_k);
        }
        case 2u: {
            return weights_i2(first, group, word_of_k);
        }
        // The decoded operator has no other format; sums without weights differ from those of every backend.
        default: {
            return 0u;
        }
    }
}

// sum_k x[k] * w[channel][k] from byte `start` of `x`. What is read beyond K meets weights of zero.
fn dense_dot(d: Dense, matrix: u32, k: u32, channel: u32, x: Tensor, sample: u32, start: u32) -> i32 {
    var acc = 0i;
    for (var i = 0u; i < ((k + 3u) >> 2u); i++) {
        acc += dot4I8Packed(bytes4(x, sample, start + 4u * i), packed_weights(d, matrix, k, channel, i));
    }
    return acc;
}

// The requantized 8-bit value, through the table where there is one.
fn requantized_i8(d: Dense, acc: i32, multiplier: i32) -> i32 {
    let y = clamp(d.zero_point + mulhi_round(acc << d.acc_shift, multiplier), -128, 127);
    if d.lut.bytes == 0u {
        return y;
    }
    return blob_i8(d.lut, bitcast<u32>(y + 128));
}
