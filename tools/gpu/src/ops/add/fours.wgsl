// Sum of two tensors of 8 or 16 bits, element by element as they lie: four per invocation.

override A: u32 = 0u;
override B: u32 = 0u;
override TO: u32 = 0u;

struct Params {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    fours: u32,
    ma: i32,
    mb: i32,
    bias: i32,
    shift: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

const INVOCATIONS: u32 = 64u;

fn run(sample: u32, group: u32, invocation: u32) {
    let index = group * INVOCATIONS + invocation;
    if index >= p.fours {
        return;
    }
    let sum = four_at(p.a, A, sample, index) * p.ma + four_at(p.b, B, sample, index) * p.mb + vec4(p.bias);
    set_four(p.out, TO, sample, index, sum >> vec4(p.shift));
}
