// Strided copy whose views have runs of 16-byte words: one invocation per word. Dimensions and views count such words.

@group(0) @binding(0) var<storage, read_write> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    dims: array<u32, 6>,
    source: Extent,
    target_view: Extent,
}
@group(0) @binding(2) var<storage, read> p: Params;

const INVOCATIONS: u32 = 64u;

fn run(sample: u32, group: u32, invocation: u32) {
    let index = group * INVOCATIONS + invocation;
    if index >= p.len {
        return;
    }
    let at = position(p.dims, index);
    let source = view_index(p.source, at) + (p.x.base >> 2u);
    var copied: vec4<u32>;
    if p.x.constant == 1u {
        copied = weights[source];
    } else {
        copied = data[source + sample * (p.x.stride >> 2u)];
    }
    data[view_index(p.target_view, at) + ((p.out.base + sample * p.out.stride) >> 2u)] = copied;
}
