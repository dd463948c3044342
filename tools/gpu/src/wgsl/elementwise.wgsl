// One invocation makes one word of the output: as many elements as it holds, each by the operator's `value`.
//
// The operator declares `p` with `out: Tensor` and `len: u32` (elements), and `value(sample, index) -> i32`.
// Bytes behind the last element become zero, as the digest takes them.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let count = elements_per_word(p.out.dtype);
    let first = index * count;
    if first >= p.len {
        return;
    }
    var packed = 0u;
    for (var slot = 0u; slot < min(count, p.len - first); slot++) {
        packed |= placed(p.out.dtype, slot, value(group.z, first + slot));
    }
    set_word(p.out, group.z, index, packed);
}
