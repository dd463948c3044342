// Rows of a table by position.

struct Params {
    elements: Elements,
    table: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    rows: u32,
    width: u32,
    capacity: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    // Rows beyond those of the run may have no position: nobody looks at them.
    let row = min(word(p.step, sample, 0u) + index / p.width, p.capacity - 1u);
    return element(p.table, sample, row * p.width + index % p.width);
}
