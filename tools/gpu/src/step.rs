//! One dispatch: a shader, its parameter words, and how many workgroups it takes.

use crate::error::GpuError;
use shiftformer::format::Word;

/// A compute shader. Its entry point is `main`.
pub struct Shader {
    /// Unique name.
    pub name: &'static str,
    /// What it is made of.
    pub source: Source,
}

/// The forms of shaders.
pub enum Source {
    /// WGSL, but for the product of two words: see [`Products`].
    Wgsl(&'static str),
    /// SPIR-V for cooperative matrices, made from the GLSL beside it by `tools/gpu/matrices.py`.
    SpirV {
        /// The module.
        binary: &'static [u8],
        /// Invocations of a workgroup.
        invocations: u32,
    },
}

/// How shaders form the 64-bit product of two words: the same bits either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// From 16-bit halves, on any adapter.
    Halves,
    /// With the adapter's 64-bit integers.
    Native,
}

impl Products {
    /// The piece of WGSL that comes first in every shader.
    pub fn source(self) -> &'static str {
        match self {
            Products::Halves => include_str!("wgsl/product_halves.wgsl"),
            Products::Native => include_str!("wgsl/product_native.wgsl"),
        }
    }
}

/// A shader made of shared pieces and the operator's own file.
macro_rules! shader {
    ($name:literal, [$($piece:literal),*], $file:literal) => {
        $crate::step::Shader {
            name: $name,
            source: $crate::step::Source::Wgsl(concat!(
                $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/wgsl/", $piece, ".wgsl")),)*
                include_str!($file)
            )),
        }
    };
}
pub(crate) use shader;

/// A shader on cooperative matrices, whose workgroups have so many invocations.
macro_rules! matrix_shader {
    ($name:expr, $file:expr, $invocations:literal) => {
        $crate::step::Shader {
            name: $name,
            source: $crate::step::Source::SpirV { binary: include_bytes!($file), invocations: $invocations },
        }
    };
}
pub(crate) use matrix_shader;

/// Workgroups along one dimension of a dispatch.
const MAX_GROUPS: u64 = 65535;
/// Invocations of a workgroup in `elementwise.wgsl`.
pub const INVOCATIONS: u64 = 64;
/// Rows of a workgroup in `rows.wgsl`: as many as start and end at whole words, whatever their width.
pub const ROWS_OF_GROUP: u64 = 4;
/// Invocations that share a row there.
pub const ROW_INVOCATIONS: u64 = 32;

/// One dispatch, the same for every sample of a batch.
pub struct Step {
    /// Index of the operator it belongs to.
    pub op: usize,
    /// What runs.
    pub shader: &'static Shader,
    /// Words of its `Params`.
    pub params: Vec<u32>,
    /// Values of the shader's overridable constants.
    pub constants: Constants,
    /// How much of it.
    pub work: Work,
    /// What it takes to run beside others in one dispatch.
    pub beside: Option<Beside>,
}

/// A step whose shader takes the parameters of several, one behind the other, as columns of tiles side by side.
#[derive(Clone, Debug)]
pub struct Beside {
    /// What it reads.
    pub reads: Vec<Tensor>,
    /// What it writes.
    pub writes: Tensor,
    /// Steps that a dispatch holds.
    pub most: usize,
}

/// Names and values of overridable constants; a shader's pipelines all name them in the same order.
pub type Constants = Vec<(&'static str, u32)>;

/// Workgroups of a dispatch.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many for every sample; z is the sample.
    PerSample(u64),
    /// Tiles over the rows of all samples as one matrix.
    Tiles {
        /// Rows of a sample.
        rows: u64,
        /// Rows of a tile.
        size: u64,
        /// Tiles side by side.
        columns: u64,
    },
}

impl Work {
    /// Workgroups along x, y and z for a batch of `samples`; the shader numbers them `y * groups.x + x` and skips those
    /// beyond its count. `None` where a dispatch cannot hold them.
    pub fn groups(&self, samples: u64) -> Option<[u32; 3]> {
        let (count, z) = match *self {
            Work::PerSample(count) => (count, samples),
            Work::Tiles { rows, size, columns } => ((rows * samples).div_ceil(size) * columns, 1),
        };
        let x = count.clamp(1, MAX_GROUPS);
        let y = count.div_ceil(x).max(1);
        (y <= MAX_GROUPS && z <= MAX_GROUPS).then_some([x as u32, y as u32, z as u32])
    }
}

impl Work {
    /// The tiles of two over the same rows, side by side.
    fn beside(&self, other: &Self) -> Option<Self> {
        match (*self, *other) {
            (Work::Tiles { rows, size, columns }, Work::Tiles { rows: as_many, size: alike, columns: more }) => {
                (rows == as_many && size == alike).then_some(Work::Tiles { rows, size, columns: columns + more })
            }
            (Work::PerSample(_) | Work::Tiles { .. }, Work::PerSample(_))
            | (Work::PerSample(_), Work::Tiles { .. }) => None,
        }
    }
}

impl Step {
    /// `work` for a batch of up to `capacity` samples.
    pub fn new(shader: &'static Shader, params: Params, work: Work, capacity: u64) -> Result<Self, GpuError> {
        let too_large = GpuError::Op { op: params.op, reason: "it is too large for one dispatch" };
        work.groups(capacity).ok_or(too_large)?;
        Ok(Self { op: params.op, shader, params: params.words, constants: params.constants, work, beside: None })
    }
}

/// Steps one behind the other that do not wait for each other, in one dispatch where their shader holds several.
pub fn side_by_side(steps: Vec<Step>) -> Vec<Step> {
    let mut merged: Vec<Step> = Vec::with_capacity(steps.len());
    // What the steps of the last dispatch write.
    let mut written: Vec<Tensor> = Vec::new();
    for step in steps {
        if let (Some(last), Some(beside)) = (merged.last_mut(), &step.beside) {
            let waits = beside.reads.iter().any(|read| read.buffer == Buffer::Data && written.contains(read));
            let alike = std::ptr::eq(last.shader, step.shader) && last.constants == step.constants;
            let work = last.work.beside(&step.work);
            if last.beside.is_some()
                && alike
                && !waits
                && written.len() < beside.most
                && let Some(work) = work
            {
                written.push(beside.writes);
                last.params.extend(step.params);
                last.work = work;
                continue;
            }
        }
        written = step.beside.iter().map(|beside| beside.writes).collect();
        merged.push(step);
    }
    merged
}

/// A tensor in the memory of a batch, as the shaders see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// First word in the buffer.
    pub base: u32,
    /// Words from a sample to the next.
    pub stride: u32,
    /// Element type.
    pub dtype: shiftformer::tensor::Dtype,
    /// Which buffer.
    pub buffer: Buffer,
}

impl Tensor {
    /// Words from one of its `rows` rows of `words` words to the next, where the rows of all samples lie one behind the
    /// other in the memory of the batch, so that they are the rows of one matrix.
    pub fn row_step(&self, rows: u32, words: u32) -> Option<u32> {
        let step = if rows == 1 { self.stride } else { words };
        let contiguous = u64::from(rows) * u64::from(step) == u64::from(self.stride);
        (self.buffer == Buffer::Data && contiguous).then_some(step)
    }
}

/// Where a tensor lies; the codes of `Tensor.constant` in `memory.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Buffer {
    /// The activations of the batch.
    Data = 0,
    /// The weights.
    Weights = 1,
    /// Nowhere: an optional operand that is not there.
    Absent = 2,
}

impl Tensor {
    /// An operand that is not there.
    pub const ABSENT: Tensor =
        Tensor { base: 0, stride: 0, dtype: shiftformer::tensor::Dtype::I8, buffer: Buffer::Absent };
}

/// The words of a `Params` structure, written in the order of its fields.
pub struct Params {
    op: usize,
    words: Vec<u32>,
    constants: Constants,
}

impl Params {
    /// Parameters of operator `op`, starting with its tensors.
    pub fn new(op: usize, tensors: &[Tensor]) -> Self {
        let words = tensors.iter().flat_map(|t| [t.base, t.stride, t.dtype as u32, t.buffer as u32]).collect();
        Self { op, words, constants: Constants::new() }
    }

    /// Sets an overridable constant.
    pub fn constant(mut self, name: &'static str, value: impl Into<u32>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Appends all of `rest`.
    pub fn followed_by(mut self, rest: Params) -> Self {
        self.words.extend(rest.words);
        self.constants.extend(rest.constants);
        self
    }

    /// Appends a field.
    pub fn with(mut self, value: impl Word) -> Self {
        value.write(&mut |word: u32| self.words.push(word));
        self
    }
}

/// Workgroups for a shader that makes one word of `len` elements of `dtype` per invocation.
pub fn word_groups(len: u64, dtype: shiftformer::tensor::Dtype) -> u64 {
    len.div_ceil(4 / dtype.bytes() as u64).div_ceil(INVOCATIONS)
}
