// Gathers windows as `gather.wgsl` does, where a row of a window is whole words of each channel: an invocation has four
// columns of all channels.

override CHANNELS: u32 = 1u;

struct Params {
    gathered: Tensor,
    x: Tensor,
    quads: u32,
    conv: Conv2d,
}
@group(0) @binding(2) var<storage, read> p: Params;

const INVOCATIONS: u32 = 64u;

fn run(sample: u32, group: u32, invocation: u32) {
    let index = group * INVOCATIONS + invocation;
    if index >= p.quads {
        return;
    }
    let w = p.conv.window;
    let in_row = w.kernel_w / 4u;
    let row = index / in_row;
    let pixel = row / w.kernel_h;
    let y = (pixel / w.out_w) * w.stride_h + row % w.kernel_h;
    let x = (pixel % w.out_w) * w.stride_w + (index % in_row) * 4u;
    var columns: array<u32, 4>;
    for (var c = 0u; c < CHANNELS; c++) {
        columns[c] = word(p.x, sample, (y * w.row_stride + x + c * w.channel_stride) >> 2u);
    }
    for (var i = 0u; i < CHANNELS; i++) {
        var packed = 0u;
        for (var byte = 0u; byte < 4u; byte++) {
            let at = 4u * i + byte;
            packed |= ((columns[at % CHANNELS] >> ((at / CHANNELS) * 8u)) & 0xffu) << (8u * byte);
        }
        set_word(p.gathered, sample, index * CHANNELS + i, packed);
    }
}
