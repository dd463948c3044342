// Any function of one 8-bit tensor, as a table of 256 entries of the output's type.

struct Params {
    elements: Elements,
    x: Tensor,
    n: u32,
    table: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let entry = bitcast<u32>(element_i8(p.x, sample, index) + 128);
    if p.elements.out.dtype == I8 {
        return blob_i8(p.table, entry);
    }
    return blob_i16(p.table, entry);
}
