//! The C header of a model.

use super::endpoints::{Named, meaning, named, preamble};
use super::names::identifier;
use super::state;
use crate::summary::Summary;
use shiftformer::Model;
use shiftformer::kernels::Kernels;
use shiftformer::ops::OpKind;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A C99 header with the model's constants, where inputs and outputs lie in the arena, and the operators it uses, for the
/// library whose header is `shiftformer.h`. The model's bytes are in the one translation unit that defines
/// `STEM_IMPLEMENTATION` before including it.
///
/// `stem` prefixes all identifiers; `file` is the name of the model file for the comment.
pub fn c_header<B: Kernels>(model: &Model<'_, B>, summary: &Summary, stem: &str, file: &str) -> String {
    let prefix = identifier(stem);
    let upper = prefix.to_uppercase();
    let mut taken = Vec::new();
    let inputs = named(&summary.inputs, &mut taken);
    let outputs = named(&summary.outputs, &mut taken);
    let mut out = String::from("/*\n");
    for line in preamble(summary, file) {
        out.push_str(format!(" * {line}").trim_end());
        out.push('\n');
    }
    let _ = write!(
        out,
        " */
#ifndef {upper}_MODEL_H
#define {upper}_MODEL_H

#include <shiftformer.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of arena that a session needs, aligned to 16. */
#define {upper}_ARENA_BYTES {arena}u
/* Bytes of the model. */
#define {upper}_MODEL_BYTES {bytes}u
/* Work of the longest step, in multiplications of a dense layer. */
#define {upper}_STEP_MACS {step_macs}u

/* Stands before a declaration. */
#if defined(__GNUC__) || defined(__clang__)
#define {upper}_ALIGN16 __attribute__((aligned(16)))
#elif defined(__cplusplus)
#define {upper}_ALIGN16 alignas(16)
#else
#define {upper}_ALIGN16 _Alignas(16)
#endif
",
        arena = summary.arena_bytes,
        bytes = summary.file_bytes,
        step_macs = model.step_macs(),
    );
    state::c_constants(&mut out, summary, &upper);
    for (index, input) in inputs.iter().enumerate() {
        let offset = model.input(index).map_or(0, |t| t.offset);
        accessor(&mut out, (&prefix, &upper), input, offset, Direction::Input);
    }
    for (index, output) in outputs.iter().enumerate() {
        let offset = model.output(index).map_or(0, |t| t.offset);
        accessor(&mut out, (&prefix, &upper), output, offset, Direction::Output);
    }
    operators(&mut out, model, (&prefix, &upper));
    model_bytes(&mut out, (&prefix, &upper), model.sections().file);
    let _ = write!(out, "\n#endif /* {upper}_MODEL_H */\n");
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Input,
    Output,
}

fn accessor(out: &mut String, (prefix, upper): (&str, &str), named: &Named<'_>, offset: u32, direction: Direction) {
    let endpoint = named.endpoint;
    let c_type = match endpoint.dtype {
        "u8" => "uint8_t",
        "i16" => "int16_t",
        "u16" => "uint16_t",
        "i32" => "int32_t",
        _ => "int8_t",
    };
    let (word, when, qualifier) = match direction {
        Direction::Input => ("Input", "fill it before each run", ""),
        Direction::Output => ("Output", "read it after a run", "const "),
    };
    let name = format!("{upper}_{}", named.upper);
    let dims: Vec<String> = endpoint.shape.iter().map(usize::to_string).collect();
    let _ = write!(
        out,
        "
/* {word} `{}` [{}], {}; {when}. */
#define {name}_LEN {}u
#define {name}_OFFSET {offset}u
#define {name}_SCALE {:e}f
#define {name}_ZERO ({:?}f)
static inline {qualifier}{c_type} *{prefix}_{}({qualifier}uint8_t *arena) {{
    return ({qualifier}{c_type} *)(arena + {name}_OFFSET);
}}
",
        endpoint.name.replace("*/", "* /"),
        dims.join(", "),
        meaning(endpoint),
        named.elements,
        endpoint.scale as f32,
        endpoint.zero as f32,
        named.lower,
    );
}

/// Declares model and operator table, and defines the table.
fn operators<B: Kernels>(out: &mut String, model: &Model<'_, B>, (prefix, upper): (&str, &str)) {
    let codes: BTreeSet<u16> = (0..model.n_ops()).filter_map(|op| Some(model.op_record(op)?.kind)).collect();
    let kinds: Vec<OpKind> = codes.into_iter().filter_map(OpKind::from_code).collect();
    let _ = write!(
        out,
        "
#ifdef __cplusplus
extern \"C\" {{
#endif

/* The model, read in place, and the operators it uses: no other is linked. Defined where {upper}_IMPLEMENTATION is. */
#define {upper}_N_OPERATORS {n}u
extern const uint8_t {prefix}_model[{upper}_MODEL_BYTES];
extern const sf_operator {prefix}_operators[{upper}_N_OPERATORS];

/* Opens the model, whose bytes `shiftformer codegen` has checked. */
static inline sf_status {prefix}_open(sf_model *model) {{
    return sf_model_open_proven(model, {prefix}_model, {upper}_MODEL_BYTES, {prefix}_operators, {upper}_N_OPERATORS);
}}

#ifdef {upper}_IMPLEMENTATION
const sf_operator {prefix}_operators[{upper}_N_OPERATORS] = {{
",
        n = kinds.len(),
    );
    for kind in kinds {
        let _ = writeln!(out, "    {{{}, &sf_op_{}}},", kind as u16, kind.name());
    }
    out.push_str("};\n");
}

fn model_bytes(out: &mut String, (prefix, upper): (&str, &str), file: &[u8]) {
    let _ = write!(out, "\n{upper}_ALIGN16 const uint8_t {prefix}_model[{upper}_MODEL_BYTES] = {{");
    for (index, byte) in file.iter().enumerate() {
        out.push_str(if index % 24 == 0 { "\n    " } else { "" });
        let _ = write!(out, "{byte},");
    }
    out.push_str("\n};\n");
    let _ = write!(out, "#endif /* {upper}_IMPLEMENTATION */\n\n#ifdef __cplusplus\n}}\n#endif\n");
}
