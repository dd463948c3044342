//! Adapters, the device, and the cache of pipelines.

use crate::error::GpuError;
use crate::matrix;
use crate::step::{Constants, Products, Shader, Source};
use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::Receiver;
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

/// Which of the shaders that give the same bytes are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Cooperative matrices where the adapter has them, else packed products.
    #[default]
    Fastest,
    /// Packed products of bytes, in WGSL alone.
    Packed,
    /// [`Packed`](Self::Packed), with the runtime checks of indices and loops that all other routes leave out.
    Checked,
}

impl Route {
    /// The variable that names a route; [`Gpu::new`] looks at it.
    pub const VARIABLE: &'static str = "SHIFTFORMER_GPU_ROUTE";

    /// The route that the environment names.
    ///
    /// # Errors
    /// [`GpuError::Route`].
    pub fn from_environment() -> Result<Self, GpuError> {
        match std::env::var(Self::VARIABLE).as_deref() {
            Err(_) | Ok("fastest") => Ok(Self::Fastest),
            Ok("packed") => Ok(Self::Packed),
            Ok("checked") => Ok(Self::Checked),
            Ok(other) => Err(GpuError::Route(other.to_owned())),
        }
    }
}

/// What matters about an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Subgroup operations, with the minimum and maximum size.
    pub subgroups: Option<(u32, u32)>,
    /// Whether dense layers and attention run on cooperative matrices of signed bytes, or why not.
    pub matrices: Result<(), &'static str>,
    /// The device can take times.
    pub timestamps: bool,
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
            matrices: matrix::available(adapter),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
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

/// All adapters, hardware and software. Those that offer cooperative matrices are opened to see whether they serve.
pub fn adapters() -> Vec<AdapterSummary> {
    let looked_at = |(summary, adapter): (AdapterSummary, wgpu::Adapter)| {
        if summary.matrices.is_err() {
            return summary;
        }
        let opened = Gpu::open(summary.clone(), &adapter, Products::Halves, Route::Fastest);
        opened.map_or(summary, |gpu| gpu.summary)
    };
    enumerate().into_iter().map(looked_at).collect()
}

/// What shaders a device can run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Abilities {
    /// Cooperative matrices of signed bytes.
    pub matrices: bool,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
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
    checks: bool,
    matrices: bool,
    damage: Option<Damage>,
    pipelines: Mutex<HashMap<(&'static str, Constants), Arc<wgpu::ComputePipeline>>>,
}

impl Gpu {
    /// Opens an adapter. 64-bit products use its 64-bit integers where it has them.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::UnknownAdapter`], [`GpuError::Device`], [`GpuError::Route`].
    pub fn new(selection: &Selection) -> Result<Self, GpuError> {
        Self::on_route(selection, Route::from_environment()?)
    }

    /// [`new`](Self::new) with a route of the caller's choice.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::UnknownAdapter`], [`GpuError::Device`].
    pub fn on_route(selection: &Selection, route: Route) -> Result<Self, GpuError> {
        let (summary, adapter) = Self::select(selection)?;
        let products = if summary.int64 { Products::Native } else { Products::Halves };
        Self::open(summary, &adapter, products, route)
    }

    /// On packed products, with a fault in one shader: for tests of comparisons.
    ///
    /// # Errors
    /// As [`on_route`](Self::on_route).
    pub fn damaged(selection: &Selection, damage: Damage) -> Result<Self, GpuError> {
        Ok(Self { damage: Some(damage), ..Self::on_route(selection, Route::Packed)? })
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
    pub(crate) fn open(
        summary: AdapterSummary,
        adapter: &wgpu::Adapter,
        products: Products,
        route: Route,
    ) -> Result<Self, GpuError> {
        let offered = adapter.limits();
        let matrices = route == Route::Fastest && summary.matrices.is_ok();
        let mut required_features = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        if products == Products::Native {
            required_features |= wgpu::Features::SHADER_INT64;
        }
        if matrices {
            required_features |= matrix::FEATURES;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("shiftformer"),
            required_features,
            required_limits: wgpu::Limits {
                max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
                max_buffer_size: offered.max_buffer_size,
                max_compute_workgroup_storage_size: offered.max_compute_workgroup_storage_size,
                ..wgpu::Limits::downlevel_defaults()
            },
            experimental_features: if matrices { matrix::experimental() } else { Default::default() },
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
        let mut gpu = Self {
            device,
            queue,
            summary,
            bindings,
            layout,
            products,
            checks: route == Route::Checked,
            matrices,
            damage: None,
            pipelines: Mutex::default(),
        };
        if matrices && !matrix::elements_lie_as_known(&gpu)? {
            gpu.matrices = false;
            gpu.summary.matrices = Err("the driver spreads matrices over invocations in another way");
        }
        Ok(gpu)
    }

    /// The adapter in use.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.summary
    }

    /// What shaders it can run.
    pub(crate) fn abilities(&self) -> Abilities {
        Abilities { matrices: self.matrices, workgroup_bytes: self.summary.workgroup_bytes }
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
        let pipeline = self.checked(|device| {
            let module = self.module(device, shader);
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

    fn module(&self, device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
        let text = match shader.source {
            Source::SpirV { binary, invocations } => return matrix::module(device, shader.name, binary, invocations),
            Source::Wgsl(text) => text,
        };
        let own = self.damage.map_or_else(|| text.to_owned(), |d| d.apply(shader.name, text));
        let source = format!("{}{own}", self.products.source());
        #[cfg(test)]
        assert_eq!(crate::testing::floats(&source), None, "{}", shader.name);
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(shader.name), source: wgpu::ShaderSource::Wgsl(source.into()) };
        if self.checks {
            return device.create_shader_module(descriptor);
        }
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.bounds_checks = false;
        checks.force_loop_bounding = false;
        // SAFETY: no shader of this crate relies on a check, and division keeps its own.
        // - Indices into buffers are those of the operator's views, which the reader of the file has proven to lie inside
        //   their tensors, inside the regions of `Layout`; indices that come from data are compared with their limit (the
        //   rows of `gather`). The driver's own limits on buffers stay on beside.
        // - Indices into workgroup memory and vectors are made of the invocation's number and constants of the shader,
        //   below the array's length, which stands beside.
        // - Every loop runs from a start to a bound by a constant step; none of the bounds is near 2^32, for all are
        //   numbers of elements in memory.
        // `Route::Checked` runs the same tests with the checks.
        unsafe { device.create_shader_module_trusted(descriptor, checks) }
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

    /// The first `bytes` bytes of a buffer that can be mapped, once `submission`, or all that was submitted, is done.
    pub(crate) fn mapped(
        &self,
        buffer: &wgpu::Buffer,
        bytes: u64,
        submission_index: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<u8>, GpuError> {
        let ready = start_map(buffer, wgpu::MapMode::Read);
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        self.device.poll(wait).map_err(|e| driver(&e))?;
        ready.recv().map_err(|e| driver(&e))?.map_err(|e| driver(&e))?;
        let copy = buffer.get_mapped_range(0..bytes).map_err(|e| driver(&e))?.to_vec();
        buffer.unmap();
        Ok(copy)
    }
}

/// Asks for a whole buffer; the answer comes while the device is polled.
pub(crate) fn start_map(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Receiver<Result<(), wgpu::BufferAsyncError>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    buffer.map_async(mode, .., move |result| {
        // A receiver that is gone has stopped waiting.
        let _ = sender.send(result);
    });
    receiver
}

pub(crate) fn driver(error: &dyn fmt::Display) -> GpuError {
    GpuError::Driver(error.to_string())
}
