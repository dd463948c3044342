// Shiftmax of rows: `i8` with scale 2^-7 or `u16` with scale 2^-15, values below one.

struct Params {
    rows: Rows,
    period: u32,
    halvings: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

// The exponential of an element below the row's maximum.
fn e_of(x: i32, largest: i32) -> vec2<u32> {
    return shift_exp(p.period, p.halvings, x - largest);
}

// The maximum and the clamped sum of exponentials.
fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    let largest = row_maximum(sample, row, invocation);
    var sum = 0u;
    for (var four = lane_of(invocation); four < fours(); four += SPAN) {
        let x = four_of(sample, row, four);
        for (var i = 0u; i < elements_of(four); i++) {
            sum = min(sum + clamped_to_one(e_of(x[i], largest)), IVIT_ONE);
        }
    }
    return vec4(bitcast<u32>(largest), reduced(CLAMPED_SUM, invocation, vec4(sum)).x, 0u, 0u);
}

// The maximum and the reciprocal of the sum.
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    return vec4(stats.x, IVIT_ONE / max(stats.y, 1u), 0u, 0u);
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    let bits = select(16u, 8u, TO == I8);
    let probability = share(e_of(x, bitcast<i32>(stats.x)), stats.y, 32u - bits);
    return bitcast<i32>(min(probability, (1u << (bits - 1u)) - 1u));
}
