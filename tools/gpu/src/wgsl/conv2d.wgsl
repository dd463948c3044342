// Parameters of a convolution over gathered windows, as the file has them up to its weights.

struct Conv2d {
    // Bytes from one gathered window to the next.
    padded_k: u32,
    window: Window,
    channels: u32,
    groups: u32,
    n: u32,
}
