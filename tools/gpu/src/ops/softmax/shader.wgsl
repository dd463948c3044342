// Softmax of rows: `i8` with scale 2^-7 or `i16` with scale 2^-15.

struct Params {
    rows: Rows,
    acc_shift: u32,
    multiplier: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn score(x: i32) -> i32 {
    return mulhi_round(x << p.acc_shift, p.multiplier);
}

// The maximum score and the sum of exponentials.
fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    // Scores grow with their elements: the multiplier is positive.
    let largest = score(row_maximum(sample, row, invocation));
    var sum = 0u;
    for (var four = lane_of(invocation); four < fours(); four += SPAN) {
        let x = four_of(sample, row, four);
        for (var i = 0u; i < elements_of(four); i++) {
            sum += exp_u16(bitcast<u32>(largest - score(x[i])));
        }
    }
    return vec4(bitcast<u32>(largest), reduced(SUM, invocation, vec4(sum)).x, 0u, 0u);
}

// The maximum and the scale that divides by the sum. The ratio is one: the sums of a softmax are its weights.
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    return vec4(stats.x, row_scale(stats.y, 1u << 14u, 14u), 0u);
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    let e = bitcast<i32>(exp_u16(stats.x - bitcast<u32>(score(x))));
    return apply_row_scale(stats.yz, e << select(15u, 7u, TO == I8));
}
