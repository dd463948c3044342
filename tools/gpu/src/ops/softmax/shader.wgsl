// Softmax of rows: `i8` with scale 2^-7 or `i16` with scale 2^-15.

struct Params {
    rows: Rows,
    acc_shift: u32,
    multiplier: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn score(sample: u32, index: u32) -> i32 {
    return mulhi_round(element(p.rows.x, sample, index) << p.acc_shift, p.multiplier);
}

// The maximum score and the sum of exponentials.
fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    // Scores grow with their elements: the multiplier is positive.
    let largest = mulhi_round(row_maximum(sample, row, invocation) << p.acc_shift, p.multiplier);
    var sum = 0u;
    for (var i = lane_of(invocation); i < p.rows.n; i += SPAN) {
        sum += exp_u16(bitcast<u32>(largest - score(sample, row * p.rows.n + i)));
    }
    return vec4(bitcast<u32>(largest), reduced(SUM, invocation, vec4(sum)).x, 0u, 0u);
}

// The maximum and the scale that divides by the sum. The ratio is one: the sums of a softmax are its weights.
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    return vec4(stats.x, row_scale(stats.y, 1u << 14u, 14u), 0u);
}

fn value(sample: u32, index: u32, column: u32, stats: vec4<u32>) -> i32 {
    let e = bitcast<i32>(exp_u16(stats.x - bitcast<u32>(score(sample, index))));
    return apply_row_scale(stats.yz, e << select(15u, 7u, p.rows.out.dtype == I8));
}
