// LayerNorm and RMSNorm behind a dense layer: the arithmetic of `ops/layer_norm/shader.wgsl`, where it is said.

struct Norm {
    Tensor out_;
    // Where the same goes once more, or absent.
    Tensor again;
    // Words from one row of each to the next.
    uint out_row;
    uint rms;
    uint eps_low;
    uint eps_high;
    Blob gamma;
    Blob beta;
};

// The squares of four 16-bit values: the sum of their low and that of their high halves.
uvec2 squares_of(ivec4 x) {
    const uvec4 squares = uvec4(x * x);
    const uvec4 low = squares & 0xffffu, high = squares >> 16;
    return uvec2(low.x + low.y + low.z + low.w, high.x + high.y + high.z + high.w);
}

uvec2 mul_u32(uint a, uint b) {
    uint high, low;
    umulExtended(a, b, high, low);
    return uvec2(low, high);
}

uvec2 add64(uvec2 a, uvec2 b) {
    const uint low = a.x + b.x;
    return uvec2(low, a.y + b.y + (low < a.x ? 1 : 0));
}

uvec2 sub64(uvec2 a, uvec2 b) {
    return uvec2(a.x - b.x, a.y - b.y - (a.x < b.x ? 1 : 0));
}

uvec2 shl64(uvec2 a, uint shift) {
    const uint s = shift & 31;
    if (shift >= 32) return uvec2(0, a.x << s);
    if (s == 0) return a;
    return uvec2(a.x << s, a.y << s | a.x >> 32 - s);
}

uvec2 shr64(uvec2 a, uint shift) {
    const uint s = shift & 31;
    if (shift >= 32) return uvec2(a.y >> s, 0);
    if (s == 0) return a;
    return uvec2(a.x >> s | a.y << 32 - s, a.y >> s);
}

// 2^29 / sqrt(m / 2^32)
uint reciprocal_sqrt(uint m) {
    const uint one = 1u << 29;
    uint r = 1181116006u - mul_u32(m, 644245094u).y;
    [[unroll]] for (uint step = 0; step < 4; step++) {
        const uint square = shr64(mul_u32(r, r), 29).x;
        const uint product = mul_u32(m, square).y;
        const uint factor = product <= 3 * one ? 3 * one - product : 0;
        r = shr64(mul_u32(r, factor), 30).x;
    }
    return r;
}

// The sum of the row, the reciprocal square root of the scaled variance, and the shift of the centred values; of the sum
// of `n` values and those of the halves of their squares.
uvec3 norm_statistics(Norm norm, uint n, uvec3 sums) {
    const int sum = norm.rms != 0 ? 0 : int(sums.x);
    const uvec2 squares = add64(shl64(uvec2(sums.z, 0), 16), uvec2(sums.y, 0));
    const uvec2 scaled = add64(mul_u32(squares.x, n), uvec2(0, squares.y * n));
    const uint magnitude = uint(abs(sum));
    const uvec2 variance = add64(sub64(scaled, mul_u32(magnitude, magnitude)), uvec2(norm.eps_low, norm.eps_high));
    if (variance == uvec2(0)) return uvec3(uint(sum), 0, 0);
    const int highest = variance.y != 0 ? 32 + findMSB(variance.y) : findMSB(variance.x);
    const int e = (highest >> 1) - 15;
    const uint m = e >= 0 ? shr64(variance, uint(2 * e)).x : shl64(variance, uint(-2 * e)).x;
    return uvec3(uint(sum), reciprocal_sqrt(m), uint(8 - e));
}

ivec4 normed(Norm norm, uint n, ivec4 x, uvec3 stats, ivec4 gamma, ivec4 beta) {
    const int shift = int(stats.z);
    const ivec4 centred = int(n) * x - int(stats.x);
    const ivec4 scaled = shift >= 0 ? centred << shift : centred >> -shift;
    const ivec4 y = mulhi_round(mulhi_round(scaled, ivec4(int(stats.y))), gamma) + beta;
    // Fractional bits of gamma and beta for each output width.
    return y >> (norm.out_.dtype == I8 ? 8 : 4);
}
