//! The Rust module of a model.

use super::endpoints::{Named, meaning, named, preamble};
use super::state;
use crate::media::sound;
use crate::summary::Summary;
use shiftformer::audio::FeatureScale;
use shiftformer::kernels::Kernels;
use shiftformer::ops::OpKind;
use shiftformer::{Model, Proven};
use std::collections::BTreeSet;
use std::fmt::Write;

/// A module that opens the model in `include_path` (as `include_bytes!` takes it) with only the operators it uses.
///
/// `file` is the name of the model file for the docs of the module.
pub fn rust_module<B: Kernels>(model: &Model<'_, B>, summary: &Summary, file: &str, include_path: &str) -> String {
    let mut taken = Vec::new();
    let inputs = named(&summary.inputs, &mut taken);
    let outputs = named(&summary.outputs, &mut taken);
    let mut out = String::new();
    for line in preamble(summary, file) {
        out.push_str(format!("//! {line}").trim_end());
        out.push('\n');
    }
    out.push_str("\nuse core::marker::PhantomData;\nuse shiftformer::kernels::Kernels;\n");
    out.push_str(
        "use shiftformer::ops::{self, Entry, OpKind};\nuse shiftformer::{Aligned, Model, ModelError, Proven, Session};\n\n",
    );
    constants(&mut out, model, summary, include_path);
    state::rust_constants(&mut out, summary);
    operators(&mut out, model);
    out.push_str(OPEN);
    state::rust_functions(&mut out, summary);
    for (index, input) in inputs.iter().enumerate() {
        endpoint_constants(&mut out, input);
        input_accessor(&mut out, index, input);
    }
    for (index, output) in outputs.iter().enumerate() {
        endpoint_constants(&mut out, output);
        output_accessor(&mut out, index, output);
    }
    if let ([input], [output]) = (&inputs[..], &outputs[..]) {
        sound_constants(&mut out, input, output);
    }
    out
}

const OPEN: &str = "/// Opens the model for the kernels `B`.
///
/// # Errors
/// None for the file that this module was made from.
pub fn open<B: Kernels>() -> Result<Model<'static, B>, ModelError> {
    Model::open_proven(&PROVEN, Operators::<B>::TABLE)
}
";

fn constants<B: Kernels>(out: &mut String, model: &Model<'_, B>, summary: &Summary, include_path: &str) {
    let (checksum, step_macs) = (Proven::checksum(model.sections().file), model.step_macs());
    let _ = write!(
        out,
        "/// Bytes of arena that a session needs; declare it as `Aligned<[u8; ARENA_BYTES]>`.
pub const ARENA_BYTES: usize = {};

/// Bytes of the model file.
pub const MODEL_BYTES: usize = {};

/// The model, read in place.
pub static MODEL: Aligned<[u8; MODEL_BYTES]> = Aligned(*include_bytes!({include_path:?}));

/// The compiler compares the file with the one that `shiftformer codegen` has proven.
#[allow(long_running_const_eval)]
pub static PROVEN: Proven<'static> = match Proven::new(&MODEL.0, {checksum:#010x}) {{
    Some(proven) => proven,
    None => panic!(\"the model is not the one this module was made from: run `shiftformer codegen` again\"),
}};

/// Work of the longest `Session::step`, in multiplications of a dense layer.
pub const STEP_MACS: u64 = {step_macs};

",
        summary.arena_bytes, summary.file_bytes
    );
}

fn operators<B: Kernels>(out: &mut String, model: &Model<'_, B>) {
    let codes: BTreeSet<u16> = (0..model.n_ops()).filter_map(|op| Some(model.op_record(op)?.kind)).collect();
    out.push_str("/// The operators the model uses: no other is linked.\n");
    out.push_str("pub struct Operators<B>(PhantomData<B>);\n\n");
    out.push_str(
        "impl<B: Kernels> Operators<B> {\n    /// One entry per kind.\n    pub const TABLE: &'static [Entry<B>] = &[\n",
    );
    for kind in codes.into_iter().filter_map(OpKind::from_code) {
        let _ = writeln!(out, "        Entry::of::<ops::{}>(OpKind::{kind:?}),", kind.type_path());
    }
    out.push_str("    ];\n}\n\n");
}

fn endpoint_constants(out: &mut String, named: &Named<'_>) {
    let (upper, endpoint) = (&named.upper, named.endpoint);
    let _ = write!(
        out,
        "
/// Shape of `{}` in the source model.
pub const {upper}_SHAPE: [usize; {}] = {:?};
/// Elements of `{}`.
pub const {upper}_LEN: usize = {};
/// Real units of one step of `{}`, for display.
pub const {upper}_SCALE: f32 = {:e};
/// The integer that stands for 0.
pub const {upper}_ZERO: f32 = {:?};
",
        endpoint.name,
        endpoint.shape.len(),
        endpoint.shape,
        endpoint.name,
        named.elements,
        endpoint.name,
        endpoint.scale as f32,
        endpoint.zero as f32,
    );
}

/// Of a model that may be a keyword spotter: from features to its input, and from its output to probabilities.
fn sound_constants(out: &mut String, input: &Named<'_>, output: &Named<'_>) {
    let narrow = |named: &Named<'_>| matches!(named.endpoint.dtype, "i8" | "i16");
    if !sound::takes_frames(&input.endpoint.shape) || !narrow(input) || !narrow(output) {
        return;
    }
    let FeatureScale { multiplier, shift, zero_point } =
        sound::feature_scale(input.endpoint.scale, input.endpoint.zero);
    let (features, logits) = (&input.upper, &output.upper);
    let _ = write!(
        out,
        "
/// From features of `shiftformer::audio` to `{}`.
pub const {features}_FEATURES: shiftformer::audio::FeatureScale =
    shiftformer::audio::FeatureScale {{ multiplier: {multiplier}, shift: {shift}, zero_point: {zero_point} }};
/// One step of `{}` for `audio::Heard`.
pub const {logits}_UNITS: u32 = {};
",
        input.endpoint.name,
        output.endpoint.name,
        sound::logit_units(output.endpoint.scale),
    );
}

fn input_accessor(out: &mut String, index: usize, named: &Named<'_>) {
    let (name, upper, dtype) = (&named.lower, &named.upper, named.endpoint.dtype);
    let _ = write!(
        out,
        "
/// Memory of input `{}`, {:?} row major: {}. Fill it before each run.
///
/// `None` when `session` runs another model.
pub fn {name}<'s, B: Kernels>(session: &'s mut Session<'_, '_, B>) -> Option<&'s mut [{dtype}; {upper}_LEN]> {{
    session.input_as::<{dtype}>({index})?.first_chunk_mut()
}}
",
        named.endpoint.name,
        named.endpoint.shape,
        meaning(named.endpoint),
    );
}

fn output_accessor(out: &mut String, index: usize, named: &Named<'_>) {
    let (name, upper, dtype) = (&named.lower, &named.upper, named.endpoint.dtype);
    let _ = write!(
        out,
        "
/// Output `{}` after a run, {:?} row major: {}.
///
/// `None` when `session` runs another model.
pub fn {name}<'s, B: Kernels>(session: &'s Session<'_, '_, B>) -> Option<&'s [{dtype}; {upper}_LEN]> {{
    session.output_as::<{dtype}>({index})?.first_chunk()
}}
",
        named.endpoint.name,
        named.endpoint.shape,
        meaning(named.endpoint),
    );
}
