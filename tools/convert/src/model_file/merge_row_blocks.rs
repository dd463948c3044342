//! A model in whole operators, for hosts: they have the memory that blocks of rows save, and whole operators are faster.
//!
//! The operators and tensors keep their numbers and every operator its output, so that traces, names and units of the file
//! fit. Chains become operators in a row over tensors with all their rows, in an arena planned anew; an operator that only
//! repeats an earlier one, so that nobody had to keep the result, becomes a copy of it.

use crate::model_file::{ModelFile, ModelFileError};
use crate::pack::{PackError, pack};
use crate::program::plan::plan_quickly;
use crate::program::{Program, QOp, QTensor, State, Weights};
use shiftformer::Model;
use shiftformer::format::{Blob, NO_TENSOR, Place, SectionKind};
use shiftformer::ops::copy::Copy;
use shiftformer::ops::{Extent, Op};
use std::collections::HashMap;

/// Why row blocks cannot be merged into whole operators.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The new model cannot be written.
    #[error("the row blocks cannot be merged: {0}")]
    Pack(#[from] PackError),
    /// The new model is not valid.
    #[error("the model with merged row blocks is not valid: {0}")]
    Model(#[from] ModelFileError),
}

/// `file` without chains; itself where it has none. Reference runs are left out.
///
/// # Errors
/// [`MergeError`]; none for a model that `pack` has written.
pub fn merge_row_blocks(file: &ModelFile) -> Result<ModelFile, MergeError> {
    let model = file.open().map_err(ModelFileError::from)?;
    let chained = (0..model.n_ops()).any(|op| model.op_record(op).is_some_and(|record| record.chained));
    let program = if chained { program(file, &model) } else { None };
    let Some(mut program) = program else { return Ok(file.clone()) };
    copy_repeated(&mut program);
    Ok(ModelFile::from_bytes(&pack(&program, &plan_quickly(&program), file.annotations(), &[])?)?)
}

/// The program of a model, no operator chained.
fn program(file: &ModelFile, model: &Model<'_>) -> Option<Program> {
    let sections = model.sections();
    let mut program = Program::new(model.profile());
    program.weights = Weights::from_section(sections.get(SectionKind::Weights));
    for index in 0..sections.n_tensors {
        let record = model.tensor(index)?;
        let constant = (record.place == Place::Constant)
            .then_some(Blob { offset: record.offset, bytes: u32::try_from(record.bytes()).ok()? });
        program.add_tensor(QTensor {
            name: String::new(),
            dtype: record.dtype,
            shape: record.shape().iter().map(|&d| d as usize).collect(),
            scale: 1.0,
            zero: f64::from(record.zero_point),
            constant,
            source: None,
            window: 0,
            in_state: record.place == Place::State,
        });
    }
    let kept = model.state();
    program.state = (kept.rows > 0).then_some(State { capacity: kept.capacity as usize, rows: kept.rows as usize });
    for op in 0..model.n_ops() {
        let record = model.op_record(op)?;
        let tensor = |&index: &u16| (index != NO_TENSOR).then_some(usize::from(index));
        program.ops.push(QOp {
            name: file.op_name(op).to_owned(),
            op: Op::decode(model.op_kind(op)?, model.op_params(op)?)?,
            inputs: record.inputs.iter().map(tensor).collect(),
            output: usize::from(record.output),
            chained: false,
        });
    }
    program.inputs = file.inputs().to_vec();
    program.outputs = file.outputs().to_vec();
    Some(program)
}

/// Makes a copy of every operator that has the kind, the parameters and the inputs of an earlier one.
fn copy_repeated(program: &mut Program) {
    let mut writers = vec![0; program.tensors.len()];
    for op in &program.ops {
        writers[op.output] += 1;
    }
    let single = |tensor: usize| writers[tensor] <= 1;
    // By inputs: an operator with these and its output.
    let mut known: HashMap<Vec<Option<usize>>, Vec<(Op, usize)>> = HashMap::new();
    for op in &mut program.ops {
        if !single(op.output) || !op.inputs.iter().flatten().all(|&t| single(t)) {
            continue;
        }
        let earlier = known.entry(op.inputs.clone()).or_default();
        let output = &program.tensors[op.output];
        let same = |&&(ref other, tensor): &&(Op, usize)| {
            let before = &program.tensors[tensor];
            *other == op.op && before.dtype == output.dtype && before.shape == output.shape
        };
        match (earlier.iter().find(same), whole_copy(output.len())) {
            (Some(&(_, tensor)), Some(copy)) => {
                op.op = Op::Copy(copy);
                op.inputs = vec![Some(tensor)];
            }
            _ => earlier.push((op.op, op.output)),
        }
    }
}

/// A copy of `len` elements as they lie.
fn whole_copy(len: usize) -> Option<Copy> {
    let dims = [1, 1, 1, 1, 1, u32::try_from(len).ok()?];
    let view = Extent::contiguous(dims);
    Some(Copy { dims, from: view, to: view, flip: 0, partial: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_copy_is_one_row() {
        let copy = whole_copy(12).unwrap();
        assert_eq!(shiftformer::ops::Operator::pieces(&copy), 1);
    }
}
