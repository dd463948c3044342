// Rows of a table by index. An index beyond the table is reported by operator, once per sample.

struct Params {
    elements: Elements,
    table: Tensor,
    ids: Tensor,
    fault: Tensor,
    op: u32,
    rows: u32,
    width: u32,
    n: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let signed = element(p.ids, sample, index / p.width);
    // Negative ids count from the end; those before the first row wrap around to large numbers.
    let id = bitcast<u32>(signed) + select(0u, p.rows, signed < 0);
    if id >= p.rows {
        // Operators run one after the other: the first to fault stays.
        if word(p.fault, sample, 0u) == 0u {
            set_word(p.fault, sample, 0u, p.op + 1u);
        }
        return 0;
    }
    return element(p.table, sample, id * p.width + index % p.width);
}
