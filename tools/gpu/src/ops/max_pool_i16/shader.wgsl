// Max pooling of a 16-bit image.

struct Params {
    elements: Elements,
    x: Tensor,
    window: Window,
    channels: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pixel = index / p.channels;
    let channel = index % p.channels;
    var largest = -32768i;
    for (var tap = 0u; tap < p.window.kernel_h * p.window.kernel_w; tap++) {
        let at = tap_index(p.window, pixel, tap);
        if at != OUTSIDE {
            largest = max(largest, element_i16(p.x, sample, at + channel * p.window.channel_stride));
        }
    }
    return largest;
}
