// Digests of all operator outputs of all samples: a workgroup per operator and sample.
//
// Each half is finish(length) + sum_i mix(word_i ^ (i * INDEX + seed)), so the words may come in any order.

const SEED_LOW: u32 = 0x2545f491u;
const SEED_HIGH: u32 = 0x8f1bbcdcu;
const INDEX: u32 = 0x9e3779b1u;

const INVOCATIONS: u32 = 64u;
const SPAN: u32 = INVOCATIONS;

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

fn scrambled4(value: vec4<u32>) -> vec4<u32> {
    return vec4(scrambled(value.x), scrambled(value.y), scrambled(value.z), scrambled(value.w));
}

fn sum_of(v: vec4<u32>) -> u32 {
    return v.x + v.y + v.z + v.w;
}

fn run(sample: u32, group: u32, invocation: u32) {
    if group >= p.ops {
        return;
    }
    let entry = p.table + 3u * group;
    let bytes = weights[entry + 2u];
    let source = Tensor(weights[entry], weights[entry + 1u], U8, 0u);
    var low = 0u;
    var high = 0u;
    let words = (bytes + 3u) >> 2u;
    // Four at a time: loads that wait together.
    var i = invocation;
    for (; i + 3u * INVOCATIONS < words; i += 4u * INVOCATIONS) {
        let at = vec4(i, i + INVOCATIONS, i + 2u * INVOCATIONS, i + 3u * INVOCATIONS);
        let value = vec4(
            word(source, sample, at.x),
            word(source, sample, at.y),
            word(source, sample, at.z),
            word(source, sample, at.w),
        );
        low += sum_of(scrambled4(value ^ (at * INDEX + vec4(SEED_LOW))));
        high += sum_of(scrambled4(value ^ (at * INDEX + vec4(SEED_HIGH))));
    }
    for (; i < words; i += INVOCATIONS) {
        let value = word(source, sample, i);
        low += scrambled(value ^ (i * INDEX + SEED_LOW));
        high += scrambled(value ^ (i * INDEX + SEED_HIGH));
    }
    let sums = reduced(SUM, invocation, vec4(low, high, 0u, 0u));
    if invocation == 0u {
        set_word(p.out, sample, 2u * group, sums.x + scrambled(bytes ^ SEED_LOW));
        set_word(p.out, sample, 2u * group + 1u, sums.y + scrambled(bytes ^ SEED_HIGH));
    }
}
