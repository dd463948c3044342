// Max pooling, or average pooling where there are multipliers (one per count of elements inside the image).

struct Params {
    elements: Elements,
    x: Tensor,
    window: Window,
    channels: u32,
    acc_shift: u32,
    zero_point: i32,
    multipliers: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.channels;
    let channel = index % p.channels;
    var largest = -128i;
    var sum = 0i;
    var count = 0u;
    for (var tap = 0u; tap < p.window.kernel_h * p.window.kernel_w; tap++) {
        let at = tap_index(p.window, pixel, tap);
        if at != OUTSIDE {
            let x = element_i8(p.x, sample, at + channel * p.window.channel_stride);
            largest = max(largest, x);
            sum += x - p.window.pad_value;
            count++;
        }
    }
    if p.multipliers.bytes == 0u {
        return largest;
    }
    let multiplier = blob_i32(p.multipliers, max(count, 1u) - 1u);
    return p.zero_point + mulhi_round(sum << p.acc_shift, multiplier);
}
