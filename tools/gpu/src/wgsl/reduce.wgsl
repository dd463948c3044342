// Reductions over the 64 invocations of a workgroup that has one row, in two steps of eight. All invocations must call
// them, and may call them again.

var<workgroup> reduce_all: array<vec4<u32>, 64>;
var<workgroup> reduce_eighths: array<vec4<u32>, 8>;

fn reduce_sum(lane: u32, value: vec4<u32>) -> vec4<u32> {
    reduce_all[lane] = value;
    workgroupBarrier();
    if lane < 8u {
        var sum = vec4<u32>(0u);
        for (var i = 0u; i < 8u; i++) {
            sum += reduce_all[lane * 8u + i];
        }
        reduce_eighths[lane] = sum;
    }
    workgroupBarrier();
    var total = vec4<u32>(0u);
    for (var i = 0u; i < 8u; i++) {
        total += reduce_eighths[i];
    }
    return total;
}

fn reduce_max(lane: u32, value: vec4<i32>) -> vec4<i32> {
    reduce_all[lane] = bitcast<vec4<u32>>(value);
    workgroupBarrier();
    if lane < 8u {
        var largest = bitcast<vec4<i32>>(reduce_all[lane * 8u]);
        for (var i = 1u; i < 8u; i++) {
            largest = max(largest, bitcast<vec4<i32>>(reduce_all[lane * 8u + i]));
        }
        reduce_eighths[lane] = bitcast<vec4<u32>>(largest);
    }
    workgroupBarrier();
    var total = bitcast<vec4<i32>>(reduce_eighths[0]);
    for (var i = 1u; i < 8u; i++) {
        total = max(total, bitcast<vec4<i32>>(reduce_eighths[i]));
    }
    return total;
}

// The sum of values up to 2^31 - 1, clamped to 2^31 - 1. Clamping partial sums gives the same in any order: one that
// reaches the clamp keeps the total there.
fn reduce_clamped_sum(lane: u32, value: u32) -> u32 {
    reduce_all[lane] = vec4(value, 0u, 0u, 0u);
    workgroupBarrier();
    if lane < 8u {
        var sum = 0u;
        for (var i = 0u; i < 8u; i++) {
            sum = min(sum + reduce_all[lane * 8u + i].x, 0x7fffffffu);
        }
        reduce_eighths[lane].x = sum;
    }
    workgroupBarrier();
    var total = 0u;
    for (var i = 0u; i < 8u; i++) {
        total = min(total + reduce_eighths[i].x, 0x7fffffffu);
    }
    return total;
}
