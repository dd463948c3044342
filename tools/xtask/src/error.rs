//! Why a task stopped.

use std::io;
use std::process::ExitCode;

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A check found something.
    #[error("{0}")]
    Check(String),
    /// A command ended with a failure.
    #[error("`{0}` failed")]
    Command(String),
    /// Something this machine lacks.
    #[error("{what} is missing; {how}")]
    Missing {
        /// What.
        what: String,
        /// How to get it.
        how: String,
    },
    /// The command line asks for something that does not exist.
    #[error("{0}")]
    Usage(String),
    /// A file or process cannot be used.
    #[error("cannot {doing}: {source}")]
    Operands {
        /// What was attempted.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// Adds what was attempted to an input/output error.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        |source| Self::Operands { doing, source }
    }

    /// 1 when a check failed, 2 when it could not be made.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Check(_) | Error::Command(_) => ExitCode::from(1),
            Error::Missing { .. } | Error::Usage(_) | Error::Operands { .. } => ExitCode::from(2),
        }
    }
}
