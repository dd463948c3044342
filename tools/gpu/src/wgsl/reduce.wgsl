// One reduction over the SPAN invocations of a row, in steps of eight; a workgroup of INVOCATIONS holds as many rows as
// fit. All invocations must call it, and may call it again.

// What is reduced: sums modulo 2^32, the maximum of signed values, or sums of values up to 2^31 - 1, clamped to
// 2^31 - 1. Clamping partial sums gives the same in any order: one that reaches the clamp keeps the total there.
const SUM: u32 = 0u;
const MAXIMUM: u32 = 1u;
const CLAMPED_SUM: u32 = 2u;

var<workgroup> reduce_all: array<vec4<u32>, INVOCATIONS>;
var<workgroup> reduce_eighths: array<vec4<u32>, INVOCATIONS / 8u>;

fn combined(how: u32, a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    switch how {
        case MAXIMUM: {
            return bitcast<vec4<u32>>(max(bitcast<vec4<i32>>(a), bitcast<vec4<i32>>(b)));
        }
        case CLAMPED_SUM: {
            return min(a + b, vec4(0x7fffffffu));
        }
        default: {
            return a + b;
        }
    }
}

fn reduced(how: u32, invocation: u32, value: vec4<u32>) -> vec4<u32> {
    reduce_all[invocation] = value;
    workgroupBarrier();
    if invocation < INVOCATIONS / 8u {
        var part = reduce_all[invocation * 8u];
        for (var i = 1u; i < 8u; i++) {
            part = combined(how, part, reduce_all[invocation * 8u + i]);
        }
        reduce_eighths[invocation] = part;
    }
    workgroupBarrier();
    let first = (invocation / SPAN) * (SPAN / 8u);
    var total = reduce_eighths[first];
    for (var i = 1u; i < SPAN / 8u; i++) {
        total = combined(how, total, reduce_eighths[first + i]);
    }
    return total;
}
