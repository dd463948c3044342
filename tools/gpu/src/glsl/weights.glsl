// Packed weights of dense layers, one reader per weight format: see `wgsl/dense.wgsl`. Each reads the sixteen weights with
// number `at` of the layer whose weights start at byte `offset`.

struct Dense {
    uint format;
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

uvec4 weights_i8(uint offset, uint at) {
    return weights4[(offset >> 4) + at];
}

uvec4 weights_i4(uint offset, uint at) {
    const uvec2 packed = weights2[(offset >> 3) + at];
    return uvec4(widened(packed.x), widened(packed.y), widened(packed.x >> 4), widened(packed.y >> 4));
}
