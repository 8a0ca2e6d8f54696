//! What a stream is given to do, and how it is done.
//!
//! Work is done at once, in the calling thread: that is one of the orders in which a device may do it, and the one in
//! which a fault is reported by the call that caused it (as with `CUDA_LAUNCH_BLOCKING=1`). A capturing stream keeps
//! its commands instead; a graph launch does them later, in their order.

use std::ffi::c_void;
use std::sync::Arc;

use super::abi::{HostFunction, StreamHandle};
use super::codes::{Code, Outcome};
use super::state::{Current, Driver, say};
use super::transfer::{Fill, Transfer};

/// Something the device can be given that this module knows nothing else about: a kernel, a matrix product.
pub(crate) trait Work: Send + Sync {
    /// Does it, to the end.
    fn run(&self, driver: &Driver) -> Result<(), Fault>;
}

/// One entry of a stream.
#[derive(Clone)]
pub(crate) enum Command {
    Work(Arc<dyn Work>),
    Transfer(Transfer),
    Fill(Fill),
    Host(HostCall),
}

/// A function of the client's that a stream calls.
#[derive(Clone, Copy)]
pub(crate) struct HostCall {
    pub(crate) function: HostFunction,
    pub(crate) argument: *mut c_void,
}

// SAFETY: the client gave both to be used later, from a thread of the driver's (documentation of cuLaunchHostFunc).
unsafe impl Send for HostCall {}
// SAFETY: as above; this library never reads through the pointer.
unsafe impl Sync for HostCall {}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    /// Whether the context is broken from now on. What was refused before anything ran does not break it.
    pub(crate) sticky: bool,
    /// What happened, for stderr.
    pub(crate) message: String,
}

impl Command {
    fn run(&self, driver: &Driver) -> Result<(), Fault> {
        match self {
            // Not under the execution lock: a client's function may wait for another of the client's threads.
            Command::Host(call) => {
                // SAFETY: the client handed this function over to be called with this argument.
                unsafe { (call.function)(call.argument) };
                Ok(())
            }
            Command::Work(work) => {
                let _running = driver.execution();
                work.run(driver)
            }
            Command::Transfer(transfer) => {
                let _running = driver.execution();
                transfer.run(&driver.memory)
            }
            Command::Fill(fill) => {
                let _running = driver.execution();
                fill.run(&driver.memory)
            }
        }
    }
}

impl Current {
    /// Gives `command` to `stream`: adds it to the stream's capture, or does it.
    ///
    /// # Errors
    /// The stream is not one, capturing forbids it, or the command failed.
    pub(crate) fn enqueue(mut self, stream: StreamHandle, command: Command) -> Outcome {
        if let Some(capture) = self.capture_of(stream)? {
            return self.captured(capture, stream, command);
        }
        self.run(&[command])
    }

    /// Does commands in their order. The tables are unlocked while it works.
    pub(crate) fn run(self, commands: &[Command]) -> Outcome {
        let Current { driver, state, context } = self;
        drop(state);
        for command in commands {
            let Err(fault) = command.run(driver) else { continue };
            say(&format!("{} ({})", fault.message, fault.code.name()));
            if fault.sticky
                && let Ok(context) = driver.state().contexts.get_mut(context)
            {
                context.sticky = Some(fault.code);
            }
            return Err(fault.code);
        }
        Ok(())
    }
}
