// Per row of a Shiftmax: the maximum and the reciprocal of the clamped sum of exponentials, as two words.

struct Params {
    x: Tensor,
    out: Tensor,
    rows: u32,
    n: u32,
    period: u32,
    halvings: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

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
        largest = max(largest, element(p.x, group.z, row * p.n + i));
    }
    largest = reduce_max(lane, vec4(largest)).x;
    var sum = 0u;
    for (var i = lane; i < p.n; i += 64u) {
        let e = shift_exp(p.period, p.halvings, element(p.x, group.z, row * p.n + i) - largest);
        sum = min(sum + clamped_to_one(e), IVIT_ONE);
    }
    sum = reduce_clamped_sum(lane, sum);
    if lane == 0u {
        set_word(p.out, group.z, row * 2u, bitcast<u32>(largest));
        set_word(p.out, group.z, row * 2u + 1u, IVIT_ONE / max(sum, 1u));
    }
}
