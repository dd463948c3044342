// Packed weights of dense layers, one function per format: see `wgsl/dense.wgsl`.

struct Dense {
    uint weight_bits;
    uint acc_shift;
    int zero_point;
    Blob weights;
    Blob bias;
    Blob multipliers;
    Blob lut;
};

uint widened(uint low) {
    const uint nibbles = low & 0x0f0f0f0fu;
    return nibbles | (nibbles & 0x08080808u) * 0x1eu;
}

// The sixteen weights of `channel` in group `group` of K, of `groups`.
uvec4 sixteen_weights(Dense dense, uint groups, uint channel, uint group) {
    const uint at = ((channel >> 2) * groups + group) * 4 + (channel & 3);
    if (dense.weight_bits == 8) return weights4[(dense.weights.offset >> 4) + at];
    const uvec2 packed = weights2[(dense.weights.offset >> 3) + at];
    return uvec4(widened(packed.x), widened(packed.y), widened(packed.x >> 4), widened(packed.y >> 4));
}
