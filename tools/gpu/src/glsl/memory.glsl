// Tensors of a batch of samples as words, pairs and quads of them, for shaders on cooperative matrices of signed bytes.
// What `Tensor`, `Blob` and the element types mean is said in `wgsl/tensor.wgsl` and `wgsl/memory.wgsl`.
//
// Matrices are 16 x 32 times 32 x 16 to 16 x 16 sums of 32 bits; a subgroup has 32 invocations. They are loaded from
// arrays of `uvec4` with strides in `uvec4`: no shader needs storage of single bytes.
//
// KHR does not say which invocation holds which element. These shaders know it all the same: `matrix::probe` asks the
// device, and they run only where it is so. Invocation `lane` has, with g = lane / 4 and q = lane % 4,
// - of sums: rows g (elements 0 to 3) and g + 8 (4 to 7), columns 2 q, 2 q + 1, 8 + 2 q, 9 + 2 q;
// - of a left matrix: rows g (0 to 7) and g + 8 (8 to 15), columns 4 q to 4 q + 3, then 16 more.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int32 : require
#extension GL_EXT_control_flow_attributes : require
#pragma use_vulkan_memory_model

layout(set = 0, binding = 0) buffer Data { uint data[]; };
layout(set = 0, binding = 0) buffer Data2 { uvec2 data2[]; };
layout(set = 0, binding = 0) buffer Data4 { uvec4 data4[]; };
layout(set = 0, binding = 1) readonly buffer Weights { uint weights[]; };
layout(set = 0, binding = 1) readonly buffer Weights2 { uvec2 weights2[]; };
layout(set = 0, binding = 1) readonly buffer Weights4 { uvec4 weights4[]; };

const uint I8 = 0;
const uint I16 = 2;
const uint I32 = 4;

struct Tensor {
    uint base;
    uint stride;
    uint dtype;
    uint constant;
};

struct Blob {
    uint offset;
    uint bytes;
};

#define SUMS coopmat<int32_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define LEFT coopmat<int8_t, gl_ScopeSubgroup, 16, 32, gl_MatrixUseA>
#define RIGHT coopmat<int8_t, gl_ScopeSubgroup, 32, 16, gl_MatrixUseB>

// Workgroup memory written by a subgroup is seen by the rest of it.
void subgroup_barrier() {
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

// round_half_up(a * b / 2^32)
int mulhi_round(int a, int b) {
    int high, low;
    imulExtended(a, b, high, low);
    return high + int(uint(low) >> 31);
}

ivec4 mulhi_round(ivec4 a, ivec4 b) {
    return ivec4(mulhi_round(a.x, b.x), mulhi_round(a.y, b.y), mulhi_round(a.z, b.z), mulhi_round(a.w, b.w));
}

// Four values of 8 bits as the word of a tensor.
uint joined_i8(ivec4 values) {
    const uvec4 bytes = uvec4(values) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}

// Four values, saturated, as the word of an 8-bit tensor.
uint packed_i8(ivec4 values) {
    return joined_i8(clamp(values, ivec4(-128), ivec4(127)));
}

// Four values, saturated, as two words of a 16-bit tensor.
uvec2 packed_i16(ivec4 values) {
    const uvec4 halves = uvec4(clamp(values, ivec4(-32768), ivec4(32767))) & 0xffffu;
    return uvec2(halves.x | halves.y << 16, halves.z | halves.w << 16);
}
