// Operators over whole rows: statistics of each row, then its elements. Memory is read once: the elements' second look
// at the row meets the cache.
//
// A workgroup takes four rows, which start and end at whole words whatever their width, with SPAN invocations for each.
// Elements are taken four at a time. The operator declares `p` with `rows: Rows` first, and
// - `gathered(sample, row, invocation) -> vec4<u32>`: reductions over the row, the same for all invocations of it,
// - `statistics(gathered) -> vec4<u32>`: what the elements need of them, made once per row,
// - `value(x, column, statistics) -> i32`: what becomes of one element.

// Element types of the input and the output, and whether rows are whole fours: fixed when the pipeline is made.
override FROM: u32 = 0u;
override TO: u32 = 0u;
override FOURS: bool = false;

struct Rows {
    x: Tensor,
    out: Tensor,
    rows: u32,
    n: u32,
}

const INVOCATIONS: u32 = 128u;
const SPAN: u32 = 32u;
const ROWS: u32 = 4u;

var<workgroup> row_statistics: array<vec4<u32>, ROWS>;

// The invocation's number among those of its row.
fn lane_of(invocation: u32) -> u32 {
    return invocation % SPAN;
}

// Fours of a row, the last of which may be short, and the elements of one.
fn fours() -> u32 {
    return (p.rows.n + 3u) / 4u;
}

fn elements_of(four: u32) -> u32 {
    if FOURS {
        return 4u;
    }
    return min(4u, p.rows.n - 4u * four);
}

// The elements of a four; behind a short one the last is repeated.
fn four_of(sample: u32, row: u32, four: u32) -> vec4<i32> {
    let at = row * p.rows.n + 4u * four;
    if FOURS && FROM == I8 {
        let w = bitcast<i32>(word(p.rows.x, sample, at >> 2u));
        return vec4((w << 24u) >> 24u, (w << 16u) >> 24u, (w << 8u) >> 24u, w >> 24u);
    }
    if FOURS && FROM == I16 {
        let low = bitcast<i32>(word(p.rows.x, sample, at >> 1u));
        let high = bitcast<i32>(word(p.rows.x, sample, (at >> 1u) + 1u));
        return vec4((low << 16u) >> 16u, low >> 16u, (high << 16u) >> 16u, high >> 16u);
    }
    var x: vec4<i32>;
    for (var i = 0u; i < 4u; i++) {
        x[i] = element(p.rows.x, sample, at + min(i, elements_of(four) - 1u));
    }
    return x;
}

// The maximum of a row of `x`.
fn row_maximum(sample: u32, row: u32, invocation: u32) -> i32 {
    var largest = vec4(bitcast<i32>(0x80000000u));
    for (var i = lane_of(invocation); i < fours(); i += SPAN) {
        largest = max(largest, four_of(sample, row, i));
    }
    let all = bitcast<vec4<i32>>(reduced(MAXIMUM, invocation, bitcast<vec4<u32>>(largest)));
    return max(max(all.x, all.y), max(all.z, all.w));
}

// Writes the four of whole rows.
fn write_four(sample: u32, row: u32, four: u32, stats: vec4<u32>) {
    let x = four_of(sample, row, four);
    let column = 4u * four;
    let y = vec4(
        value(x.x, column, stats),
        value(x.y, column + 1u, stats),
        value(x.z, column + 2u, stats),
        value(x.w, column + 3u, stats),
    );
    let at = row * p.rows.n + column;
    if TO == I8 {
        set_word(p.rows.out, sample, at >> 2u, packed_i8(y));
        return;
    }
    if TO == I16 {
        let words = packed_i16(y);
        set_word(p.rows.out, sample, at >> 1u, words.x);
        set_word(p.rows.out, sample, (at >> 1u) + 1u, words.y);
        return;
    }
    let count = elements_per_word(TO);
    for (var first = 0u; first < 4u; first += count) {
        var packed = 0u;
        for (var slot = 0u; slot < count; slot++) {
            packed |= placed(TO, slot, y[first + slot]);
        }
        set_word(p.rows.out, sample, (at + first) / count, packed);
    }
}

// Writes the word of the output at element `index`, which may begin in one row and end in another.
fn write_word(sample: u32, first: u32, index: u32, end: u32) {
    var row = index / p.rows.n;
    var column = index - row * p.rows.n;
    var packed = 0u;
    let count = elements_per_word(TO);
    for (var slot = 0u; slot < min(count, end - index); slot++) {
        let x = element(p.rows.x, sample, index + slot);
        packed |= placed(TO, slot, value(x, column, row_statistics[row - first]));
        column += 1u;
        if column == p.rows.n {
            column = 0u;
            row += 1u;
        }
    }
    set_word(p.rows.out, sample, index / count, packed);
}

fn run(sample: u32, group: u32, invocation: u32) {
    let first = group * ROWS;
    if first >= p.rows.rows {
        return;
    }
    // Invocations beyond the last row repeat it.
    let own = gathered(sample, min(first + invocation / SPAN, p.rows.rows - 1u), invocation);
    if lane_of(invocation) == 0u {
        row_statistics[invocation / SPAN] = own;
    }
    workgroupBarrier();
    if invocation < ROWS {
        row_statistics[invocation] = statistics(row_statistics[invocation]);
    }
    workgroupBarrier();
    if FOURS {
        let row = first + invocation / SPAN;
        if row < p.rows.rows {
            let stats = row_statistics[invocation / SPAN];
            for (var four = lane_of(invocation); four < fours(); four += SPAN) {
                write_four(sample, row, four, stats);
            }
        }
        return;
    }
    let count = elements_per_word(TO);
    let end = min(first + ROWS, p.rows.rows) * p.rows.n;
    for (var index = first * p.rows.n + invocation * count; index < end; index += INVOCATIONS * count) {
        write_word(sample, first, index, end);
    }
}
