//! How far a long piece of work has come, told to whoever shows it.
//!
//! Boundary: numbers and words; a bar on a terminal is the program's business.

/// Whoever shows how far a long piece of work has come.
pub trait Progress {
    /// A piece of work of `total` units begins.
    fn begin(&mut self, what: &str, total: usize);
    /// Units done so far, and a few words on where it stands.
    fn advance(&mut self, done: usize, note: &str);
    /// It is over.
    fn end(&mut self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: usize) {}
    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
}
