//! Cooperative matrices of signed bytes: integer tensor cores through `VK_KHR_cooperative_matrix`.
//!
//! wgpu knows such matrices for floats only, so these shaders are SPIR-V that it passes through to the driver. What they
//! need is asked of the adapter here, once; where anything is missing, every operator runs on packed products instead,
//! with the same bytes. Sums of signed bytes in 32 bits are exact by the extension's definition.

use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::step::{Constants, Shader, matrix_shader};

/// What wgpu must let through.
pub const FEATURES: wgpu::Features =
    wgpu::Features::PASSTHROUGH_SHADERS.union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// Invocations of a subgroup, which the shaders count on.
const SUBGROUP: u32 = 32;
/// Bytes of workgroup memory of the largest shader (a dense layer with its norm, 16 by 192).
const WORKGROUP_BYTES: u32 = 44_800;

/// Whether the shaders on cooperative matrices run on this adapter, or why not.
pub fn available(adapter: &wgpu::Adapter) -> Result<(), &'static str> {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    if info.backend != wgpu::Backend::Vulkan {
        return Err("not a Vulkan driver");
    }
    if !adapter.features().contains(FEATURES) {
        return Err("the driver has no cooperative matrices");
    }
    if (info.subgroup_min_size, info.subgroup_max_size) != (SUBGROUP, SUBGROUP) {
        return Err("subgroups are not of 32 invocations");
    }
    if limits.max_compute_workgroup_storage_size < WORKGROUP_BYTES {
        return Err("too little workgroup memory");
    }
    signed_bytes(adapter)
}

/// Whether the driver multiplies 16 x 32 by 32 x 16 signed bytes into 32-bit sums within a subgroup.
#[cfg(not(target_vendor = "apple"))]
fn signed_bytes(adapter: &wgpu::Adapter) -> Result<(), &'static str> {
    use ash::vk;
    // SAFETY: nothing is destroyed through the handles, and the adapter outlives them.
    let Some(hal) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return Err("not a Vulkan driver");
    };
    let shared = hal.shared_instance();
    let asked = ash::khr::cooperative_matrix::Instance::new(shared.entry(), shared.raw_instance());
    // SAFETY: the physical device belongs to this instance, and the driver has the extension: wgpu offers
    // EXPERIMENTAL_COOPERATIVE_MATRIX, which `available` asks for first, only where it does.
    let listed = unsafe { asked.get_physical_device_cooperative_matrix_properties(hal.raw_physical_device()) };
    let wanted = |p: &vk::CooperativeMatrixPropertiesKHR<'_>| {
        (p.m_size, p.n_size, p.k_size) == (16, 16, 32)
            && (p.a_type, p.b_type) == (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT8)
            && (p.c_type, p.result_type) == (vk::ComponentTypeKHR::SINT32, vk::ComponentTypeKHR::SINT32)
            && p.saturating_accumulation == vk::FALSE
            && p.scope == vk::ScopeKHR::SUBGROUP
    };
    match listed {
        Ok(listed) if listed.iter().any(wanted) => Ok(()),
        Ok(_) => Err("the driver has no cooperative matrices of signed bytes, 16 x 16 x 32"),
        Err(_) => Err("the driver does not list its cooperative matrices"),
    }
}

#[cfg(target_vendor = "apple")]
fn signed_bytes(_adapter: &wgpu::Adapter) -> Result<(), &'static str> {
    Err("not a Vulkan driver")
}

/// Consent to wgpu's experimental features.
pub fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: the one experimental feature asked for is that of cooperative matrices, of which wgpu only enables the
    // extension: the shaders that use it do not pass through its compiler.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// The module of a shader on a device with [`FEATURES`].
pub fn module(device: &wgpu::Device, name: &'static str, binary: &[u8], invocations: u32) -> wgpu::ShaderModule {
    // SAFETY: the words are those that `spirv-val` has accepted (`tools/gpu/matrices.py`); a test compares them with the
    // list of what was made from which text. They want what `available` has asked for, and bind what `Gpu` lays out.
    // Indices into buffers are proven like those of the other shaders, see `Gpu::module`.
    unsafe {
        device.create_shader_module_passthrough(wgpu::ShaderModuleDescriptorPassthrough {
            label: Some(name),
            entry_points: vec![wgpu::PassthroughShaderEntryPoint {
                name: "main".into(),
                workgroup_size: (invocations, 1, 1),
            }]
            .into(),
            spirv: Some(wgpu::util::make_spirv_raw(binary)),
            ..Default::default()
        })
    }
}

static PROBE: Shader = matrix_shader!("matrix probe", "matrix/probe.spv", 32);
/// Bytes of the buffers that it binds.
const PROBE_BYTES: u64 = 512;

/// Whether elements of matrices lie in the invocations where the shaders look for them: KHR leaves that to the driver.
///
/// # Errors
/// [`GpuError::Driver`].
pub fn elements_lie_as_known(gpu: &Gpu) -> Result<bool, GpuError> {
    let pipeline = gpu.pipeline(&PROBE, &Constants::new())?;
    let found = gpu.checked(|device| {
        let buffer = |usage| {
            let descriptor =
                wgpu::BufferDescriptor { label: Some("probe"), size: PROBE_BYTES, usage, mapped_at_creation: false };
            device.create_buffer(&descriptor)
        };
        let usages = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let [data, constants] = [buffer(usages), buffer(usages)];
        let found = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let binding = |binding, buffer| {
            let size = PROBE_BYTES.try_into().ok();
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
            wgpu::BindGroupEntry { binding, resource }
        };
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &gpu.bindings,
            entries: &[binding(0, &data), binding(1, &constants), binding(2, &constants)],
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bindings, &[0]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&data, 0, &found, 0, PROBE_BYTES);
        gpu.queue.submit([encoder.finish()]);
        found
    })?;
    let words = gpu.mapped(&found, PROBE_BYTES, None)?;
    // Word 0: one lies elsewhere. Word 1: the probe has run.
    Ok(words.first_chunk() == Some(&[0, 0, 0, 0, 1, 0, 0, 0]))
}

#[cfg(test)]
mod tests;
