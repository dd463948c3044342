#version 460
#extension GL_GOOGLE_include_directive : require
#include "memory.glsl"

// Whether the elements of matrices lie in the invocations where `memory.glsl` says: word 0 is 1 where one does not, word 1
// is 1 once this has run. One subgroup.

layout(local_size_x = 32) in;
layout(set = 0, binding = 2) restrict readonly buffer Parameters { uint p[]; };
shared uvec4 mem[64];

void main() {
    const uint lane = gl_SubgroupInvocationID, row = lane >> 2, quarter = lane & 3;
    bool right = gl_SubgroupSize == 32 && gl_LocalInvocationIndex == lane;
    // Sums of their own place, row by row.
    for (uint i = lane; i < 64; i += 32) mem[i] = uvec4(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3);
    barrier();
    SUMS sums;
    coopMatLoad(sums, mem, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
    right = right && sums.length() == 8;
    [[unroll]] for (uint e = 0; e < 8; e++)
        right = right && sums[e] == int(16 * (row + 8 * (e >> 2)) + 8 * (e >> 1 & 1) + 2 * quarter + (e & 1));
    barrier();
    // Bytes of their row, then of their column.
    for (uint turn = 0; turn < 2; turn++) {
        uvec4 words;
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint column = 16 * (lane & 1) + 4 * i;
            words[i] = turn == 0 ? 0x01010101u * (lane >> 1) : 0x03020100u + 0x01010101u * column;
        }
        mem[lane] = words;
        barrier();
        LEFT left;
        coopMatLoad(left, mem, 0, 2, gl_CooperativeMatrixLayoutRowMajor);
        right = right && left.length() == 16;
        [[unroll]] for (uint e = 0; e < 16; e++) {
            const uint wanted = turn == 0 ? row + 8 * (e >> 3) : 16 * (e >> 2 & 1) + 4 * quarter + (e & 3);
            right = right && int(left[e]) == int(wanted);
        }
        barrier();
    }
    if (!right) data[0] = 1;
    if (lane == 0) data[1] = 1;
}
