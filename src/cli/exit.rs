//! Exit codes, and which errors give which.
//!
//! 0: done. 1: the run had begun and failed. 2: what was typed, configured or given as input cannot work; nothing had
//! begun. 130, 138, 143: ended by a signal, in order: what there was to save is saved, the terminal is as it was.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use asft::backend::probe::NoDevice;
use asft::config::ConfigError;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// The work is done.
    Success,
    /// A signal asked to stop, and what there was to save is saved.
    Stopped(Signal),
}

/// The signals that end a run in order, with their numbers on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt = 2,
    /// SIGUSR1: a scheduler's warning.
    User1 = 10,
    /// SIGTERM: a scheduler's or container's end.
    Terminate = 15,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Success => Self::SUCCESS,
            // The shells' convention for a process that a signal ended.
            ExitStatus::Stopped(signal) => Self::from(128 + signal as u8),
        }
    }
}

/// Marks an error as one of usage: exit code 2. It shows nothing of its own.
#[derive(Debug)]
pub struct UsageError(anyhow::Error);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for UsageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// `.or_usage()?` on whatever is wrong before work begins.
pub trait OrUsage<T> {
    /// Marks the error with [`UsageError`].
    fn or_usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(UsageError(error.into())))
    }
}

/// The exit code of a failure.
pub fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if find::<UsageError>(error).is_some() || find::<ConfigError>(error).is_some() {
        2
    } else {
        1
    })
}

/// What the person can do about it, where an error of the chain says so.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let device = find::<NoDevice>(error).map(|_| "use --device cpu, or --device auto".to_owned());
    find::<ConfigError>(error).and_then(ConfigError::hint).or(device)
}

/// Whether the reader of stdout has gone, as `head` does: no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let pipe = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(pipe)
}

/// The first error of this type in the chain, also behind a [`UsageError`].
fn find<T: Error + 'static>(error: &anyhow::Error) -> Option<&T> {
    error.chain().find_map(|cause| {
        let marked = || cause.downcast_ref::<UsageError>().and_then(|UsageError(inner)| find::<T>(inner));
        cause.downcast_ref::<T>().or_else(marked)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn lines(error: &anyhow::Error) -> Vec<String> {
        error.chain().map(ToString::to_string).collect()
    }

    #[test]
    fn a_usage_error_is_invisible_but_sets_the_code() {
        let plain = || Err::<(), _>(anyhow!("inner")).context("outer");
        let failed = plain().expect_err("an error");
        let usage = plain().or_usage().context("reading flags").expect_err("an error");
        assert_eq!(lines(&failed), ["outer", "inner"]);
        assert_eq!(lines(&usage), ["reading flags", "outer", "inner"]);
        assert_eq!(code(&failed), ExitCode::from(1));
        assert_eq!(code(&usage), ExitCode::from(2));
    }

    #[test]
    fn hints_are_found_behind_context_and_marker() {
        let error = Err::<(), _>(NoDevice::NoDriver).context("checking").or_usage().expect_err("an error");
        assert_eq!(hint(&error).as_deref(), Some("use --device cpu, or --device auto"));
    }

    #[test]
    fn signals_have_the_shells_codes() {
        let codes = [Signal::Interrupt, Signal::User1, Signal::Terminate]
            .map(|s| ExitCode::from(ExitStatus::Stopped(s)));
        assert_eq!(codes, [130, 138, 143].map(ExitCode::from));
    }
}
