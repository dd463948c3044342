//! The runtime for C and C++: a model, a session over the caller's memory, and the operators one by one, so that a program
//! links those it names. `include/shiftformer.h` is generated from these sources by `cargo xtask c --header`.
//!
//! C keeps models and sessions in storage of its own, whose contents are this library's: [`sf_model`], [`sf_session`]. Both
//! carry a mark, so that storage nobody has opened is refused.
#![no_std]
#![allow(non_camel_case_types, non_upper_case_globals)]

mod operators;
mod status;

use core::ffi::c_char;
use core::mem::{align_of, size_of};
use core::panic::PanicInfo;
use core::slice;
use shiftformer::kernels::{Kernels, Native};
use shiftformer::ops::{Entry, OpKind};
use shiftformer::{Digests, Model, Progress, Proven, Session};

pub use operators::*;
pub use status::sf_status;

/// Words of [`sf_model`].
pub const SF_MODEL_WORDS: usize = 44;
/// Words of [`sf_session`].
pub const SF_SESSION_WORDS: usize = 56;

/// More bytes than a slice may have.
const TOO_LONG: usize = isize::MAX as usize + 1;

/// Of storage that holds a model.
const MODEL_MARK: usize = 0x5346_4d31;
/// Of storage that holds a session.
const SESSION_MARK: usize = 0x5346_5331;

/// An operator of a model: its code in the file, and its functions. `shiftformer codegen` writes a table of them.
#[repr(C)]
pub struct sf_operator {
    kind: u16,
    functions: *const sf_functions,
}

/// Storage for a model; it does not move while sessions run it.
#[repr(C)]
pub struct sf_model {
    opaque: [usize; SF_MODEL_WORDS],
}

/// Storage for a run of a model.
#[repr(C)]
pub struct sf_session {
    opaque: [usize; SF_SESSION_WORDS],
}

/// What the storage holds.
#[repr(C)]
struct Marked<T> {
    mark: usize,
    value: T,
}

type OpenModel = Marked<Model<'static, Native>>;
type OpenSession = Marked<Session<'static, 'static, Native>>;

const _: () = assert!(size_of::<OpenModel>() <= size_of::<sf_model>());
const _: () = assert!(align_of::<OpenModel>() <= align_of::<sf_model>());
const _: () = assert!(size_of::<OpenSession>() <= size_of::<sf_session>());
const _: () = assert!(align_of::<OpenSession>() <= align_of::<sf_session>());
const _: () = assert!(size_of::<Entry<Native>>() == size_of::<sf_operator>());
const _: () = assert!(align_of::<Entry<Native>>() == align_of::<sf_operator>());

/// No code of the runtime panics; `cargo xtask c` looks for this function in what is linked.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Opens a model with every check: for files whose origin is not the build, such as one received in the field.
///
/// `file` starts at a multiple of 16 bytes, stays where it is and does not change while the model is in use; so does
/// `operators`.
///
/// # Safety
/// Pointers point to as much as is said; `model` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_model_open(
    model: *mut sf_model,
    file: *const u8,
    file_bytes: usize,
    operators: *const sf_operator,
    n_operators: usize,
) -> sf_status {
    // SAFETY: as the caller has promised.
    let arguments = unsafe { (bytes(file, file_bytes), table(operators, n_operators)) };
    let (Some(file), Some(table)) = arguments else { return sf_status::SF_ERROR_ARGUMENT };
    // SAFETY: as the caller has promised.
    unsafe { put_model(model, Model::open_with(file, table)) }
}

/// Opens a model that `shiftformer codegen` has opened with every check when the program was built: `MODEL_open` of the
/// generated header does this. What memory safety needs is checked in any case.
///
/// # Safety
/// As [`sf_model_open`]; and `file` is the array that `shiftformer codegen` wrote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_model_open_proven(
    model: *mut sf_model,
    file: *const u8,
    file_bytes: usize,
    operators: *const sf_operator,
    n_operators: usize,
) -> sf_status {
    // SAFETY: as the caller has promised.
    let arguments = unsafe { (bytes(file, file_bytes), table(operators, n_operators)) };
    let (Some(file), Some(table)) = arguments else { return sf_status::SF_ERROR_ARGUMENT };
    // SAFETY: as the caller has promised.
    unsafe { put_model(model, Model::open_proven(&Proven::trusted(file), table)) }
}

/// Bytes of arena that a session of this model needs, aligned to 16; 0 where none was opened.
///
/// # Safety
/// `model` points to storage.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_model_arena_bytes(model: *const sf_model) -> usize {
    // SAFETY: as the caller has promised.
    unsafe { opened(model) }.map_or(0, Model::arena_bytes)
}

/// Bytes that a session of this model keeps from one run to the next; 0 for most models.
///
/// # Safety
/// As [`sf_model_arena_bytes`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_model_state_bytes(model: *const sf_model) -> usize {
    // SAFETY: as the caller has promised.
    unsafe { opened(model) }.map_or(0, Model::state_bytes)
}

/// Reference runs in the model, for [`sf_session_prove`].
///
/// # Safety
/// As [`sf_model_arena_bytes`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_model_receipts(model: *const sf_model) -> usize {
    // SAFETY: as the caller has promised.
    unsafe { opened(model) }.map_or(0, |model| model.receipts().len())
}

/// Starts a session over `arena`, and over `state` for a model that keeps some (else `NULL`, 0). Both are aligned to 16 and
/// belong to the session from here on.
///
/// # Safety
/// Pointers point to as much as is said, and nothing else is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_start(
    session: *mut sf_session,
    model: *const sf_model,
    arena: *mut u8,
    arena_bytes: usize,
    state: *mut u8,
    state_bytes: usize,
) -> sf_status {
    // SAFETY: as the caller has promised.
    let arguments = unsafe { (opened(model), bytes_mut(arena, arena_bytes), bytes_mut(state, state_bytes)) };
    let (Some(model), Some(arena), Some(state)) = arguments else { return sf_status::SF_ERROR_ARGUMENT };
    if session.is_null() || !session.is_aligned() {
        return sf_status::SF_ERROR_ARGUMENT;
    }
    match Session::with_state(model, arena, state) {
        Ok(value) => {
            // SAFETY: the storage is large enough and aligned, as the assertions above say.
            unsafe { session.cast::<OpenSession>().write(Marked { mark: SESSION_MARK, value }) };
            sf_status::SF_OK
        }
        Err(error) => error.into(),
    }
}

/// Memory of input `index`, to be filled before each run, and its size; `NULL` where there is none. Cancels a run that is
/// under way.
///
/// # Safety
/// `session` points to storage, `n_bytes` to a number or is `NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_input(session: *mut sf_session, index: usize, n_bytes: *mut usize) -> *mut u8 {
    // SAFETY: as the caller has promised.
    let input = unsafe { started(session) }.and_then(|session| session.input_mut(index));
    let (at, len) = input.map_or((core::ptr::null_mut(), 0), |input| (input.as_mut_ptr(), input.len()));
    // SAFETY: as the caller has promised.
    unsafe { put(n_bytes, len) };
    at
}

/// Output `index` of the run that has finished, and its size; `NULL` where there is none.
///
/// # Safety
/// As [`sf_session_input`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_output(session: *mut sf_session, index: usize, n_bytes: *mut usize) -> *const u8 {
    // SAFETY: as the caller has promised.
    let output = unsafe { started(session) }.and_then(|session| session.output(index));
    let (at, len) = output.map_or((core::ptr::null(), 0), |output| (output.as_ptr(), output.len()));
    // SAFETY: as the caller has promised.
    unsafe { put(n_bytes, len) };
    at
}

/// Runs all operators.
///
/// # Safety
/// `session` points to storage.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_run(session: *mut sf_session) -> sf_status {
    // SAFETY: as the caller has promised.
    let Some(session) = (unsafe { started(session) }) else { return sf_status::SF_ERROR_ARGUMENT };
    session.run().into()
}

/// Does the next bounded piece of work. `SF_RUNNING`: call it again; `SF_OK`: the outputs are ready, and the next call starts
/// anew.
///
/// # Safety
/// As [`sf_session_run`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_step(session: *mut sf_session) -> sf_status {
    // SAFETY: as the caller has promised.
    let Some(session) = (unsafe { started(session) }) else { return sf_status::SF_ERROR_ARGUMENT };
    match session.step() {
        Ok(Progress::Running { .. }) => sf_status::SF_RUNNING,
        Ok(Progress::Done) => sf_status::SF_OK,
        Err(fault) => fault.into(),
    }
}

/// Forgets a run that is under way; the next step starts from the inputs.
///
/// # Safety
/// As [`sf_session_run`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_cancel(session: *mut sf_session) {
    // SAFETY: as the caller has promised.
    if let Some(session) = unsafe { started(session) } {
        session.cancel();
    }
}

/// Sets the rows of the following runs of a model with state, the first ones of the inputs.
///
/// # Safety
/// As [`sf_session_run`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_feed(session: *mut sf_session, rows: u32) -> sf_status {
    // SAFETY: as the caller has promised.
    let Some(session) = (unsafe { started(session) }) else { return sf_status::SF_ERROR_ARGUMENT };
    session.feed(rows).into()
}

/// Goes back to position 0 of a model with state.
///
/// # Safety
/// As [`sf_session_run`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_reset(session: *mut sf_session) {
    // SAFETY: as the caller has promised.
    if let Some(session) = unsafe { started(session) } {
        session.reset();
    }
}

/// Runs reference run `receipt` of the model and compares the digest of every operator with the one that the converter
/// computed. `SF_ERROR_RECEIPT`: the first operator that differs is in `op` (may be `NULL`).
///
/// # Safety
/// As [`sf_session_input`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_session_prove(session: *mut sf_session, receipt: usize, op: *mut usize) -> sf_status {
    // SAFETY: as the caller has promised.
    let Some(session) = (unsafe { started(session) }) else { return sf_status::SF_ERROR_ARGUMENT };
    let model = *session.model();
    let Some(receipt) = model.receipts().get(receipt) else { return sf_status::SF_ERROR_ARGUMENT };
    let sizes = (0..model.n_inputs()).map_while(|index| Some(model.input(index)?.bytes()));
    for (index, from) in receipt.inputs(sizes).enumerate() {
        let Some(to) = session.input_mut(index) else { return sf_status::SF_ERROR_MEMORY };
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
    let mut wrong = None;
    let mut check = Digests::new(|op, digest| {
        if receipt.digest(op) != Some(digest) && wrong.is_none() {
            wrong = Some(op);
        }
    });
    if let Err(fault) = session.run_with(&mut check) {
        return fault.into();
    }
    let Some(first) = wrong else { return sf_status::SF_OK };
    // SAFETY: as the caller has promised.
    unsafe { put(op, first) };
    sf_status::SF_ERROR_RECEIPT
}

/// Name of the kernels of this library, such as `armv7em`, and its length: no zero follows.
///
/// # Safety
/// `n_bytes` points to a number or is `NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sf_kernels(n_bytes: *mut usize) -> *const c_char {
    // SAFETY: as the caller has promised.
    unsafe { put(n_bytes, Native::NAME.len()) };
    Native::NAME.as_ptr().cast()
}

/// The bytes at `from`; none is at `NULL`.
///
/// # Safety
/// There are `len` bytes that do not change.
unsafe fn bytes(from: *const u8, len: usize) -> Option<&'static [u8]> {
    match (from.is_null(), len) {
        (true, 0) => Some(&[]),
        (true, _) | (_, TOO_LONG..) => None,
        // SAFETY: as the caller has promised.
        (false, _) => Some(unsafe { slice::from_raw_parts(from, len) }),
    }
}

/// As [`bytes`], to be written.
///
/// # Safety
/// There are `len` bytes that nothing else uses.
unsafe fn bytes_mut(from: *mut u8, len: usize) -> Option<&'static mut [u8]> {
    match (from.is_null(), len) {
        (true, 0) => Some(&mut []),
        (true, _) | (_, TOO_LONG..) => None,
        // SAFETY: as the caller has promised.
        (false, _) => Some(unsafe { slice::from_raw_parts_mut(from, len) }),
    }
}

/// The table at `operators`, where every entry has a known kind and functions.
///
/// # Safety
/// There are `n` operators that do not change.
unsafe fn table(operators: *const sf_operator, n: usize) -> Option<&'static [Entry<Native>]> {
    if operators.is_null() || !operators.is_aligned() || n > OpKind::ALL.len() {
        return None;
    }
    // SAFETY: as the caller has promised.
    let entries = unsafe { slice::from_raw_parts(operators, n) };
    let known = |entry: &sf_operator| OpKind::from_code(entry.kind).is_some() && !entry.functions.is_null();
    // SAFETY: `Entry` and `sf_operator` are a kind and a pointer; both were looked at. `sf_functions` is one field.
    entries.iter().all(known).then(|| unsafe { slice::from_raw_parts(operators.cast(), n) })
}

/// # Safety
/// `model` may be written.
unsafe fn put_model(
    model: *mut sf_model,
    opened: Result<Model<'static, Native>, shiftformer::ModelError>,
) -> sf_status {
    if model.is_null() || !model.is_aligned() {
        return sf_status::SF_ERROR_ARGUMENT;
    }
    match opened {
        Ok(value) => {
            // SAFETY: the storage is large enough and aligned, as the assertions above say.
            unsafe { model.cast::<OpenModel>().write(Marked { mark: MODEL_MARK, value }) };
            sf_status::SF_OK
        }
        Err(error) => error.into(),
    }
}

/// # Safety
/// `to` points to a number or is `NULL`.
unsafe fn put(to: *mut usize, value: usize) {
    if !to.is_null() && to.is_aligned() {
        // SAFETY: as the caller has promised.
        unsafe { to.write(value) };
    }
}

/// The model in the storage, if there is one.
///
/// # Safety
/// `model` points to storage or is `NULL`.
unsafe fn opened<'a>(model: *const sf_model) -> Option<&'a Model<'static, Native>> {
    if model.is_null() || !model.is_aligned() {
        return None;
    }
    // SAFETY: the mark is the first word of the storage; behind it is a model that `put_model` has written.
    unsafe { (model.cast::<usize>().read() == MODEL_MARK).then(|| &(*model.cast::<OpenModel>()).value) }
}

/// The session in the storage, if there is one.
///
/// # Safety
/// `session` points to storage that nothing else uses, or is `NULL`.
unsafe fn started<'a>(session: *mut sf_session) -> Option<&'a mut Session<'static, 'static, Native>> {
    if session.is_null() || !session.is_aligned() {
        return None;
    }
    // SAFETY: the mark is the first word of the storage; behind it is a session that `sf_session_start` has written.
    unsafe { (session.cast::<usize>().read() == SESSION_MARK).then(|| &mut (*session.cast::<OpenSession>()).value) }
}
