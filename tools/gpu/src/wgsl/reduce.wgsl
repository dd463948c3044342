// Reductions over the 64 invocations of a workgroup that has one row. All invocations must call them.

var<workgroup> reduce_words: array<u32, 64>;

fn reduce_max(lane: u32, value: i32) -> i32 {
    reduce_words[lane] = bitcast<u32>(value);
    for (var half = 32u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if lane < half {
            let other = bitcast<i32>(reduce_words[lane + half]);
            reduce_words[lane] = bitcast<u32>(max(bitcast<i32>(reduce_words[lane]), other));
        }
    }
    let result = workgroupUniformLoad(&reduce_words[0]);
    return bitcast<i32>(result);
}

fn reduce_sum(lane: u32, value: u32) -> u32 {
    reduce_words[lane] = value;
    for (var half = 32u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if lane < half {
            reduce_words[lane] = reduce_words[lane] + reduce_words[lane + half];
        }
    }
    return workgroupUniformLoad(&reduce_words[0]);
}

// The sum of values up to 2^31 - 1, clamped to 2^31 - 1: in any order the same.
fn reduce_clamped_sum(lane: u32, value: u32) -> u32 {
    reduce_words[lane] = value;
    for (var half = 32u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if lane < half {
            reduce_words[lane] = min(reduce_words[lane] + reduce_words[lane + half], 0x7fffffffu);
        }
    }
    return workgroupUniformLoad(&reduce_words[0]);
}
