// One invocation makes one word of the output: as many elements as it holds, each by the operator's `value`.
//
// The operator declares `p` with `elements: Elements` first, and `value(sample, index) -> i32`.
// Bytes behind the last element become zero, as the digest takes them.

struct Elements {
    out: Tensor,
    len: u32,
}

const INVOCATIONS: u32 = 64u;

fn run(sample: u32, group: u32, invocation: u32) {
    let index = group * INVOCATIONS + invocation;
    let count = elements_per_word(p.elements.out.dtype);
    let first = index * count;
    if first >= p.elements.len {
        return;
    }
    var packed = 0u;
    for (var slot = 0u; slot < min(count, p.elements.len - first); slot++) {
        packed |= placed(p.elements.out.dtype, slot, value(sample, first + slot));
    }
    set_word(p.elements.out, sample, index, packed);
}
