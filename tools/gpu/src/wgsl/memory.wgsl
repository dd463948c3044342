// Tensors of a batch of samples, packed four bytes to the word as in the model file.

// The activations of all samples.
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
// The model's `Weights` section, then the digest table.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

// A byte range of the `Weights` section, as the file has it.
struct Blob {
    offset: u32,
    bytes: u32,
}

fn word(t: Tensor, sample: u32, index: u32) -> u32 {
    if t.constant == 1u {
        return weights[t.base + index];
    }
    return data[t.base + sample * t.stride + index];
}

fn set_word(t: Tensor, sample: u32, index: u32, value: u32) {
    data[t.base + sample * t.stride + index] = value;
}

// Whether all positions that `bytes4` is asked for are whole words.
override ALIGNED: bool = false;

// Four bytes from any byte position.
fn bytes4(t: Tensor, sample: u32, byte: u32) -> u32 {
    if ALIGNED {
        return word(t, sample, byte >> 2u);
    }
    let shift = (byte & 3u) * 8u;
    let low = word(t, sample, byte >> 2u);
    if shift == 0u {
        return low;
    }
    return (low >> shift) | (word(t, sample, (byte >> 2u) + 1u) << (32u - shift));
}

fn signed_byte(w: u32, byte: u32) -> i32 {
    return extractBits(bitcast<i32>(w), byte * 8u, 8u);
}

fn element_i8(t: Tensor, sample: u32, index: u32) -> i32 {
    return signed_byte(word(t, sample, index >> 2u), index & 3u);
}

fn element_i16(t: Tensor, sample: u32, index: u32) -> i32 {
    return extractBits(bitcast<i32>(word(t, sample, index >> 1u)), (index & 1u) * 16u, 16u);
}

fn element(t: Tensor, sample: u32, index: u32) -> i32 {
    switch t.dtype {
        case I8: {
            return element_i8(t, sample, index);
        }
        case U8: {
            return bitcast<i32>(extractBits(word(t, sample, index >> 2u), (index & 3u) * 8u, 8u));
        }
        case I16: {
            return element_i16(t, sample, index);
        }
        case U16: {
            return bitcast<i32>(extractBits(word(t, sample, index >> 1u), (index & 1u) * 16u, 16u));
        }
        default: {
            return bitcast<i32>(word(t, sample, index));
        }
    }
}

fn saturate_to(dtype: u32, value: i32) -> i32 {
    switch dtype {
        case I8: {
            return clamp(value, -128, 127);
        }
        case U8: {
            return clamp(value, 0, 255);
        }
        case I16: {
            return clamp(value, -32768, 32767);
        }
        case U16: {
            return clamp(value, 0, 65535);
        }
        default: {
            return value;
        }
    }
}

// `value`, saturated, at position `slot` of an otherwise empty word.
fn placed(dtype: u32, slot: u32, value: i32) -> u32 {
    let bits = 32u / elements_per_word(dtype);
    return insertBits(0u, bitcast<u32>(saturate_to(dtype, value)), slot * bits, bits);
}

fn blob_i32(blob: Blob, index: u32) -> i32 {
    return bitcast<i32>(weights[(blob.offset >> 2u) + index]);
}

fn blob_i16(blob: Blob, index: u32) -> i32 {
    return extractBits(bitcast<i32>(weights[(blob.offset >> 2u) + (index >> 1u)]), (index & 1u) * 16u, 16u);
}

fn blob_i8(blob: Blob, index: u32) -> i32 {
    return signed_byte(weights[(blob.offset >> 2u) + (index >> 2u)], index & 3u);
}
