// Attention of 64 query rows of one head per workgroup, without the score matrix, for rows of at most 64 bytes that start
// at whole words.
//
// Keys and values pass through workgroup memory 64 at a time: a first pass finds the rows' maxima, a second makes
// exponentials and sums the values. An invocation has four rows, by four keys where scores are made and by four columns
// where values are summed. A vector holds one word of four rows (queries, keys: of their bytes; exponentials: of four
// keys; values: four columns of four keys). Rows of vectors are 17 long, so that neighbouring invocations store to
// different banks.
//
// Packed products are of signed bytes: an exponential is 256 * high + low, and its low byte enters as low - 128, which
// 128 times the sum of the values sets right. Values behind the last key meet the same 128 on both sides.

// What this attention has: fixed when the pipeline is made.
override BIAS0: bool = true;
override BIAS1: bool = true;
override WIDE_EXP: bool = true;
// Words of a query row.
override HEAD_WORDS: u32 = 16u;
// Whether scores grow with their sums, so that the maximum can be taken before they are scaled.
override RISING: bool = false;

const LEAST: i32 = i32(-2147483648);
const TILE: u32 = 64u;
const PITCH: u32 = 17u;

const INVOCATIONS: u32 = 256u;

struct Params {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias0: Tensor,
    bias1: Tensor,
    out: Tensor,
    // Blocks of rows of all heads and batches, and of one head.
    blocks: u32,
    shares: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

var<workgroup> queries: array<vec4<u32>, 272>;
var<workgroup> keys: array<vec4<u32>, 272>;
// Exponentials; once all are used, and before the first, what is reduced over the keys.
var<workgroup> low_bytes: array<vec4<u32>, 272>;
var<workgroup> high_bytes: array<vec4<u32>, 272>;

// For each of four rows, a value for each of four keys or columns.
struct Block {
    a: vec4<i32>,
    b: vec4<i32>,
    c: vec4<i32>,
    d: vec4<i32>,
}

// Words `word` of the four rows from `row` of `of_rows`, whose row 0 starts at byte `start`.
fn four_rows(t: Tensor, sample: u32, start: u32, step: u32, row: u32, last: u32, word: u32) -> vec4<u32> {
    let at = vec4(row, row + 1u, row + 2u, row + 3u);
    let from_bytes = vec4(start + 4u * word) + min(at, vec4(last)) * step;
    return vec4(
        bytes4(t, sample, from_bytes.x),
        bytes4(t, sample, from_bytes.y),
        bytes4(t, sample, from_bytes.z),
        bytes4(t, sample, from_bytes.w),
    );
}

// Query rows beyond the last repeat it and are not written. Bytes beyond the row's end are zero.
fn load_queries(sample: u32, unit: Unit, invocation: u32) {
    let word = invocation & 15u;
    var rows = vec4<u32>(0u);
    if word < HEAD_WORDS {
        let start = row_start(p.a.q, unit.batch, unit.head, 0u);
        let left = p.a.head_dim - 4u * word;
        let mask = select((1u << (8u * (left & 3u))) - 1u, 0xffffffffu, left >= 4u);
        rows = four_rows(p.q, sample, start, p.a.q.row, unit.row + 4u * (invocation >> 4u), p.a.n_q - 1u, word);
        rows &= vec4(mask);
    }
    queries[word * PITCH + (invocation >> 4u)] = rows;
}

// Keys beyond the last repeat it: they leave the maximum as it is.
fn load_keys(sample: u32, unit: Unit, first: u32, invocation: u32) {
    let word = invocation & 15u;
    if word < HEAD_WORDS {
        let start = row_start(p.a.k, unit.batch, unit.head / p.a.kv_group, 0u);
        let key = first + 4u * (invocation >> 4u);
        keys[word * PITCH + (invocation >> 4u)] =
            four_rows(p.k, sample, start, p.a.k.row, key, p.a.n_k - 1u, word);
    }
}

fn load_values(sample: u32, unit: Unit, first: u32, invocation: u32) {
    let word = invocation & 15u;
    if 4u * word < p.a.v_dim {
        let start = row_start(p.a.v, unit.batch, unit.head / p.a.kv_group, 0u);
        let key = first + 4u * (invocation >> 4u);
        keys[(invocation >> 4u) * PITCH + word] =
            transposed(four_rows(p.v, sample, start, p.a.v.row, key, p.a.n_k - 1u, word));
    }
}

fn raw_scores(invocation: u32) -> Block {
    var sums = Block();
    for (var word = 0u; word < HEAD_WORDS; word++) {
        let q = queries[word * PITCH + (invocation >> 4u)];
        let k = keys[word * PITCH + (invocation & 15u)];
        sums.a += dot_columns(q.x, k);
        sums.b += dot_columns(q.y, k);
        sums.c += dot_columns(q.z, k);
        sums.d += dot_columns(q.w, k);
    }
    return sums;
}

fn scaled_row(sums: vec4<i32>) -> vec4<i32> {
    let x = sums << vec4(p.a.acc_shift);
    let m = p.a.score_multiplier;
    return vec4(mulhi_round(x.x, m), mulhi_round(x.y, m), mulhi_round(x.z, m), mulhi_round(x.w, m));
}

// The biases of one row for the four keys from `key`; those of keys beyond the last repeat it.
fn biases(bias: Tensor, view: BiasView, sample: u32, unit: Unit, row: u32, key: u32) -> vec4<i32> {
    let at = Unit(unit.batch, unit.head, min(row, p.a.n_q - 1u));
    var result: vec4<i32>;
    for (var i = 0u; i < 4u; i++) {
        result[i] = element_i16(bias, sample, bias_index(view, at, min(key + i, p.a.n_k - 1u)));
    }
    return result;
}

fn scored_row(sums: vec4<i32>, sample: u32, unit: Unit, row: u32, key: u32) -> vec4<i32> {
    var s = scaled_row(sums);
    if BIAS0 {
        s += biases(p.bias0, p.a.bias0, sample, unit, row, key);
    }
    if BIAS1 {
        s += biases(p.bias1, p.a.bias1, sample, unit, row, key);
    }
    return s;
}

fn scored(sums: Block, sample: u32, unit: Unit, first: u32, invocation: u32) -> Block {
    let row = unit.row + 4u * (invocation >> 4u);
    let key = first + 4u * (invocation & 15u);
    return Block(
        scored_row(sums.a, sample, unit, row, key),
        scored_row(sums.b, sample, unit, row + 1u, key),
        scored_row(sums.c, sample, unit, row + 2u, key),
        scored_row(sums.d, sample, unit, row + 3u, key),
    );
}

fn largest_of(s: vec4<i32>) -> i32 {
    return max(max(s.x, s.y), max(s.z, s.w));
}

// For each row, the maximum over all its keys.
fn maxima(largest: vec4<i32>, invocation: u32) -> vec4<i32> {
    low_bytes[(invocation & 15u) * PITCH + (invocation >> 4u)] = bitcast<vec4<u32>>(largest);
    workgroupBarrier();
    var result = largest;
    for (var i = 0u; i < 16u; i++) {
        result = max(result, bitcast<vec4<i32>>(low_bytes[i * PITCH + (invocation >> 4u)]));
    }
    return result;
}

// The exponentials of four keys of a row, zero beyond `left` keys.
fn exponentials(distance: vec4<i32>, left: u32) -> vec4<u32> {
    let below = bitcast<vec4<u32>>(distance);
    var e: vec4<u32>;
    for (var i = 0u; i < 4u; i++) {
        if WIDE_EXP {
            e[i] = exp_u16(below[i]);
        } else {
            e[i] = exp_u8(below[i]);
        }
    }
    return select(vec4(0u), e, vec4(0u, 1u, 2u, 3u) < vec4(left));
}

// The low bytes of four words as one.
fn bytes_of(e: vec4<u32>) -> u32 {
    let low = e & vec4(0xffu);
    return low.x | (low.y << 8u) | (low.z << 16u) | (low.w << 24u);
}

fn sum_of(e: vec4<u32>) -> u32 {
    return e.x + e.y + e.z + e.w;
}

// Exponentials of the block into workgroup memory; their sums for each row.
fn store_exponentials(s: Block, largest: vec4<i32>, first: u32, invocation: u32) -> vec4<u32> {
    let key = first + 4u * (invocation & 15u);
    let left = p.a.n_k - min(key, p.a.n_k);
    let a = exponentials(vec4(largest.x) - s.a, left);
    let b = exponentials(vec4(largest.y) - s.b, left);
    let c = exponentials(vec4(largest.z) - s.c, left);
    let d = exponentials(vec4(largest.w) - s.d, left);
    let at = (invocation & 15u) * PITCH + (invocation >> 4u);
    low_bytes[at] = vec4(bytes_of(a), bytes_of(b), bytes_of(c), bytes_of(d)) ^ vec4(0x80808080u);
    if WIDE_EXP {
        let eight = vec4(8u);
        high_bytes[at] = vec4(bytes_of(a >> eight), bytes_of(b >> eight), bytes_of(c >> eight), bytes_of(d >> eight));
    }
    return vec4(sum_of(a), sum_of(b), sum_of(c), sum_of(d));
}

fn write_columns(sample: u32, unit: Unit, row: u32, column: u32, sum: u32, acc: vec4<i32>) {
    if row >= p.a.n_q || column >= p.a.v_dim {
        return;
    }
    let scale = row_scale(sum, p.a.ratio_m, p.a.ratio_shift);
    let y = vec4(
        apply_row_scale(scale, acc.x),
        apply_row_scale(scale, acc.y),
        apply_row_scale(scale, acc.z),
        apply_row_scale(scale, acc.w),
    );
    // The output rows start at whole words: the host sees to it.
    let to = row_start(p.a.out, unit.batch, unit.head, row) + column;
    set_word(p.out, sample, to >> 2u, packed_i8(y + vec4(p.a.zero_point)));
}

fn run(sample: u32, group: u32, invocation: u32) {
    if group >= p.blocks {
        return;
    }
    let head = group / p.shares;
    let unit = Unit(head / p.a.heads, head % p.a.heads, (group % p.shares) * TILE);
    load_queries(sample, unit, invocation);
    var largest = vec4<i32>(LEAST);
    for (var first = 0u; first < p.a.n_k; first += TILE) {
        load_keys(sample, unit, first, invocation);
        workgroupBarrier();
        var s = raw_scores(invocation);
        if !RISING {
            s = scored(s, sample, unit, first, invocation);
        }
        largest = max(largest, vec4(largest_of(s.a), largest_of(s.b), largest_of(s.c), largest_of(s.d)));
        workgroupBarrier();
    }
    largest = maxima(largest, invocation);
    if RISING {
        largest = scaled_row(largest);
    }
    var low = Block();
    var high = Block();
    var column_sums = vec4<i32>(0i);
    var sums = vec4<u32>(0u);
    for (var first = 0u; first < p.a.n_k; first += TILE) {
        workgroupBarrier();
        load_keys(sample, unit, first, invocation);
        workgroupBarrier();
        let s = scored(raw_scores(invocation), sample, unit, first, invocation);
        sums += store_exponentials(s, largest, first, invocation);
        workgroupBarrier();
        load_values(sample, unit, first, invocation);
        workgroupBarrier();
        for (var quad = 0u; quad < min(16u, (p.a.n_k - first + 3u) / 4u); quad++) {
            let v = keys[quad * PITCH + (invocation & 15u)];
            let e = low_bytes[quad * PITCH + (invocation >> 4u)];
            low.a += dot_columns(e.x, v);
            low.b += dot_columns(e.y, v);
            low.c += dot_columns(e.z, v);
            low.d += dot_columns(e.w, v);
            column_sums += dot_columns(ONES, v);
            if WIDE_EXP {
                let h = high_bytes[quad * PITCH + (invocation >> 4u)];
                high.a += dot_columns(h.x, v);
                high.b += dot_columns(h.y, v);
                high.c += dot_columns(h.z, v);
                high.d += dot_columns(h.w, v);
            }
        }
    }
    workgroupBarrier();
    low_bytes[(invocation & 15u) * PITCH + (invocation >> 4u)] = sums;
    workgroupBarrier();
    var total = vec4<u32>(0u);
    for (var i = 0u; i < 16u; i++) {
        total += low_bytes[i * PITCH + (invocation >> 4u)];
    }
    let offset = 128 * column_sums;
    let row = unit.row + 4u * (invocation >> 4u);
    let column = 4u * (invocation & 15u);
    write_columns(sample, unit, row, column, total.x, low.a + 256 * high.a + offset);
    write_columns(sample, unit, row + 1u, column, total.y, low.b + 256 * high.b + offset);
    write_columns(sample, unit, row + 2u, column, total.z, low.c + 256 * high.c + offset);
    write_columns(sample, unit, row + 3u, column, total.w, low.d + 256 * high.d + offset);
}
