// Windows in an image, as the file has them.

struct Window {
    in_h: u32,
    in_w: u32,
    out_h: u32,
    out_w: u32,
    kernel_h: u32,
    kernel_w: u32,
    stride_h: u32,
    stride_w: u32,
    pad_top: u32,
    pad_left: u32,
    dilation_h: u32,
    dilation_w: u32,
    channel_stride: u32,
    row_stride: u32,
    column_stride: u32,
    pad_value: i32,
}

const OUTSIDE: u32 = 0xffffffffu;

// Index of channel 0 under tap `tap` of the window at output pixel `pixel`; OUTSIDE where the tap is on padding.
fn tap_index(w: Window, pixel: u32, tap: u32) -> u32 {
    let y = bitcast<i32>((pixel / w.out_w) * w.stride_h + (tap / w.kernel_w) * w.dilation_h) - bitcast<i32>(w.pad_top);
    let x = bitcast<i32>((pixel % w.out_w) * w.stride_w + (tap % w.kernel_w) * w.dilation_w) - bitcast<i32>(w.pad_left);
    if y < 0 || x < 0 || y >= bitcast<i32>(w.in_h) || x >= bitcast<i32>(w.in_w) {
        return OUTSIDE;
    }
    return bitcast<u32>(y) * w.row_stride + bitcast<u32>(x) * w.column_stride;
}
