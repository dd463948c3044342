//! A long run in steps, with cancels at random.

use shiftformer::arith::digest::digest;
use shiftformer::kernels::Kernels;
use shiftformer::{Progress, RunFault, Session};

/// One step in so many is followed by a cancel.
const CANCELS: u32 = 64;

/// What a soak did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Soak {
    /// Runs that were finished.
    pub runs: u32,
    /// Runs that were cancelled.
    pub cancels: u32,
    /// Digest of the outputs of all finished runs.
    pub digest: u64,
}

/// Does `steps` steps of runs on random inputs. `between` is called before each with a random number, and may do what it likes.
///
/// What comes out is the same on all machines, whatever interrupts them.
///
/// # Errors
/// As [`Session::step`].
pub fn soak<B: Kernels>(
    session: &mut Session<'_, '_, B>,
    steps: u32,
    mut between: impl FnMut(u32),
) -> Result<Soak, RunFault> {
    let mut numbers = Numbers(1);
    let mut soak = Soak::default();
    fill(session, &mut numbers);
    for _ in 0..steps {
        between(numbers.next());
        match inference(session)? {
            Progress::Done => {
                soak.runs = soak.runs.wrapping_add(1);
                let mut index = 0;
                while let Some(output) = session.output(index) {
                    soak.digest = soak.digest.rotate_left(7).wrapping_add(digest(output));
                    index += 1;
                }
                fill(session, &mut numbers);
            }
            Progress::Running { .. } if numbers.next().is_multiple_of(CANCELS) => {
                soak.cancels = soak.cancels.wrapping_add(1);
                fill(session, &mut numbers);
            }
            Progress::Running { .. } => {}
        }
    }
    Ok(soak)
}

/// A call of its own: the audit of the firmware starts here.
#[inline(never)]
fn inference<B: Kernels>(session: &mut Session<'_, '_, B>) -> Result<Progress, RunFault> {
    session.step()
}

/// Fills all inputs, which cancels a run that is under way.
fn fill<B: Kernels>(session: &mut Session<'_, '_, B>, numbers: &mut Numbers) {
    let mut index = 0;
    while let Some(input) = session.input_mut(index) {
        input.fill_with(|| numbers.next() as u8);
        index += 1;
    }
}

/// A xorshift generator of 32 bits.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}
