// Operators over whole rows: statistics of each row, then its elements. Memory is read once: the elements' second look
// at the row meets the cache.
//
// A workgroup takes four rows, which start and end at whole words whatever their width, with SPAN invocations for each.
// The operator declares `p` with `rows: Rows` first, and
// - `gathered(sample, row, invocation) -> vec4<u32>`: reductions over the row, the same for all invocations of it,
// - `statistics(gathered) -> vec4<u32>`: what the elements need of them, made once per row,
// - `value(sample, index, column, statistics) -> i32`: one element.

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

// The maximum of a row of `x`.
fn row_maximum(sample: u32, row: u32, invocation: u32) -> i32 {
    var largest = bitcast<i32>(0x80000000u);
    for (var i = lane_of(invocation); i < p.rows.n; i += SPAN) {
        largest = max(largest, element(p.rows.x, sample, row * p.rows.n + i));
    }
    return bitcast<i32>(reduced(MAXIMUM, invocation, vec4(bitcast<u32>(largest))).x);
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
    let count = elements_per_word(p.rows.out.dtype);
    let end = min(first + ROWS, p.rows.rows) * p.rows.n;
    for (var index = first * p.rows.n + invocation * count; index < end; index += INVOCATIONS * count) {
        var row = index / p.rows.n;
        var column = index - row * p.rows.n;
        var packed = 0u;
        for (var slot = 0u; slot < min(count, end - index); slot++) {
            let y = value(sample, index + slot, column, row_statistics[row - first]);
            packed |= placed(p.rows.out.dtype, slot, y);
            column += 1u;
            if column == p.rows.n {
                column = 0u;
                row += 1u;
            }
        }
        set_word(p.rows.out, sample, index / count, packed);
    }
}
