// Attention of four query rows per workgroup, without the score matrix.
//
// A vector over the four rows holds their scores for one key, or the exponentials of four keys as bytes. Keys are taken
// in chunks of CHUNK: a first pass finds the rows' maxima, a second makes exponentials and sums the values. Rows that fit
// one chunk keep their scores between the passes. In the value phase the 64 invocations are `lanes` words of columns
// times `64 / lanes` shares of the keys.
//
// Packed products are of signed bytes: an exponential is 256 * high + low, and its low byte enters as low - 128, which
// 128 times the sum of the values sets right. Values behind the last key meet the same 128 on both sides.

// What this attention has: fixed when the pipeline is made.
override BIAS0: bool = true;
override BIAS1: bool = true;
override WIDE_EXP: bool = true;

const CHUNK: u32 = 512u;
const ROWS: u32 = 4u;
// Words of a query row held in workgroup memory; longer rows are read again for their rest.
const QUERY_WORDS: u32 = 64u;
// First vector of the sums of exponentials in `keys`.
const SUMS: u32 = 256u;
const LEAST: i32 = i32(-2147483648);

const INVOCATIONS: u32 = 64u;
const SPAN: u32 = INVOCATIONS;

struct Params {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias0: Tensor,
    bias1: Tensor,
    out: Tensor,
    // Blocks of rows of all heads and batches.
    blocks: u32,
    // Invocations side by side over the columns, a power of two up to 16: one invocation for each word of
    // columns of each row fills the workgroup.
    lanes: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

var<workgroup> queries: array<vec4<u32>, 64>;
// Scores per key. Once they are exponentials: per invocation, the sums of four columns for each row, then from
// SUMS on the sums of exponentials.
var<workgroup> keys: array<vec4<i32>, 512>;
var<workgroup> low_bytes: array<vec4<u32>, 128>;
var<workgroup> high_bytes: array<vec4<u32>, 128>;

// Query row `row` of the block; rows beyond the last repeat it and are not written.
fn block_row(unit: Unit, row: u32) -> u32 {
    return min(unit.row + row, p.a.n_q - 1u);
}

// Word `index` of a query row, zero beyond its end.
fn query_word(sample: u32, unit: Unit, row: u32, index: u32) -> u32 {
    let start = row_start(p.a.q, unit.batch, unit.head, block_row(unit, row));
    let left = p.a.head_dim - 4u * index;
    let mask = select((1u << (8u * (left & 3u))) - 1u, 0xffffffffu, left >= 4u);
    return bytes4(p.q, sample, start + 4u * index) & mask;
}

fn query_words(sample: u32, unit: Unit, index: u32) -> vec4<u32> {
    return vec4(
        query_word(sample, unit, 0u, index),
        query_word(sample, unit, 1u, index),
        query_word(sample, unit, 2u, index),
        query_word(sample, unit, 3u, index),
    );
}

fn dot_rows(q: vec4<u32>, k: u32) -> vec4<i32> {
    return vec4(dot4I8Packed(q.x, k), dot4I8Packed(q.y, k), dot4I8Packed(q.z, k), dot4I8Packed(q.w, k));
}

fn biases(sample: u32, unit: Unit, key: u32, bias: Tensor, view: BiasView) -> vec4<i32> {
    var result: vec4<i32>;
    for (var row = 0u; row < ROWS; row++) {
        let at = Unit(unit.batch, unit.head, block_row(unit, row));
        result[row] = element_i16(bias, sample, bias_index(view, at, key));
    }
    return result;
}

fn scores(sample: u32, unit: Unit, key: u32) -> vec4<i32> {
    let start = row_start(p.a.k, unit.batch, unit.head / p.a.kv_group, key);
    let words = (p.a.head_dim + 3u) >> 2u;
    var acc = vec4<i32>(0i);
    for (var i = 0u; i < min(words, QUERY_WORDS); i++) {
        acc += dot_rows(queries[i], bytes4(p.k, sample, start + 4u * i));
    }
    for (var i = QUERY_WORDS; i < words; i++) {
        acc += dot_rows(query_words(sample, unit, i), bytes4(p.k, sample, start + 4u * i));
    }
    var s: vec4<i32>;
    for (var row = 0u; row < ROWS; row++) {
        s[row] = mulhi_round(acc[row] << p.a.acc_shift, p.a.score_multiplier);
    }
    if BIAS0 {
        s += biases(sample, unit, key, p.bias0, p.a.bias0);
    }
    if BIAS1 {
        s += biases(sample, unit, key, p.bias1, p.a.bias1);
    }
    return s;
}

// Scores of the chunk from `first` into `keys`; the largest of this invocation's.
fn score_chunk(sample: u32, unit: Unit, first: u32, lane: u32) -> vec4<i32> {
    var largest = vec4<i32>(LEAST);
    for (var i = lane; i < min(CHUNK, p.a.n_k - first); i += 64u) {
        let s = scores(sample, unit, first + i);
        keys[i] = s;
        largest = max(largest, s);
    }
    return largest;
}

fn exponentials(distance: vec4<i32>) -> vec4<u32> {
    var e: vec4<u32>;
    for (var row = 0u; row < ROWS; row++) {
        let below = bitcast<u32>(distance[row]);
        if WIDE_EXP {
            e[row] = exp_u16(below);
        } else {
            e[row] = exp_u8(below);
        }
    }
    return e;
}

// Packs the exponentials of the chunk, four keys to the word, zero behind the last.
fn exp_chunk(first: u32, largest: vec4<i32>, lane: u32) {
    let count = min(CHUNK, p.a.n_k - first);
    for (var quad = lane; quad < (count + 3u) / 4u; quad += 64u) {
        var low = vec4<u32>(0u);
        var high = vec4<u32>(0u);
        for (var i = 0u; i < min(4u, count - 4u * quad); i++) {
            let e = exponentials(largest - keys[4u * quad + i]);
            low |= (e & vec4(0xffu)) << vec4(8u * i);
            high |= (e >> vec4(8u)) << vec4(8u * i);
        }
        low_bytes[quad] = low ^ vec4(0x80808080u);
        high_bytes[quad] = high;
    }
}

// Sums over a share of the keys: weighted values of four columns for each row, and exponentials over the rows.
struct Sums {
    values: array<vec4<i32>, 4>,
    exponentials: vec4<i32>,
}

// Adds the share of the chunk's values in four columns from byte `start` of the chunk's first value row. The sums of
// exponentials are those of a column of ones.
fn add_values(sums: ptr<function, Sums>, sample: u32, start: u32, count: u32, share: u32, shares: u32) {
    for (var quad = share; quad < (count + 3u) / 4u; quad += shares) {
        var rows: vec4<u32>;
        for (var i = 0u; i < 4u; i++) {
            rows[i] = bytes4(p.v, sample, start + min(4u * quad + i, count - 1u) * p.a.v.row);
        }
        let columns = transposed(rows);
        let low = low_bytes[quad];
        let offset = 128 * dot_columns(ONES, columns);
        (*sums).values[0] += dot_columns(low.x, columns) + offset;
        (*sums).values[1] += dot_columns(low.y, columns) + offset;
        (*sums).values[2] += dot_columns(low.z, columns) + offset;
        (*sums).values[3] += dot_columns(low.w, columns) + offset;
        (*sums).exponentials += dot_rows(low, ONES) + vec4(4 * 128);
        if WIDE_EXP {
            let high = high_bytes[quad];
            (*sums).values[0] += 256 * dot_columns(high.x, columns);
            (*sums).values[1] += 256 * dot_columns(high.y, columns);
            (*sums).values[2] += 256 * dot_columns(high.z, columns);
            (*sums).values[3] += 256 * dot_columns(high.w, columns);
            (*sums).exponentials += 256 * dot_rows(high, ONES);
        }
    }
}

fn write_columns(sample: u32, unit: Unit, row: u32, column: u32, sum: i32, acc: vec4<i32>) {
    let scale = row_scale(bitcast<u32>(sum), p.a.ratio_m, p.a.ratio_shift);
    var packed = 0u;
    for (var i = 0u; i < min(4u, p.a.v_dim - column); i++) {
        packed |= placed(I8, i, p.a.zero_point + apply_row_scale(scale, acc[i]));
    }
    // The output rows start at whole words: the host sees to it.
    let to = row_start(p.a.out, unit.batch, unit.head, unit.row + row) + column;
    set_word(p.out, sample, to >> 2u, packed);
}

fn run(sample: u32, group: u32, invocation: u32) {
    if group >= p.blocks {
        return;
    }
    let blocks_of_head = (p.a.n_q + ROWS - 1u) / ROWS;
    let head = group / blocks_of_head;
    let unit = Unit(head / p.a.heads, head % p.a.heads, (group % blocks_of_head) * ROWS);
    if invocation < min((p.a.head_dim + 3u) >> 2u, QUERY_WORDS) {
        queries[invocation] = query_words(sample, unit, invocation);
    }
    workgroupBarrier();
    var largest = vec4<i32>(LEAST);
    for (var first = 0u; first < p.a.n_k; first += CHUNK) {
        largest = max(largest, score_chunk(sample, unit, first, invocation));
    }
    largest = bitcast<vec4<i32>>(reduced(MAXIMUM, invocation, bitcast<vec4<u32>>(largest)));
    let shares = 64u / p.lanes;
    let share = invocation / p.lanes;
    for (var block = 0u; block < p.a.v_dim; block += 4u * p.lanes) {
        let column = block + 4u * (invocation % p.lanes);
        var sums = Sums();
        for (var first = 0u; first < p.a.n_k; first += CHUNK) {
            // One chunk still holds its scores from the first pass, for the first block to take.
            if p.a.n_k > CHUNK || block > 0u {
                workgroupBarrier();
                score_chunk(sample, unit, first, invocation);
                workgroupBarrier();
            }
            exp_chunk(first, largest, invocation);
            workgroupBarrier();
            if column < p.a.v_dim {
                let start = row_start(p.a.v, unit.batch, unit.head / p.a.kv_group, first) + column;
                add_values(&sums, sample, start, min(CHUNK, p.a.n_k - first), share, shares);
            }
        }
        keys[ROWS * invocation] = sums.values[0];
        keys[ROWS * invocation + 1u] = sums.values[1];
        keys[ROWS * invocation + 2u] = sums.values[2];
        keys[ROWS * invocation + 3u] = sums.values[3];
        keys[SUMS + invocation] = sums.exponentials;
        workgroupBarrier();
        // The shares of a column are summed and written by as many invocations as there are rows.
        if invocation < ROWS * p.lanes {
            let row = invocation / p.lanes;
            let at = block + 4u * (invocation % p.lanes);
            if at < p.a.v_dim && unit.row + row < p.a.n_q {
                var total = vec4<i32>(0i);
                var sum = 0i;
                for (var other = 0u; other < shares; other++) {
                    let from_lane = other * p.lanes + invocation % p.lanes;
                    total += keys[ROWS * from_lane + row];
                    sum += keys[SUMS + from_lane][row];
                }
                write_columns(sample, unit, row, at, sum, total);
            }
        }
        if block + 4u * p.lanes < p.a.v_dim {
            workgroupBarrier();
        }
    }
}
