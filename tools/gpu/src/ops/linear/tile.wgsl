// Dense layers in tiles of 64 rows by 64 channels, for a channel count divisible by 4.
//
// The rows of all samples of the batch count as one matrix: row `r` is row `r % rows` of sample `r / rows`. A workgroup
// of 16 x 16 invocations takes slabs of 64 K through workgroup memory; each invocation sums 4 rows by 4 channels (one
// panel). A vector holds one word of K of those 4 rows, or of those 4 channels. Rows of vectors are 17 long, so that
// neighbouring invocations store to different banks.

const INVOCATIONS: u32 = 256u;

struct Params {
    x: Tensor,
    residual: Tensor,
    out: Tensor,
    // Rows of a sample, and samples there is room for.
    rows: u32,
    capacity: u32,
    // Bytes between rows of `x`.
    x_stride: u32,
    k: u32,
    n: u32,
    residual_shift: u32,
    dense: Dense,
}
@group(0) @binding(2) var<storage, read> p: Params;

var<workgroup> x_tile: array<vec4<u32>, 272>;
var<workgroup> w_tile: array<vec4<u32>, 272>;

// Where four rows of the batch lie: their samples, and the byte of each sample where they start.
struct Rows {
    sample: vec4<u32>,
    start: vec4<u32>,
}

fn rows_from(first: u32) -> Rows {
    let row = vec4(first, first + 1u, first + 2u, first + 3u);
    let sample = row / vec4(p.rows);
    return Rows(sample, (row - sample * p.rows) * p.x_stride);
}

// Word `word_of_k` of a row; rows beyond the batch are zero.
fn x_word(sample: u32, start: u32, word_of_k: u32) -> u32 {
    if sample >= p.capacity {
        return 0u;
    }
    return bytes4(p.x, sample, start + 4u * word_of_k);
}

fn load_slab(rows: Rows, first_channel: u32, first_word: u32, lane: u32) {
    let word_of_k = first_word + (lane & 15u);
    let at = (lane & 15u) * 17u + (lane >> 4u);
    let channel = first_channel + (lane >> 4u) * 4u;
    var x = vec4<u32>(0u);
    var w = vec4<u32>(0u);
    // Beyond the padded K both are zero; between K and the padding the weights are.
    if word_of_k < ((p.k + 15u) >> 4u) * 4u {
        x = vec4(
            x_word(rows.sample.x, rows.start.x, word_of_k),
            x_word(rows.sample.y, rows.start.y, word_of_k),
            x_word(rows.sample.z, rows.start.z, word_of_k),
            x_word(rows.sample.w, rows.start.w, word_of_k),
        );
        if channel < p.n {
            let matrix = p.dense.weights.offset;
            w = vec4(
                packed_weights(p.dense, matrix, p.k, channel, word_of_k),
                packed_weights(p.dense, matrix, p.k, channel + 1u, word_of_k),
                packed_weights(p.dense, matrix, p.k, channel + 2u, word_of_k),
                packed_weights(p.dense, matrix, p.k, channel + 3u, word_of_k),
            );
        }
    }
    x_tile[at] = x;
    w_tile[at] = w;
}

fn rounded(acc: vec4<i32>, m: vec4<i32>) -> vec4<i32> {
    let x = acc << vec4(p.dense.acc_shift);
    return vec4(mulhi_round(x.x, m.x), mulhi_round(x.y, m.y), mulhi_round(x.z, m.z), mulhi_round(x.w, m.w));
}

// Four elements of the residual from element `index`, a multiple of 4.
fn residual(sample: u32, index: u32) -> vec4<i32> {
    let low = bitcast<i32>(word(p.residual, sample, index >> 1u));
    let high = bitcast<i32>(word(p.residual, sample, (index >> 1u) + 1u));
    let values = vec4((low << 16u) >> 16u, low >> 16u, (high << 16u) >> 16u, high >> 16u);
    if p.residual_shift == 0u {
        return values;
    }
    return (values + vec4(1i << (p.residual_shift - 1u))) >> vec4(p.residual_shift);
}

// Writes the sums of 4 channels of one row.
fn write_row(row: u32, channel: u32, acc: vec4<i32>, multipliers: vec4<i32>) {
    let sample = row / p.rows;
    if sample >= p.capacity {
        return;
    }
    let index = (row - sample * p.rows) * p.n + channel;
    if p.out.dtype == I32 {
        for (var i = 0u; i < 4u; i++) {
            set_word(p.out, sample, index + i, bitcast<u32>(acc[i]));
        }
        return;
    }
    var y = rounded(acc, multipliers);
    if p.out.dtype == I8 {
        y = clamp(y + vec4(p.dense.zero_point), vec4(-128), vec4(127));
        if p.dense.lut.bytes != 0u {
            let at = bitcast<vec4<u32>>(y + vec4(128));
            let table = p.dense.lut;
            y = vec4(blob_i8(table, at.x), blob_i8(table, at.y), blob_i8(table, at.z), blob_i8(table, at.w));
        }
        set_word(p.out, sample, index >> 2u, packed_i8(y));
        return;
    }
    if present(p.residual) {
        y += residual(sample, index);
    }
    let words = packed_i16(y);
    set_word(p.out, sample, index >> 1u, words.x);
    set_word(p.out, sample, (index >> 1u) + 1u, words.y);
}

// Words of the four channels from `channel`.
fn of_channels(blob: Blob, channel: u32) -> vec4<i32> {
    return vec4(
        blob_i32(blob, channel),
        blob_i32(blob, channel + 1u),
        blob_i32(blob, channel + 2u),
        blob_i32(blob, channel + 3u),
    );
}

fn run(sample: u32, group: u32, invocation: u32) {
    let tiles = (p.n + 63u) / 64u;
    let first_channel = (group % tiles) * 64u;
    let first_row = (group / tiles) * 64u;
    let channel = first_channel + (invocation & 15u) * 4u;
    let row = first_row + (invocation >> 4u) * 4u;
    let rows = rows_from(row);
    var acc0 = vec4<i32>(0i);
    var acc1 = vec4<i32>(0i);
    var acc2 = vec4<i32>(0i);
    var acc3 = vec4<i32>(0i);
    for (var first_word = 0u; first_word < ((p.k + 3u) >> 2u); first_word += 16u) {
        load_slab(rows, first_channel, first_word, invocation);
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            let x = x_tile[i * 17u + (invocation >> 4u)];
            let w = w_tile[i * 17u + (invocation & 15u)];
            acc0 += dot_columns(x.x, w);
            acc1 += dot_columns(x.y, w);
            acc2 += dot_columns(x.z, w);
            acc3 += dot_columns(x.w, w);
        }
        workgroupBarrier();
    }
    if channel < p.n {
        let bias = of_channels(p.dense.bias, channel);
        var multipliers = vec4<i32>(0i);
        if p.out.dtype != I32 {
            multipliers = of_channels(p.dense.multipliers, channel);
        }
        write_row(row, channel, acc0 + bias, multipliers);
        write_row(row + 1u, channel, acc1 + bias, multipliers);
        write_row(row + 2u, channel, acc2 + bias, multipliers);
        write_row(row + 3u, channel, acc3 + bias, multipliers);
    }
}
