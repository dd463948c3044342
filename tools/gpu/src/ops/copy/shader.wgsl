// Strided copy onto a contiguous output: each word of the output gathers its elements.

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

fn value(sample: u32, index: u32) -> i32 {
    let x = element(p.x, sample, view_index(p.source, position(p.dims, index)));
    // Elements keep their bytes: input and output may differ in sign only.
    let bits = 32u / elements_per_word(p.out.dtype);
    let flipped = bitcast<u32>(x) ^ p.flip;
    if p.out.dtype == I8 || p.out.dtype == I16 {
        return extractBits(bitcast<i32>(flipped), 0u, bits);
    }
    return bitcast<i32>(extractBits(flipped, 0u, bits));
}
