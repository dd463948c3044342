//! The two engines: a session of the fastest kernels, and tract with all its optimizations.

use crate::subject::Subject;
use shiftformer::kernels::Native;
use shiftformer::{AlignedBytes, Model, Observer, Session};
use shiftformer_lab::clock;
use shiftformer_lab::summary::{OpSummary, summarize};
use tract_onnx::prelude::*;

/// Runs over which the time of every operator is minimized.
const PART_RUNS: usize = 40;

/// Ours, with its memory.
pub struct Ours<'m> {
    subject: &'m Subject,
    model: Model<'m, Native>,
    arena: AlignedBytes,
}

/// The operators of a kind together.
pub struct Part {
    pub kind: &'static str,
    pub count: usize,
    pub macs: u64,
    pub seconds: f64,
}

/// The shortest time of every operator.
struct Fastest {
    started: f64,
    /// Of the blocks of rows so far.
    open: Vec<f64>,
    seconds: Vec<f64>,
}

impl Observer for Fastest {
    fn before(&mut self, _op: usize) {
        self.started = clock::now();
    }
    fn ran(&mut self, op: usize) {
        self.open[op] += clock::now() - self.started;
    }
    fn after(&mut self, op: usize, part: shiftformer::Part<'_>) {
        if part.is_last {
            self.seconds[op] = self.seconds[op].min(std::mem::take(&mut self.open[op]));
        }
    }
}

impl<'m> Ours<'m> {
    pub fn new(subject: &'m Subject) -> Self {
        let model = subject.file.open::<Native>().expect("a converted model opens");
        let arena = AlignedBytes::zeroed(model.arena_bytes());
        Self { subject, model, arena }
    }

    /// One inference, input copied in.
    pub fn run(&mut self) {
        self.observe(&mut ());
    }

    fn observe(&mut self, observer: &mut impl Observer) {
        let mut session = Session::new(&self.model, bytemuck::cast_slice_mut(&mut self.arena)).expect("the arena fits");
        session.input_mut(0).expect("there is an input").copy_from_slice(&self.subject.bytes);
        session.run_with(observer).expect("the model runs");
        std::hint::black_box(session.output(0));
    }

    /// Where the time goes, the longest first.
    pub fn parts(&mut self) -> Vec<Part> {
        let ops: Vec<OpSummary> = summarize(&self.model, self.subject.file.annotations()).ops;
        let mut fastest = Fastest { started: 0.0, open: vec![0.0; ops.len()], seconds: vec![f64::INFINITY; ops.len()] };
        for _ in 0..PART_RUNS {
            self.observe(&mut fastest);
        }
        let mut parts: Vec<Part> = Vec::new();
        for (op, seconds) in ops.iter().zip(fastest.seconds) {
            let at = parts.iter().position(|part| part.kind == op.kind).unwrap_or_else(|| {
                parts.push(Part { kind: op.kind, count: 0, macs: 0, seconds: 0.0 });
                parts.len() - 1
            });
            parts[at].count += 1;
            parts[at].macs += op.macs;
            parts[at].seconds += seconds;
        }
        parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        parts
    }
}

/// tract in f32.
pub struct Tract {
    plan: Box<dyn Fn()>,
}

impl Tract {
    pub fn new(subject: &Subject) -> Self {
        Self { plan: optimized(subject).unwrap_or_else(|e| panic!("tract, {}: {e}", subject.name)) }
    }

    /// One inference.
    pub fn run(&mut self) {
        (self.plan)();
    }
}

/// The model as tract runs it best, with its input.
fn optimized(subject: &Subject) -> TractResult<Box<dyn Fn()>> {
    let fact = f32::fact(subject.shape.as_slice()).into();
    let plan = tract_onnx::onnx().model_for_path(&subject.onnx)?.with_input_fact(0, fact)?.into_optimized()?;
    let plan = plan.into_runnable()?;
    let input: TValue = Tensor::from_shape(&subject.shape, &subject.real)?.into();
    plan.run(tvec!(input.clone()))?;
    Ok(Box::new(move || {
        std::hint::black_box(plan.run(tvec!(input.clone())).expect("the model has run before"));
    }))
}
