// Rows of a run into the state. An invocation writes words of its own, those of other rows as they are.

struct Params {
    elements: Elements,
    x: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    rows: u32,
    width: u32,
    capacity: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    // Rows behind that of the position, the first one behind the last.
    let first = word(p.step, sample, 0u) % p.capacity;
    let row = (index / p.width + p.capacity - first) % p.capacity;
    if row < word(p.step, sample, 1u) {
        return element_i8(p.x, sample, row * p.width + index % p.width);
    }
    return element_i8(p.elements.out, sample, index);
}
