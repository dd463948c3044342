//! What a long command is doing: a line that changes on a terminal, lines on stderr elsewhere.

use super::{data, output};
use indicatif::ProgressBar;
use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// What is done sooner says nothing.
const QUIET: Duration = Duration::from_millis(500);
/// Begins every line, so that readers of stderr tell them from warnings and errors.
pub const MARK: &str = "... ";

/// The steps of one command, from its first second on.
pub enum Steps {
    /// On a terminal.
    Line(ProgressBar),
    /// Elsewhere: a thread writes them.
    Lines(Option<(Sender<String>, JoinHandle<()>)>),
}

impl Steps {
    /// Starts with the step `what`.
    pub fn start(what: &str) -> Self {
        let steps = if stderr().is_terminal() {
            Self::Line(data::spinner())
        } else {
            let (sender, receiver) = channel();
            Self::Lines(Some((sender, spawn(move || write(&receiver)))))
        };
        steps.say(what);
        steps
    }

    /// The step `what` begins.
    pub fn say(&self, what: &str) {
        match self {
            Self::Line(bar) => bar.set_message(what.to_owned()),
            Self::Lines(Some((sender, _))) => {
                let _ = sender.send(what.to_owned());
            }
            Self::Lines(None) => {}
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        match self {
            Self::Line(bar) => bar.finish_and_clear(),
            Self::Lines(thread) => {
                if let Some((sender, thread)) = thread.take() {
                    drop(sender);
                    let _ = thread.join();
                }
            }
        }
    }
}

/// Writes the step of the moment once the quiet time is over, then every further one.
fn write(steps: &Receiver<String>) {
    let end = Instant::now() + QUIET;
    let mut now = None;
    loop {
        match steps.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(step) => now = Some(step),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    now.into_iter().chain(steps.iter()).for_each(|step| output::status(&format!("{MARK}{step}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_with_their_command() {
        // Under test stderr is no terminal, or it is: both must come to an end.
        let steps = Steps::start("first");
        steps.say("second");
        drop(steps);
    }
}
