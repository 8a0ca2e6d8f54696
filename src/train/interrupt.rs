//! What can ask a run to end early: the run looks between steps, and saves before it ends.

/// Somebody who may ask to stop.
pub trait Interrupts {
    /// Steps begin: from now on requests are noted instead of ending the program at once.
    fn watch(&mut self);
    /// The number of the signal that asked to stop, if one did.
    fn requested(&self) -> Option<i32>;
}

/// Nobody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uninterrupted;

impl Interrupts for Uninterrupted {
    fn watch(&mut self) {}

    fn requested(&self) -> Option<i32> {
        None
    }
}
