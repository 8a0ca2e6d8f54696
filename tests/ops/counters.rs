//! What kernels move, as the simulator counts it: the claims of `docs/kernels/` about bytes and accesses, as tests.
//!
//! Counted are the accesses of warps to global memory, before any cache: a byte that is read twice counts twice. Timing
//! is nobody's business here.

use std::process::Command;

use asft::backend::cuda::CudaBackend;
use asft::backend::probe;
use serde::Deserialize;

use crate::simulator;

/// Set in a child: do the work that is counted.
const CHILD: &str = "ASFT_TEST_COUNTERS_CHILD";

/// As which device the simulator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Sm80,
    Sm90,
}

/// One launch of a kernel: the fields of the simulator's report that a claim may be about.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code, reason = "what can be claimed is more than what is")]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Static and dynamic, per block.
    pub shared_bytes: u64,
    /// Bytes that threads asked for, each once per warp instruction, and the 32-byte sectors in which they lie.
    pub global_read_unique_bytes: u64,
    pub global_read_sectors: u64,
    pub global_write_unique_bytes: u64,
    pub global_write_sectors: u64,
    pub global_atomic_requests: u64,
    pub shared_read_wavefronts: u64,
    pub shared_read_bank_conflicts: u64,
    pub shared_write_wavefronts: u64,
    pub shared_write_bank_conflicts: u64,
    /// Spills and arrays in local memory.
    pub local_bytes: u64,
    pub tensor_operations: u64,
}

/// Runs `work` in a child process under the simulator as both architectures, and `judge` on what its launches did.
/// `test` is the path of the calling test. On a real device nothing is counted.
pub fn counted(test: &str, work: impl Fn(&mut CudaBackend), judge: impl Fn(Architecture, &[Launch])) {
    if std::env::var_os(CHILD).is_some() {
        return work(&mut CudaBackend::new(probe::cuda(true).unwrap()).unwrap());
    }
    if probe::cuda(false).is_ok() {
        return println!("{test}: only the simulator counts: not run");
    }
    let links = simulator::links();
    for (architecture, capability) in [(Architecture::Sm90, "9.0"), (Architecture::Sm80, "8.0")] {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.jsonl");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(CHILD, "1").env("LD_LIBRARY_PATH", &links);
        command.env("CUDA_SIM_CC", capability).env("CUDA_SIM_REPORT", &report);
        // Races and the like are looked for where results are compared.
        command.env("CUDA_SIM_CHECK", "off");
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "{test} as {architecture:?}:\n{said}");
        let lines = std::fs::read_to_string(&report).unwrap_or_default();
        let launches: Vec<Launch> = lines
            .lines()
            .filter(|line| line.contains("\"grid\""))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert!(!launches.is_empty(), "{test} as {architecture:?} launched nothing:\n{said}");
        judge(architecture, &launches);
    }
}

/// The only launch of a kernel.
pub fn only<'l>(launches: &'l [Launch], kernel: &str) -> &'l Launch {
    let found: Vec<&Launch> = launches.iter().filter(|launch| launch.kernel == kernel).collect();
    let [launch] = found[..] else { panic!("{} launches of {kernel} in {launches:?}", found.len()) };
    launch
}
