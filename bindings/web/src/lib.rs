//! A model in a web page or in Node.js: the functions that JavaScript calls. `run.mjs` is the other side, and
//! `cargo xtask web` builds this with vectors and runs that.
//!
//! JavaScript reserves memory, copies the file there, opens it, and from then on copies input bytes in and output bytes out.
//! Functions return 0 when it went well; [`message`] says what did not.

use shiftformer::kernels::{Kernels, Native};
use shiftformer::ops::OpTable;
use shiftformer::testing::{self, LARGE_BYTES};
use shiftformer::{AlignedBytes, Model, Session};
use std::sync::Mutex;

/// The opened model with the fastest kernels and with the portable ones, and what the last call had to say.
static STATE: Mutex<State> = Mutex::new(State { models: None, message: String::new() });

struct State {
    models: Option<(Model<'static, Native>, Model<'static>, AlignedBytes)>,
    message: String,
}

impl State {
    /// 0, or 1 with a message.
    fn report<E: std::fmt::Display>(&mut self, result: Result<(), E>) -> u32 {
        self.message.clear();
        match result {
            Ok(()) => 0,
            Err(error) => {
                self.message = error.to_string();
                1
            }
        }
    }
}

/// Calls `f` with the state. A module has one thread, and none of its functions panics while it holds the state.
fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    f(&mut STATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Address of `len` zeroed bytes, aligned to 16. They are never freed.
#[unsafe(no_mangle)]
pub extern "C" fn reserve(len: usize) -> *mut u8 {
    Box::leak(Box::new(AlignedBytes::zeroed(len))).as_mut_ptr()
}

/// Opens the model of `len` bytes at `file`.
///
/// # Safety
/// `file` comes from [`reserve`] with at least `len`, and is not written to any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(file: *const u8, len: usize) -> u32 {
    // SAFETY: the caller's contract.
    let file: &'static [u8] = unsafe { std::slice::from_raw_parts(file, len) };
    let opened = Model::open_with(file, OpTable::<Native>::ALL).and_then(|native| {
        let arena = AlignedBytes::zeroed(native.arena_bytes());
        Ok((native, Model::open(file)?, arena))
    });
    with(|state| {
        let result = opened.map(|models| state.models = Some(models));
        state.report(result)
    })
}

/// Runs the model: `input` has the bytes of the first input, `output` becomes those of the first output. With `portable`
/// other than 0 by the portable kernels.
///
/// # Safety
/// Both come from [`reserve`], with at least the given lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn run(
    input: *const u8,
    input_len: usize,
    output: *mut u8,
    output_len: usize,
    portable: u32,
) -> u32 {
    // SAFETY: the caller's contract; the two were reserved apart.
    let (input, output) =
        unsafe { (std::slice::from_raw_parts(input, input_len), std::slice::from_raw_parts_mut(output, output_len)) };
    with(|state| {
        let result = match &mut state.models {
            None => Err("no model is open".to_owned()),
            Some((_, model, arena)) if portable != 0 => infer(model, arena, input, output),
            Some((model, _, arena)) => infer(model, arena, input, output),
        };
        state.report(result)
    })
}

fn infer<B: Kernels>(model: &Model<'_, B>, arena: &mut [u8], input: &[u8], output: &mut [u8]) -> Result<(), String> {
    let mut session = Session::new(model, arena).map_err(|error| error.to_string())?;
    let to = session.input_mut(0).ok_or("the model has no input")?;
    if to.len() != input.len() {
        return Err(format!("the input has {} bytes, the model takes {}", input.len(), to.len()));
    }
    to.copy_from_slice(input);
    session.run().map_err(|fault| fault.to_string())?;
    let from = session.output(0).ok_or("the model has no output")?;
    if from.len() != output.len() {
        return Err(format!("the output has {} bytes, not {}", from.len(), output.len()));
    }
    output.copy_from_slice(from);
    Ok(())
}

/// Bytes of the first input; 0 where no model is open.
#[unsafe(no_mangle)]
pub extern "C" fn input_bytes() -> usize {
    bytes(|session| session.input_mut(0).map_or(0, |input| input.len()))
}

/// Bytes of the first output.
#[unsafe(no_mangle)]
pub extern "C" fn output_bytes() -> usize {
    bytes(|session| {
        // An output is there when the run has finished.
        session.run().ok().and_then(|()| session.output(0)).map_or(0, <[u8]>::len)
    })
}

fn bytes(of: impl FnOnce(&mut Session<'_, '_, Native>) -> usize) -> usize {
    with(|state| match &mut state.models {
        Some((model, _, arena)) => Session::new(model, arena).map_or(0, |mut session| of(&mut session)),
        None => 0,
    })
}

/// Compares the kernels of this build with the portable ones over the case table.
#[unsafe(no_mangle)]
pub extern "C" fn check() -> u32 {
    let mut memory = AlignedBytes::zeroed(LARGE_BYTES);
    let result = testing::check::<Native>(&mut memory).map(|_| ());
    let result = result.and_then(|()| testing::check_large::<Native>(&mut memory).map(|_| ()));
    with(|state| state.report(result.map_err(|difference| format!("{}: {difference:?}", Native::NAME))))
}

/// Where the message of the last call is.
#[unsafe(no_mangle)]
pub extern "C" fn message() -> *const u8 {
    with(|state| state.message.as_ptr())
}

/// Its bytes.
#[unsafe(no_mangle)]
pub extern "C" fn message_bytes() -> usize {
    with(|state| state.message.len())
}
