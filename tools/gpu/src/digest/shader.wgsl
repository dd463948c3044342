// Digests of all operator outputs of all samples: a workgroup per operator and sample.
//
// Each half is finish(length) + sum_i mix(word_i ^ (i * INDEX + seed)), so the words may come in any order.

const SEED_LOW: u32 = 0x2545f491u;
const SEED_HIGH: u32 = 0x8f1bbcdcu;
const INDEX: u32 = 0x9e3779b1u;

@group(0) @binding(0) var<storage, read_write> data: array<vec4<u32>>;
// The model's `Weights` section, then the table.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

const INVOCATIONS: u32 = 256u;
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

// `INDEX` times the numbers of the words of 16-byte word `quad`.
fn indices(quad: u32) -> vec4<u32> {
    return (vec4(4u * quad) + vec4(0u, 1u, 2u, 3u)) * INDEX;
}

fn mixed(value: vec4<u32>, index: vec4<u32>, seed: u32) -> vec4<u32> {
    return scrambled4(value ^ (index + vec4(seed)));
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
    // A region starts at a multiple of four words and is a multiple of them long.
    let first = (weights[entry] + sample * weights[entry + 1u]) >> 2u;
    let words = (bytes + 3u) >> 2u;
    let quads = words >> 2u;
    var low = vec4<u32>(0u);
    var high = vec4<u32>(0u);
    // Four at a time: loads that wait together.
    var i = invocation;
    for (; i + 3u * INVOCATIONS < quads; i += 4u * INVOCATIONS) {
        let a = data[first + i];
        let b = data[first + i + INVOCATIONS];
        let c = data[first + i + 2u * INVOCATIONS];
        let d = data[first + i + 3u * INVOCATIONS];
        low += mixed(a, indices(i), SEED_LOW) + mixed(b, indices(i + INVOCATIONS), SEED_LOW);
        low += mixed(c, indices(i + 2u * INVOCATIONS), SEED_LOW) + mixed(d, indices(i + 3u * INVOCATIONS), SEED_LOW);
        high += mixed(a, indices(i), SEED_HIGH) + mixed(b, indices(i + INVOCATIONS), SEED_HIGH);
        high += mixed(c, indices(i + 2u * INVOCATIONS), SEED_HIGH) + mixed(d, indices(i + 3u * INVOCATIONS), SEED_HIGH);
    }
    for (; i < quads; i += INVOCATIONS) {
        let value = data[first + i];
        low += mixed(value, indices(i), SEED_LOW);
        high += mixed(value, indices(i), SEED_HIGH);
    }
    var sum = vec2(sum_of(low), sum_of(high));
    if invocation < (words & 3u) {
        let index = 4u * quads + invocation;
        let value = data[first + quads][invocation];
        sum += vec2(scrambled(value ^ (index * INDEX + SEED_LOW)), scrambled(value ^ (index * INDEX + SEED_HIGH)));
    }
    let sums = reduced(SUM, invocation, vec4(sum, 0u, 0u));
    if invocation == 0u {
        let place = p.out.base + sample * p.out.stride + 2u * group;
        data[place >> 2u][place & 3u] = sums.x + scrambled(bytes ^ SEED_LOW);
        data[place >> 2u][(place & 3u) + 1u] = sums.y + scrambled(bytes ^ SEED_HIGH);
    }
}
