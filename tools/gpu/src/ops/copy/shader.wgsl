// Strided copy onto a contiguous output: each word of the output gathers its elements.

struct Params {
    elements: Elements,
    x: Tensor,
    copy: Copy,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let x = element(p.x, sample, view_index(p.copy.source, position(p.copy.dims, index)));
    // Elements keep their bytes: input and output may differ in sign only.
    let dtype = p.elements.out.dtype;
    let bits = 32u / elements_per_word(dtype);
    let flipped = bitcast<u32>(x) ^ p.copy.flip;
    if dtype == I8 || dtype == I16 {
        return extractBits(bitcast<i32>(flipped), 0u, bits);
    }
    return bitcast<i32>(extractBits(flipped, 0u, bits));
}
