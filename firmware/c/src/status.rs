//! What functions return.

use core::ffi::{CStr, c_char};
use shiftformer::format::FormatError;
use shiftformer::ops::OpFault;
use shiftformer::{ArenaError, ModelError, RunFault};

/// What became of a call.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum sf_status {
    /// Done.
    SF_OK = 0,
    /// Work is left: call `sf_session_step` again.
    SF_RUNNING = 1,
    /// A pointer is null or misaligned, or storage holds no model or session.
    SF_ERROR_ARGUMENT = -1,
    /// The bytes are no model.
    SF_ERROR_NOT_A_MODEL = -2,
    /// Model, arena or state do not start at a multiple of 16 bytes.
    SF_ERROR_MISALIGNED = -3,
    /// The file is shorter or longer than its header says.
    SF_ERROR_LENGTH = -4,
    /// Written for a newer or incompatible reader.
    SF_ERROR_VERSION = -5,
    /// A checksum does not match.
    SF_ERROR_CHECKSUM = -6,
    /// A section, tensor or operator of the file is invalid.
    SF_ERROR_INVALID = -7,
    /// The model uses an operator that the table lacks.
    SF_ERROR_OPERATOR_MISSING = -8,
    /// The arena is smaller than `sf_model_arena_bytes`.
    SF_ERROR_ARENA_TOO_SMALL = -9,
    /// The state is smaller than `sf_model_state_bytes`.
    SF_ERROR_STATE_TOO_SMALL = -10,
    /// The input holds an index (a token id) beyond its table.
    SF_ERROR_INDEX = -11,
    /// No position is left in the state.
    SF_ERROR_FULL = -12,
    /// A run does not take that many rows.
    SF_ERROR_ROWS = -13,
    /// An operand is out of bounds: the model changed after it was opened.
    SF_ERROR_MEMORY = -14,
    /// An operator computed something else than on the converter's machine.
    SF_ERROR_RECEIPT = -15,
}

impl From<ModelError> for sf_status {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Format(FormatError::NotAModel) => Self::SF_ERROR_NOT_A_MODEL,
            ModelError::Format(FormatError::Misaligned) => Self::SF_ERROR_MISALIGNED,
            ModelError::Format(FormatError::Length { .. }) => Self::SF_ERROR_LENGTH,
            ModelError::Format(FormatError::Version { .. }) => Self::SF_ERROR_VERSION,
            ModelError::Format(FormatError::Checksum) => Self::SF_ERROR_CHECKSUM,
            ModelError::Op { fault: OpFault::Kind, .. } => Self::SF_ERROR_OPERATOR_MISSING,
            _ => Self::SF_ERROR_INVALID,
        }
    }
}

impl From<ArenaError> for sf_status {
    fn from(error: ArenaError) -> Self {
        match error {
            ArenaError::TooSmall { .. } => Self::SF_ERROR_ARENA_TOO_SMALL,
            ArenaError::StateTooSmall { .. } => Self::SF_ERROR_STATE_TOO_SMALL,
            _ => Self::SF_ERROR_MISALIGNED,
        }
    }
}

impl From<RunFault> for sf_status {
    fn from(fault: RunFault) -> Self {
        match fault {
            RunFault::Index { .. } => Self::SF_ERROR_INDEX,
            RunFault::Full { .. } => Self::SF_ERROR_FULL,
            RunFault::Rows { .. } => Self::SF_ERROR_ROWS,
            _ => Self::SF_ERROR_MEMORY,
        }
    }
}

impl From<Result<(), RunFault>> for sf_status {
    fn from(done: Result<(), RunFault>) -> Self {
        done.map_or_else(Self::from, |()| Self::SF_OK)
    }
}

/// What every status means.
const TEXTS: [(sf_status, &CStr); 17] = [
    (sf_status::SF_OK, c"done"),
    (sf_status::SF_RUNNING, c"work is left; call sf_session_step again"),
    (sf_status::SF_ERROR_ARGUMENT, c"a pointer is null or misaligned, or storage holds no model or session"),
    (sf_status::SF_ERROR_NOT_A_MODEL, c"not a .sfm model"),
    (sf_status::SF_ERROR_MISALIGNED, c"model, arena and state must start at addresses divisible by 16"),
    (sf_status::SF_ERROR_LENGTH, c"the model is shorter or longer than its header says"),
    (sf_status::SF_ERROR_VERSION, c"the model needs a newer version of this library"),
    (sf_status::SF_ERROR_CHECKSUM, c"checksum mismatch: the model is damaged"),
    (sf_status::SF_ERROR_INVALID, c"the model is invalid; convert it again"),
    (sf_status::SF_ERROR_OPERATOR_MISSING, c"the table lacks an operator; run shiftformer codegen again"),
    (sf_status::SF_ERROR_ARENA_TOO_SMALL, c"the arena is too small"),
    (sf_status::SF_ERROR_STATE_TOO_SMALL, c"the state is too small"),
    (sf_status::SF_ERROR_INDEX, c"an index in the input is beyond its table"),
    (sf_status::SF_ERROR_FULL, c"no position is left in the state"),
    (sf_status::SF_ERROR_ROWS, c"a run does not take that many rows"),
    (sf_status::SF_ERROR_MEMORY, c"an operand is not where the model says"),
    (sf_status::SF_ERROR_RECEIPT, c"an operator computed something else than the converter"),
];

/// What a status means, for logs.
#[unsafe(no_mangle)]
pub extern "C" fn sf_status_text(status: i32) -> *const c_char {
    let known = TEXTS.iter().find(|(known, _)| *known as i32 == status);
    known.map_or(c"unknown status", |(_, text)| text).as_ptr()
}
