//! What one launch did, counted.

/// The counters of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The kernel.
    pub kernel: String,
    /// What the kernel printed.
    pub output: String,
}

impl Report {
    /// The report as one line of JSON, without the line break.
    pub fn to_json(&self) -> String {
        format!("{{\"kernel\":\"{}\"}}", self.kernel)
    }
}
