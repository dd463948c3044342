//! Adapters, the device, and the cache of pipelines.

use crate::error::GpuError;
use crate::step::{Constants, Products, Shader};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Which adapter to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The fastest kind there is: discrete before integrated before virtual before software.
    #[default]
    Best,
    /// By its index in [`adapters`].
    Index(usize),
    /// The first whose name contains this, ignoring case.
    Name(String),
}

impl Selection {
    /// An index where `text` is a number, else a name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Index)
    }
}

/// What matters about an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// Name the driver gives.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`.
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// Native 64-bit integers in shaders.
    pub int64: bool,
    /// The API has packed 4 x i8 dot products; elsewhere the shader compiler unpacks them. Whether they are fast is not
    /// for the API to say.
    pub dot4: bool,
    /// Subgroup operations, with the least and greatest size.
    pub subgroups: Option<(u32, u32)>,
    /// Bytes one binding can hold: bounds the batch.
    pub max_binding_bytes: u64,
    /// Invocations of a workgroup.
    pub max_workgroup: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

impl AdapterSummary {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        Self {
            name: info.name,
            backend: info.backend.to_str(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            int64: features.contains(wgpu::Features::SHADER_INT64),
            dot4: matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12),
            subgroups: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            max_binding_bytes: binding_bytes(&limits),
            max_workgroup: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
        }
    }

    /// Order of preference, best first.
    fn rank(&self) -> usize {
        ["discrete", "integrated", "virtual", "other"].iter().position(|k| *k == self.kind).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.kind, self.backend)
    }
}

fn binding_bytes(limits: &wgpu::Limits) -> u64 {
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
}

fn enumerate() -> Vec<(AdapterSummary, wgpu::Adapter)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters.into_iter().map(|adapter| (AdapterSummary::of(&adapter), adapter)).collect()
}

/// All adapters, hardware and software.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().into_iter().map(|(summary, _)| summary).collect()
}

/// A fault put into one shader on purpose, so that whoever compares with a GPU can see that it is found.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    /// Name of the shader.
    pub shader: &'static str,
    /// A piece of its text.
    pub from: &'static str,
    /// What stands there instead, everywhere.
    pub to: &'static str,
}

impl Damage {
    /// `source` of the shader called `name`, damaged if it is meant.
    fn apply(&self, name: &str, source: &str) -> String {
        if name == self.shader { source.replace(self.from, self.to) } else { source.to_owned() }
    }
}

/// An open device with its compiled pipelines.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    summary: AdapterSummary,
    pub(crate) bindings: wgpu::BindGroupLayout,
    layout: wgpu::PipelineLayout,
    products: Products,
    damage: Option<Damage>,
    pipelines: Mutex<HashMap<(&'static str, Constants), Arc<wgpu::ComputePipeline>>>,
}

impl Gpu {
    /// Opens an adapter. 64-bit products use its 64-bit integers where it has them.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::UnknownAdapter`], [`GpuError::Device`].
    pub fn new(selection: &Selection) -> Result<Self, GpuError> {
        let (summary, adapter) = Self::select(selection)?;
        let products = if summary.int64 { Products::Native } else { Products::Halves };
        Self::open(summary, &adapter, products)
    }

    /// [`new`](Self::new) with a fault in one shader: for tests of comparisons.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn damaged(selection: &Selection, damage: Damage) -> Result<Self, GpuError> {
        Ok(Self { damage: Some(damage), ..Self::new(selection)? })
    }

    /// The adapter of a selection.
    pub(crate) fn select(selection: &Selection) -> Result<(AdapterSummary, wgpu::Adapter), GpuError> {
        let mut found = enumerate();
        if found.is_empty() {
            return Err(GpuError::NoAdapter);
        }
        let index = match selection {
            Selection::Best => (0..found.len()).min_by_key(|&i| found[i].0.rank()),
            Selection::Index(index) => (*index < found.len()).then_some(*index),
            Selection::Name(name) => {
                let name = name.to_lowercase();
                found.iter().position(|(summary, _)| summary.name.to_lowercase().contains(&name))
            }
        };
        let unknown = || match selection {
            Selection::Name(name) => GpuError::UnknownAdapter(name.clone()),
            Selection::Index(index) => GpuError::UnknownAdapter(index.to_string()),
            Selection::Best => GpuError::NoAdapter,
        };
        Ok(found.swap_remove(index.ok_or_else(unknown)?))
    }

    /// Opens an adapter with one form of products, which it must have.
    pub(crate) fn open(summary: AdapterSummary, adapter: &wgpu::Adapter, products: Products) -> Result<Self, GpuError> {
        let offered = adapter.limits();
        let timestamps = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("shiftformer"),
            required_features: match products {
                Products::Halves => timestamps,
                Products::Native => timestamps | wgpu::Features::SHADER_INT64,
            },
            required_limits: wgpu::Limits {
                max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
                max_buffer_size: offered.max_buffer_size,
                ..wgpu::Limits::downlevel_defaults()
            },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| GpuError::Device { adapter: summary.name.clone(), reason: e.to_string() })?;
        let storage = |binding, read_only, dynamic| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: dynamic,
                min_binding_size: None,
            },
            count: None,
        };
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[storage(0, false, false), storage(1, true, false), storage(2, true, true)],
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            bind_group_layouts: &[Some(&bindings)],
            ..Default::default()
        });
        Ok(Self { device, queue, summary, bindings, layout, products, damage: None, pipelines: Mutex::default() })
    }

    /// The adapter in use.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.summary
    }

    /// Bytes one binding can hold.
    pub(crate) fn max_binding_bytes(&self) -> u64 {
        self.summary.max_binding_bytes
    }

    /// The compiled form of `shader` with these constants, compiled once per device.
    pub(crate) fn pipeline(
        &self,
        shader: &Shader,
        constants: &Constants,
    ) -> Result<Arc<wgpu::ComputePipeline>, GpuError> {
        let mut cache = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shader.name, constants.clone());
        if let Some(pipeline) = cache.get(&key) {
            return Ok(pipeline.clone());
        }
        let values: Vec<(&str, f64)> = constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let own = self.damage.map_or_else(|| shader.source.to_owned(), |d| d.apply(shader.name, shader.source));
        let source = format!("{}{own}", self.products.source());
        #[cfg(test)]
        assert_eq!(crate::testing::floats(&source), None, "{}", shader.name);
        let pipeline = self.checked(|device| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(shader.name),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(shader.name),
                layout: Some(&self.layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &values,
                    // Every shader writes workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })?;
        let pipeline = Arc::new(pipeline);
        cache.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Runs `work` and turns what the driver reports into an error.
    pub(crate) fn checked<T>(&self, work: impl FnOnce(&wgpu::Device) -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let result = work(&self.device);
        for scope in [internal, validation, memory] {
            if let Some(error) = pollster::block_on(scope.pop()) {
                return Err(GpuError::Driver(error.to_string()));
            }
        }
        Ok(result)
    }
}
