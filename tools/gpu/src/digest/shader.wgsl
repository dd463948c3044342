// Digests of all operator outputs of all samples: a workgroup per operator and sample.
//
// Each half is finish(length) + sum_i mix(word_i ^ (i * INDEX + seed)), so the words may come in any order.

const SEED_LOW: u32 = 0x2545f491u;
const SEED_HIGH: u32 = 0x8f1bbcdcu;
const INDEX: u32 = 0x9e3779b1u;

struct Params {
    out: Tensor,
    // First word of the table in `weights`: base, stride and bytes per operator.
    table: u32,
    ops: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn scrambled(value: u32) -> u32 {
    let a = (value ^ (value >> 16u)) * 0x85ebca6bu;
    let b = (a ^ (a >> 13u)) * 0xc2b2ae35u;
    return b ^ (b >> 16u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let op = group.y * groups.x + group.x;
    if op >= p.ops {
        return;
    }
    let bytes = weights[p.table + 3u * op + 2u];
    let source = Tensor(weights[p.table + 3u * op], weights[p.table + 3u * op + 1u], U8, 0u);
    var low = 0u;
    var high = 0u;
    for (var i = lane; i < ((bytes + 3u) >> 2u); i += 64u) {
        let value = word(source, group.z, i);
        low += scrambled(value ^ (i * INDEX + SEED_LOW));
        high += scrambled(value ^ (i * INDEX + SEED_HIGH));
    }
    let sums = reduce_sum(lane, vec4(low, high, 0u, 0u));
    if lane == 0u {
        set_word(p.out, group.z, 2u * op, sums.x + scrambled(bytes ^ SEED_LOW));
        set_word(p.out, group.z, 2u * op + 1u, sums.y + scrambled(bytes ^ SEED_HIGH));
    }
}
