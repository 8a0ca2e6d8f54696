//! How a launch is run: what is checked, in which order, on how many threads.

use std::thread;

/// When an asynchronous copy really moves its bytes. A correct kernel cannot tell the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AsyncCompletion {
    /// At the instruction that issues it.
    Issue,
    /// At the instruction that waits for it.
    #[default]
    Wait,
}

/// How a launch is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Look for races, uninitialised reads, divergent barriers and conflicts between blocks. Bounds and alignment are
    /// always checked.
    pub checks: bool,
    /// Permute the order of blocks and warps with this seed; `None` runs them in their natural order.
    pub schedule_seed: Option<u64>,
    /// When asynchronous copies complete.
    pub asynchronous: AsyncCompletion,
    /// Host threads over which the blocks are spread; 0 takes one per core.
    pub threads: usize,
    /// Print what the kernel prints (`vprintf`) to standard output when the launch ends. [`super::Report::output`] has
    /// it in any case.
    pub print: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: true,
            schedule_seed: None,
            asynchronous: AsyncCompletion::default(),
            threads: 0,
            print: true,
        }
    }
}

impl Options {
    /// Reads `CUDA_SIM_CHECK` (`0`/`off`: no checks), `CUDA_SIM_SCHEDULE` (a seed), `CUDA_SIM_ASYNC` (`issue` or `wait`)
    /// and `CUDA_SIM_THREADS` (a number). What is unset keeps its default.
    ///
    /// # Errors
    /// A sentence naming the variable, its value and what would be right.
    pub fn from_env() -> Result<Options, String> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// The same over any source of variables.
    ///
    /// # Errors
    /// As [`Options::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
        let mut options = Options::default();
        if let Some(value) = lookup("CUDA_SIM_CHECK") {
            options.checks = match value.as_str() {
                "1" | "on" | "" => true,
                "0" | "off" => false,
                _ => {
                    return Err(format!(
                        "CUDA_SIM_CHECK is `{value}`; `on` or `off` (1 or 0) would be right"
                    ));
                }
            };
        }
        if let Some(value) = lookup("CUDA_SIM_SCHEDULE").filter(|value| !value.is_empty()) {
            let seed = value.parse().map_err(|_| {
                format!("CUDA_SIM_SCHEDULE is `{value}`; a seed from 0 to {} would be right", u64::MAX)
            })?;
            options.schedule_seed = Some(seed);
        }
        if let Some(value) = lookup("CUDA_SIM_ASYNC").filter(|value| !value.is_empty()) {
            options.asynchronous = match value.as_str() {
                "issue" => AsyncCompletion::Issue,
                "wait" => AsyncCompletion::Wait,
                _ => return Err(format!("CUDA_SIM_ASYNC is `{value}`; `issue` or `wait` would be right")),
            };
        }
        if let Some(value) = lookup("CUDA_SIM_THREADS").filter(|value| !value.is_empty()) {
            options.threads = value
                .parse()
                .map_err(|_| format!("CUDA_SIM_THREADS is `{value}`; a number of threads would be right"))?;
        }
        Ok(options)
    }

    /// The number of host threads to use.
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        }
    }
}
