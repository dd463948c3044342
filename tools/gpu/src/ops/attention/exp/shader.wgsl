// Exponentials of scores below their row's maximum: `[batch, heads, n_q, n_k] u8 | u16`.

struct Params {
    rows: Rows,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    return vec4(bitcast<u32>(row_maximum(sample, row, invocation)), 0u, 0u, 0u);
}

fn statistics(stats: vec4<u32>) -> vec4<u32> {
    return stats;
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    return bitcast<i32>(exponential(p.a, stats.x - bitcast<u32>(x)));
}
