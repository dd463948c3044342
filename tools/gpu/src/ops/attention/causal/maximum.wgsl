// The maximum of the scores of a row.

struct Params {
    elements: Elements,
    scores: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    // Keys that a row sees.
    window: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let seen = seen_keys(p.a, word(p.step, sample, 0u) + unit_of(p.a, index).row, p.window);
    var greatest = bitcast<i32>(0x80000000u);
    for (var key = seen.x; key < seen.y; key++) {
        greatest = max(greatest, element(p.scores, sample, index * p.a.n_k + key));
    }
    return greatest;
}
