// Strided copy into any view of the output: one invocation per element, neighbours in a word by atomic bit operations.

@group(0) @binding(0) var<storage, read_write> data: array<atomic<u32>>;
@group(0) @binding(1) var<storage, read> weights: array<u32>;

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    copy: Copy,
}
@group(0) @binding(2) var<storage, read> p: Params;

const INVOCATIONS: u32 = 64u;

fn source_word(sample: u32, index: u32) -> u32 {
    if p.x.constant == 1u {
        return weights[p.x.base + index];
    }
    return atomicLoad(&data[p.x.base + sample * p.x.stride + index]);
}

fn run(sample: u32, group: u32, invocation: u32) {
    let index = group * INVOCATIONS + invocation;
    if index >= p.len {
        return;
    }
    let per_word = elements_per_word(p.out.dtype);
    let bits = 32u / per_word;
    let at = position(p.copy.dims, index);
    let from_index = view_index(p.copy.source, at);
    let to_index = view_index(p.copy.target_view, at);
    let source = source_word(sample, from_index / per_word);
    let element = extractBits(source, (from_index % per_word) * bits, bits) ^ p.copy.flip;
    let place = &data[p.out.base + sample * p.out.stride + to_index / per_word];
    if per_word == 1u {
        atomicStore(place, element);
        return;
    }
    let shift = (to_index % per_word) * bits;
    atomicAnd(place, ~(((1u << bits) - 1u) << shift));
    atomicOr(place, element << shift);
}
