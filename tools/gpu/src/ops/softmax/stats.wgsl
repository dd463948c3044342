// Per row of a softmax: the greatest score and the scale that divides by the sum, as three words.

struct Params {
    x: Tensor,
    out: Tensor,
    rows: u32,
    n: u32,
    acc_shift: u32,
    multiplier: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn score(sample: u32, index: u32) -> i32 {
    return mulhi_round(element(p.x, sample, index) << p.acc_shift, p.multiplier);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.rows {
        return;
    }
    var largest = bitcast<i32>(0x80000000u);
    for (var i = lane; i < p.n; i += 64u) {
        largest = max(largest, score(group.z, row * p.n + i));
    }
    largest = reduce_max(lane, vec4(largest)).x;
    var sum = 0u;
    for (var i = lane; i < p.n; i += 64u) {
        sum += exp_u16(bitcast<u32>(largest - score(group.z, row * p.n + i)));
    }
    sum = reduce_sum(lane, vec4(sum)).x;
    if lane == 0u {
        // The ratio is one: the sums of a softmax are its weights.
        let scale = row_scale(sum, 1u << 14u, 14u);
        set_word(p.out, group.z, row * 3u, bitcast<u32>(largest));
        set_word(p.out, group.z, row * 3u + 1u, scale.x);
        set_word(p.out, group.z, row * 3u + 2u, scale.y);
    }
}
