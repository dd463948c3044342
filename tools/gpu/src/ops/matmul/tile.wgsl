// Product of two activations in tiles of 32 rows by 32 columns, where the output's rows are whole words.
//
// A workgroup of 8 x 8 invocations takes slabs of 32 K through workgroup memory; each invocation sums 4 rows by 4
// columns. A vector holds one word of K of those 4 rows, or of those 4 columns. Rows of vectors are 9 long, so that
// neighbouring invocations store to different banks.
//
// Packed products are of signed bytes: an element of 16 bits is 256 * high + low, both enter less 128, and
// (256 + 1) * 128 times the sum of the column sets that right. The columns are zero behind K.

// Whether `a` has 16 bits.
override WIDE: bool = true;

const WORDS: u32 = 8u;
const TILE: u32 = 32u;
const SIGNS: u32 = 0x80808080u;
// (256 + 1) * 128
const OFFSET: i32 = 32896;

const INVOCATIONS: u32 = 64u;

struct Params {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    // Tiles of a matrix along its columns, and of all matrices.
    columns: u32,
    tiles: u32,
    m: MatMul,
}
@group(0) @binding(2) var<storage, read> p: Params;

var<workgroup> low_tile: array<vec4<u32>, 72>;
var<workgroup> high_tile: array<vec4<u32>, 72>;
var<workgroup> b_tile: array<vec4<u32>, 72>;

// Both halves of a word, each at most MAX_PROBABILITY.
fn limited(w: u32) -> u32 {
    let over = w & 0x80008000u;
    return (w | (over - (over >> 15u))) & 0x7fff7fffu;
}

// Four elements of a row of `a` from element `at`: x their low bytes, y their high ones, each less 128.
fn split_word(sample: u32, at: u32) -> vec2<u32> {
    let first = limited(bytes4(p.a, sample, 2u * at));
    let last = limited(bytes4(p.a, sample, 2u * at + 4u));
    let low = (first & 0xffu) | ((first >> 8u) & 0xff00u) | ((last & 0xffu) << 16u) | ((last << 8u) & 0xff000000u);
    let high = ((first >> 8u) & 0xffu) | ((first >> 16u) & 0xff00u) | ((last << 8u) & 0xff0000u) | (last & 0xff000000u);
    return vec2(low, high) ^ vec2(SIGNS);
}

// Word `word_of_k` of the four rows from `row` of the matrix at element `start`.
fn load_a(sample: u32, start: u32, row: u32, word_of_k: u32, at: u32) {
    var low = vec4<u32>(0u);
    var high = vec4<u32>(0u);
    if 4u * word_of_k < p.m.k {
        for (var i = 0u; i < 4u; i++) {
            let first = start + min(row + i, p.m.m - 1u) * p.m.a_row + 4u * word_of_k;
            if WIDE {
                let split = split_word(sample, first);
                low[i] = split.x;
                high[i] = split.y;
            } else {
                low[i] = bytes4(p.a, sample, first);
            }
        }
    }
    low_tile[at] = low;
    if WIDE {
        high_tile[at] = high;
    }
}

// Word `word_of_k` of the four columns from `column` of the matrix at byte `start`, zero behind K.
fn load_b(sample: u32, start: u32, column: u32, word_of_k: u32, at: u32) {
    var b = vec4<u32>(0u);
    let k = 4u * word_of_k;
    if k < p.m.k {
        if p.m.b_transposed != 0u {
            for (var i = 0u; i < 4u; i++) {
                b[i] = bytes4(p.b, sample, start + min(column + i, p.m.n - 1u) * p.m.b_row + k);
            }
        } else {
            for (var i = 0u; i < 4u; i++) {
                b[i] = bytes4(p.b, sample, start + min(k + i, p.m.k - 1u) * p.m.b_row + column);
            }
            b = transposed(b);
        }
        b &= vec4(tail_mask(p.m, word_of_k));
    }
    b_tile[at] = b;
}

// Writes the sums of 4 columns of one row; `index` is the first of them in the output.
fn write_row(sample: u32, index: u32, column: u32, acc: vec4<i32>) {
    if p.out.dtype == I32 {
        for (var i = 0u; i < min(4u, p.m.n - column); i++) {
            set_word(p.out, sample, index + i, bitcast<u32>(acc[i]));
        }
        return;
    }
    var y: vec4<i32>;
    for (var i = 0u; i < 4u; i++) {
        y[i] = requantized(p.m, p.out.dtype, acc[i]);
    }
    if p.out.dtype == I8 {
        set_word(p.out, sample, index >> 2u, packed_i8(y));
        return;
    }
    let words = packed_i16(y);
    set_word(p.out, sample, index >> 1u, words.x);
    set_word(p.out, sample, (index >> 1u) + 1u, words.y);
}

fn run(sample: u32, group: u32, invocation: u32) {
    if group >= p.tiles {
        return;
    }
    let tile_row = group / p.columns;
    let tiles_of_matrix = (p.m.m + TILE - 1u) / TILE;
    let matrix = tile_row / tiles_of_matrix;
    let first_row = (tile_row - matrix * tiles_of_matrix) * TILE;
    let first_column = (group - tile_row * p.columns) * TILE;
    let start = matrices(p.m, matrix);
    // Loading, an invocation has a word of K and a group of four; summing, two groups of four.
    let load_word = invocation % WORDS;
    let load_group = invocation / WORDS;
    let store = load_word * 9u + load_group;
    var acc0 = vec4<i32>(0i);
    var acc1 = vec4<i32>(0i);
    var acc2 = vec4<i32>(0i);
    var acc3 = vec4<i32>(0i);
    var column_sum = vec4<i32>(0i);
    for (var first_word = 0u; 4u * first_word < p.m.k; first_word += WORDS) {
        load_a(sample, start.x, first_row + 4u * load_group, first_word + load_word, store);
        load_b(sample, start.y, first_column + 4u * load_group, first_word + load_word, store);
        workgroupBarrier();
        for (var i = 0u; i < WORDS; i++) {
            let a = low_tile[i * 9u + invocation / WORDS];
            let b = b_tile[i * 9u + invocation % WORDS];
            acc0 += dot_columns(a.x, b);
            acc1 += dot_columns(a.y, b);
            acc2 += dot_columns(a.z, b);
            acc3 += dot_columns(a.w, b);
            if WIDE {
                let high = high_tile[i * 9u + invocation / WORDS];
                acc0 += 256 * dot_columns(high.x, b);
                acc1 += 256 * dot_columns(high.y, b);
                acc2 += 256 * dot_columns(high.z, b);
                acc3 += 256 * dot_columns(high.w, b);
                column_sum += OFFSET * dot_columns(ONES, b);
            }
        }
        workgroupBarrier();
    }
    let column = first_column + 4u * (invocation % WORDS);
    if column >= p.m.n {
        return;
    }
    let row = first_row + 4u * (invocation / WORDS);
    let sums = array<vec4<i32>, 4>(acc0, acc1, acc2, acc3);
    for (var i = 0u; i < min(4u, p.m.m - min(row, p.m.m)); i++) {
        write_row(sample, (matrix * p.m.m + row + i) * p.m.n + column, column, sums[i] + column_sum);
    }
}
