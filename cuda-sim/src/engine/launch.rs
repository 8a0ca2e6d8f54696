//! One launch: its geometry is checked, its blocks are spread over host threads, its counters are summed.

use super::checks::LaunchShadow;
use super::error::{Finding, FindingKind, LaunchError};
use super::execute::Fault;
use super::ir::Program;
use super::memory::{Allocation, DeviceMemory};
use super::module::{FunctionId, Kernel, Module};
use super::options::Options;
use super::report::Report;
use super::unit::{Outcome, Unit};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What is launched.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub function: FunctionId,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// Blocks per cluster in x, y, z; `None` takes the kernel's own, or no cluster.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared_bytes: u32,
    /// One byte slice per kernel parameter, each of that parameter's size.
    pub parameters: &'a [&'a [u8]],
}

/// Most threads of a block, and its most threads in x, y and z.
const MAX_THREADS: u32 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Most blocks in x, y and z.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Most shared memory of a block, with the opt-in, on the largest device (9.0).
const MAX_SHARED: u32 = 227 * 1024;
/// Most blocks of a cluster (16 needs an opt-in that this engine does not ask for).
const MAX_CLUSTER: u32 = 16;
/// Instructions that a unit runs before other units of its host thread get a chance.
const UNIT_BUDGET: u64 = 1_000_000;
/// Units that one host thread keeps in memory at most; a device has as many blocks in flight.
const RESIDENT_UNITS: usize = 256;

/// Everything that the blocks of one launch share.
pub(crate) struct LaunchState<'l> {
    pub module: &'l Module,
    pub kernel: &'l Kernel,
    pub program: &'l Program,
    pub memory: &'l DeviceMemory,
    pub allocations: Vec<Arc<Allocation>>,
    /// The parameter space, as words for their alignment.
    pub parameters: Vec<u64>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared_bytes: u32,
    pub dynamic_shared_bytes: u32,
    pub options: &'l Options,
    pub shadow: LaunchShadow,
    findings: Mutex<Findings>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    /// One finding per kind and instruction is enough.
    seen: HashSet<(FindingKind, u32, u32)>,
}

impl LaunchState<'_> {
    /// Adds a finding, unless the same instruction has one of that kind already.
    pub fn record(&self, fault: &Fault, ctaid: [u32; 3], thread: u32, function: u32, pc: u32) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = findings.seen.insert((fault.kind, function, pc));
        if !is_new || findings.list.len() >= LaunchError::MAX_FINDINGS {
            return;
        }
        let code = &self.program.functions[function as usize].code;
        let (line, source) = code.get(pc as usize).map_or((0, (0, 0)), |i| (i.line, i.source));
        let file = self.module.files.get(&source.0).filter(|_| source.1 != 0);
        findings.list.push(Finding {
            kind: fault.kind,
            kernel: self.kernel.name.clone(),
            block: ctaid,
            thread: self.thread_of(thread),
            ptx_line: line,
            instruction: self.module.line(line).to_owned(),
            source: file.map(|file| (file.clone(), source.1)),
            message: fault.message.clone(),
        });
    }

    /// Adds a finding after which nothing more runs.
    pub fn record_fatal(&self, fault: &Fault, ctaid: [u32; 3], thread: u32, function: u32, pc: u32) {
        self.record(fault, ctaid, thread, function, pc);
        self.stop();
    }

    /// `%tid` of a thread by its number in the block.
    pub fn thread_of(&self, number: u32) -> [u32; 3] {
        let [nx, ny, _] = self.block;
        [number % nx, number / nx % ny, number / nx / ny]
    }

    /// `%clusterid` by the cluster's number.
    pub fn cluster_of(&self, number: u64) -> [u32; 3] {
        let [nx, ny, _] = [0, 1, 2].map(|axis| u64::from(self.grid[axis] / self.cluster[axis]));
        [number % nx, number / nx % ny, number / nx / ny].map(|index| index as u32)
    }

    /// `%ctaid` of a block by its cluster's number and its rank there.
    pub fn block_of(&self, cluster: u64, rank: u32) -> [u32; 3] {
        let [cx, cy, _] = self.cluster;
        let (id, within) = (self.cluster_of(cluster), [rank % cx, rank / cx % cy, rank / cx / cy]);
        [0, 1, 2].map(|axis| id[axis] * self.cluster[axis] + within[axis])
    }

    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}

/// Runs one grid to its end.
///
/// # Errors
/// The geometry or the parameters are refused before anything runs; findings come after the launch has stopped.
pub fn launch(
    module: &Module,
    memory: &DeviceMemory,
    launch: &Launch<'_>,
    options: &Options,
) -> Result<Report, LaunchError> {
    let kernel = &module.kernels[launch.function.0];
    let cluster = check_geometry(kernel, launch)?;
    let parameters = pack_parameters(kernel, launch.parameters)?;
    let allocations = memory.snapshot();
    let state = LaunchState {
        module,
        kernel,
        program: &kernel.program,
        memory,
        shadow: LaunchShadow::new(allocations.len()),
        allocations,
        parameters,
        grid: launch.grid,
        block: launch.block,
        cluster,
        shared_bytes: kernel.program.static_shared_bytes + launch.dynamic_shared_bytes,
        dynamic_shared_bytes: launch.dynamic_shared_bytes,
        options,
        findings: Mutex::default(),
        stopped: AtomicBool::new(false),
    };
    let mut report = run_units(&state);
    report.kernel.clone_from(&kernel.name);
    report.grid = launch.grid;
    report.block = launch.block;
    report.registers = kernel.attributes.registers;
    report.shared_bytes = state.shared_bytes;
    report.thread_instructions = report.by_class.iter().sum();
    if options.print && !report.output.is_empty() {
        print!("{}", report.output);
    }
    let mut findings = state.findings.into_inner().unwrap_or_else(PoisonError::into_inner).list;
    if findings.is_empty() {
        return Ok(report);
    }
    findings.sort_by_key(|finding| (finding.block, finding.ptx_line, finding.thread));
    Err(LaunchError::Findings(findings))
}

fn check_geometry(kernel: &Kernel, launch: &Launch<'_>) -> Result<[u32; 3], LaunchError> {
    let refuse = |out_of_resources: bool, message: String| LaunchError::Configuration {
        kernel: kernel.name.clone(),
        message,
        out_of_resources,
    };
    for axis in 0..3 {
        let (blocks, threads) = (launch.grid[axis], launch.block[axis]);
        let name = ["x", "y", "z"][axis];
        if blocks == 0 || blocks > MAX_GRID[axis] {
            return Err(refuse(
                false,
                format!("{blocks} blocks in {name}; 1 to {} are allowed", MAX_GRID[axis]),
            ));
        }
        if threads == 0 || threads > MAX_BLOCK[axis] {
            return Err(refuse(
                false,
                format!("{threads} threads in {name}; 1 to {} are allowed", MAX_BLOCK[axis]),
            ));
        }
    }
    let threads: u32 = launch.block.iter().product();
    if threads > MAX_THREADS {
        return Err(refuse(false, format!("{threads} threads per block; at most {MAX_THREADS} are allowed")));
    }
    let attributes = &kernel.attributes;
    if threads > attributes.max_threads {
        let limit = attributes.max_threads;
        return Err(refuse(
            true,
            format!("{threads} threads per block; the kernel was compiled for at most {limit}"),
        ));
    }
    if let Some(required) = attributes.required_threads
        && required != launch.block
    {
        return Err(refuse(false, format!("a block of {:?}; the kernel demands {required:?}", launch.block)));
    }
    let shared = u64::from(attributes.static_shared_bytes) + u64::from(launch.dynamic_shared_bytes);
    if shared > u64::from(MAX_SHARED) {
        return Err(refuse(
            true,
            format!("{shared} bytes of shared memory; a block has at most {MAX_SHARED}"),
        ));
    }
    let cluster = launch.cluster.or(attributes.required_cluster).unwrap_or([1; 3]);
    if let Some(required) = attributes.required_cluster
        && required != cluster
    {
        return Err(refuse(false, format!("a cluster of {cluster:?}; the kernel demands {required:?}")));
    }
    let divides = (0..3).all(|axis| cluster[axis] != 0 && launch.grid[axis] % cluster[axis] == 0);
    let blocks = cluster.iter().fold(1u32, |product, side| product.saturating_mul(*side));
    if !divides || blocks > MAX_CLUSTER {
        let grid = launch.grid;
        return Err(refuse(
            false,
            format!("clusters of {cluster:?} in a grid of {grid:?}; at most 16 blocks, evenly"),
        ));
    }
    Ok(cluster)
}

fn pack_parameters(kernel: &Kernel, parameters: &[&[u8]]) -> Result<Vec<u64>, LaunchError> {
    let refuse = |message: String| LaunchError::Parameters { kernel: kernel.name.clone(), message };
    if parameters.len() != kernel.layout.len() {
        return Err(refuse(format!(
            "{} parameters for a kernel of {}",
            parameters.len(),
            kernel.layout.len()
        )));
    }
    let mut bytes = vec![0u8; (kernel.program.parameter_bytes as usize).next_multiple_of(8) + 16];
    for (index, (given, layout)) in parameters.iter().zip(&kernel.layout).enumerate() {
        if given.len() != layout.bytes {
            return Err(refuse(format!(
                "parameter {index} has {} bytes, {} are expected",
                given.len(),
                layout.bytes
            )));
        }
        bytes[layout.offset..layout.offset + layout.bytes].copy_from_slice(given);
    }
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// Spreads the units over host threads; each thread keeps units that spin aside and comes back to them.
fn run_units(state: &LaunchState<'_>) -> Report {
    let units: u64 = (0..3).map(|axis| u64::from(state.grid[axis] / state.cluster[axis])).product();
    let order = state.options.schedule_seed.map(|seed| {
        let mut order: Vec<usize> = (0..units as usize).collect();
        shuffle(&mut order, seed);
        order
    });
    let next = AtomicU64::new(0);
    let take = || {
        let number = next.fetch_add(1, Relaxed);
        if number >= units || state.is_stopped() {
            return None;
        }
        Some(order.as_ref().map_or(number, |order| order[number as usize] as u64))
    };
    let work = || {
        let mut report = Report::default();
        let mut waiting = VecDeque::new();
        loop {
            // New units first: what the waiting ones wait for may be among them.
            let fresh = if waiting.len() < RESIDENT_UNITS { take() } else { None };
            let mut unit = match fresh {
                Some(number) => Unit::new(state, number),
                None => match waiting.pop_front() {
                    Some(unit) => unit,
                    None => return report,
                },
            };
            match unit.run(state, &mut report, UNIT_BUDGET) {
                Outcome::Done => {}
                Outcome::Unfinished if state.is_stopped() => return report,
                Outcome::Unfinished => waiting.push_back(unit),
                Outcome::Failed => return report,
            }
        }
    };
    let threads = (state.options.thread_count() as u64).min(units).max(1);
    if threads == 1 {
        return work();
    }
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut report = Report::default();
        for handle in handles {
            match handle.join() {
                Ok(part) => report.add(&part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        report
    })
}

/// A permutation from a seed (Fisher-Yates over SplitMix64).
pub(crate) fn shuffle(order: &mut [usize], seed: u64) {
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    for last in (1..order.len()).rev() {
        order.swap(last, (random() % (last as u64 + 1)) as usize);
    }
}
