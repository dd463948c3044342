// Strided copy into any view of the output: one invocation per element, neighbours in a word by atomic bit operations.

@group(0) @binding(0) var<storage, read_write> data: array<atomic<u32>>;
@group(0) @binding(1) var<storage, read> weights: array<u32>;

struct Tensor {
    base: u32,
    stride: u32,
    dtype: u32,
    constant: u32,
}

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    dims: array<u32, 6>,
    source: Extent,
    target_view: Extent,
    flip: u32,
    partial: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn source_word(sample: u32, index: u32) -> u32 {
    if p.x.constant == 1u {
        return weights[p.x.base + index];
    }
    return atomicLoad(&data[p.x.base + sample * p.x.stride + index]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    if index >= p.len {
        return;
    }
    // log2 of the elements in a word, from the element type code.
    let per_word = select(select(2u, 1u, p.out.dtype >= 2u), 0u, p.out.dtype == 4u);
    let bits = 32u >> per_word;
    let slots = (1u << per_word) - 1u;
    let at = position(p.dims, index);
    let from_index = view_index(p.source, at);
    let to_index = view_index(p.target_view, at);
    let element = extractBits(source_word(group.z, from_index >> per_word), (from_index & slots) * bits, bits) ^ p.flip;
    let place = &data[p.out.base + group.z * p.out.stride + (to_index >> per_word)];
    if per_word == 0u {
        atomicStore(place, element);
        return;
    }
    let shift = (to_index & slots) * bits;
    atomicAnd(place, ~(((1u << bits) - 1u) << shift));
    atomicOr(place, element << shift);
}
