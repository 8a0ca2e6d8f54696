//! Launches: a client's arguments become a checked launch, which the engine runs.
//!
//! What the driver refuses before anything runs is refused here with the driver's code. What the engine finds while the
//! kernel runs breaks the context, as a fault on a GPU does.

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use super::abi::{FunctionHandle, In, LaunchAttribute, LaunchConfig, StreamHandle};
use super::codes::{Code, Outcome};
use super::command::{Command, Fault, Work};
use super::device::Device;
use super::function::Function;
use super::state::{Driver, current, entry, say};
use crate::engine::{self, FindingKind, FunctionId, Launch, LaunchError, Module};

/// A launch with everything it needs, so that a graph can do it again.
struct KernelLaunch {
    code: Arc<Module>,
    function: FunctionId,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    dynamic_shared_bytes: u32,
    parameters: Vec<Vec<u8>>,
}

impl Work for KernelLaunch {
    fn run(&self, driver: &Driver) -> Result<(), Fault> {
        let parameters: Vec<&[u8]> = self.parameters.iter().map(Vec::as_slice).collect();
        let launch = Launch {
            function: self.function,
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            parameters: &parameters,
        };
        let report = engine::launch(&self.code, &driver.memory, &launch, &driver.options).map_err(fault)?;
        driver.report(&report.to_json());
        Ok(())
    }
}

/// How the driver reports what stopped a launch.
fn fault(error: LaunchError) -> Fault {
    let (code, sticky) = match &error {
        LaunchError::Configuration { out_of_resources: true, .. } => (Code::LAUNCH_OUT_OF_RESOURCES, false),
        LaunchError::Configuration { .. } | LaunchError::Parameters { .. } => (Code::INVALID_VALUE, false),
        // Of several findings the first that has a code of its own decides.
        LaunchError::Findings(findings) => {
            let mut codes = findings.iter().map(|finding| finding_code(finding.kind));
            (codes.find(|&code| code != Code::LAUNCH_FAILED).unwrap_or(Code::LAUNCH_FAILED), true)
        }
    };
    Fault { code, sticky, message: error.to_string() }
}

fn finding_code(kind: FindingKind) -> Code {
    match kind {
        FindingKind::OutOfBounds | FindingKind::UseAfterFree | FindingKind::ReadOnly => Code::ILLEGAL_ADDRESS,
        FindingKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FindingKind::Deadlock => Code::LAUNCH_TIMEOUT,
        FindingKind::Unsupported => Code::NOT_SUPPORTED,
        FindingKind::Uninitialised
        | FindingKind::DivergentBarrier
        | FindingKind::PartialWarp
        | FindingKind::Race
        | FindingKind::CrossBlockRace
        | FindingKind::AsyncRace
        | FindingKind::Trap
        | FindingKind::InvalidOperand
        | FindingKind::StackOverflow => Code::LAUNCH_FAILED,
    }
}

/// What the launch attributes ask for.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) cluster: Option<[u32; 3]>,
}

/// Reads the attributes of a launch. Hints (cache policy, scheduling, priority, overlap with the launch before) are
/// accepted and change nothing; what would change the result is refused.
pub(super) fn attributes(config: &LaunchConfig) -> Outcome<Attributes> {
    const IGNORE: c_uint = 0;
    const COOPERATIVE: c_uint = 2;
    const CLUSTER_DIMENSION: c_uint = 4;
    const HINTS: [c_uint; 9] = [1, 3, 5, 6, 8, 9, 10, 11, 14];
    let mut attributes = Attributes::default();
    for at in 0..config.attribute_count as usize {
        let LaunchAttribute { id, value, .. } = config.attributes.at(at)?;
        match id {
            IGNORE => {}
            COOPERATIVE if value[0] == 0 => {}
            CLUSTER_DIMENSION => attributes.cluster = Some([value[0], value[1], value[2]]),
            hint if HINTS.contains(&hint) => {}
            _ => {
                say(&format!("cuLaunchKernelEx: launch attribute {id} is not implemented"));
                return Err(Code::NOT_SUPPORTED);
            }
        }
    }
    Ok(attributes)
}

/// The number of blocks in a cluster.
fn cluster_blocks(cluster: [u32; 3]) -> Outcome<u32> {
    let blocks = cluster.iter().try_fold(1u32, |product, &axis| product.checked_mul(axis));
    blocks.filter(|&blocks| blocks > 0).ok_or(Code::INVALID_CLUSTER_SIZE)
}

/// Refuses a cluster that the device or the kernel does not allow; gives the number of its blocks.
pub(super) fn check_cluster(function: &Function, device: &Device, cluster: [u32; 3]) -> Outcome<u32> {
    let refuse = |code: Code, message: String| {
        say(&format!("{}: {message} ({})", function.name, code.name()));
        Err(code)
    };
    if device.largest_cluster == 1 {
        return refuse(Code::NOT_SUPPORTED, "clusters need compute capability 9.0".to_owned());
    }
    let most = if function.non_portable_cluster { device.largest_cluster } else { device.portable_cluster };
    let required = function.attributes.required_cluster;
    let blocks = cluster_blocks(cluster)?;
    if required.is_some_and(|required| required != cluster) || blocks > most {
        let message =
            format!("a cluster of {cluster:?} blocks; {most} in all, or what the kernel requires, can be");
        return refuse(Code::INVALID_CLUSTER_SIZE, message);
    }
    Ok(blocks)
}

/// Refuses what the driver refuses, and says why on stderr: the code alone rarely does.
fn check(function: &Function, device: &Device, config: &LaunchConfig, cluster: Option<[u32; 3]>) -> Outcome {
    let refuse = |code: Code, message: String| {
        say(&format!("{}: {message} ({})", function.name, code.name()));
        Err(code)
    };
    let LaunchConfig { grid, block, .. } = config;
    let outside =
        |size: &[u32; 3], limit: [u32; 3]| (0..3).any(|axis| size[axis] == 0 || size[axis] > limit[axis]);
    if outside(grid, Device::GRID) {
        return refuse(
            Code::INVALID_VALUE,
            format!("a grid of {grid:?} blocks; 1 to {:?} can be", Device::GRID),
        );
    }
    let threads: u64 = block.iter().map(|&axis| u64::from(axis)).product();
    if outside(block, Device::BLOCK) || threads > Device::THREADS_PER_BLOCK.into() {
        let (limit, total) = (Device::BLOCK, Device::THREADS_PER_BLOCK);
        return refuse(
            Code::INVALID_VALUE,
            format!("a block of {block:?} threads; {limit:?}, {total} in all, can be"),
        );
    }
    let own = &function.attributes;
    if let Some(required) = own.required_threads.filter(|required| required != block) {
        return refuse(
            Code::INVALID_VALUE,
            format!("a block of {block:?} threads; .reqntid demands {required:?}"),
        );
    }
    if threads > own.max_threads.into() {
        let message = format!("{threads} threads per block; the kernel allows {}", own.max_threads);
        return refuse(Code::LAUNCH_OUT_OF_RESOURCES, message);
    }
    if config.shared_bytes > function.dynamic_shared_limit {
        let message = format!(
            "{} bytes of dynamic shared memory; {} are allowed beside {} static ones (cuFuncSetAttribute raises it)",
            config.shared_bytes, function.dynamic_shared_limit, own.static_shared_bytes
        );
        return refuse(Code::INVALID_VALUE, message);
    }
    let Some(cluster) = cluster else { return Ok(()) };
    check_cluster(function, device, cluster)?;
    if (0..3).any(|axis| !grid[axis].is_multiple_of(cluster[axis])) {
        return refuse(
            Code::INVALID_CLUSTER_SIZE,
            format!("a grid of {grid:?} is no multiple of {cluster:?}"),
        );
    }
    Ok(())
}

/// Copies the parameters out of the client's memory: one pointer each, or one packed buffer.
///
/// # Safety
/// `each` is null or points to as many pointers as the kernel has parameters, each to that many bytes; `packed` is null
/// or a list as the documentation of `cuLaunchKernel` has it.
unsafe fn parameters(
    function: &Function,
    each: *const *const c_void,
    packed: *const *const c_void,
) -> Outcome<Vec<Vec<u8>>> {
    let layout = function.parameters();
    let copy = |from: *const u8, bytes: usize| {
        let mut to = vec![0; bytes];
        // SAFETY: the caller promises `bytes` readable bytes at `from`.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), bytes) };
        to
    };
    if layout.is_empty() {
        return Ok(Vec::new());
    }
    if !each.is_null() {
        return (0..layout.len())
            .map(|at| {
                // SAFETY: the caller promises one pointer per parameter.
                let from = unsafe { *each.add(at) };
                if from.is_null() {
                    Err(Code::INVALID_VALUE)
                } else {
                    Ok(copy(from.cast(), layout[at].bytes))
                }
            })
            .collect();
    }
    // SAFETY: the caller promises that `packed` is null or such a list.
    let (buffer, bytes) = unsafe { packed_buffer(packed) }?;
    layout
        .iter()
        .map(|parameter| {
            let fits = parameter.offset.checked_add(parameter.bytes).is_some_and(|end| end <= bytes);
            if fits {
                Ok(copy(buffer.wrapping_add(parameter.offset), parameter.bytes))
            } else {
                Err(Code::INVALID_VALUE)
            }
        })
        .collect()
}

/// The buffer and its size from a list of `CU_LAUNCH_PARAM_*`.
///
/// # Safety
/// `list` is null or a list of keys and values that ends with `CU_LAUNCH_PARAM_END`.
unsafe fn packed_buffer(list: *const *const c_void) -> Outcome<(*const u8, usize)> {
    const END: usize = 0;
    const BUFFER: usize = 1;
    const SIZE: usize = 2;
    if list.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let (mut buffer, mut bytes) = (ptr::null::<u8>(), None);
    let mut at = list;
    loop {
        // SAFETY: the list has not ended, so a key is here.
        match unsafe { *at } as usize {
            END => break,
            // SAFETY: a value follows every key but the last.
            BUFFER => buffer = unsafe { *at.add(1) }.cast(),
            // SAFETY: as above; this one points to the size.
            SIZE => bytes = Some(unsafe { *(*at.add(1)).cast::<usize>() }),
            _ => return Err(Code::INVALID_VALUE),
        }
        at = at.wrapping_add(2);
    }
    let bytes = bytes.filter(|_| !buffer.is_null()).ok_or(Code::INVALID_VALUE)?;
    Ok((buffer, bytes))
}

/// # Safety
/// As for [`parameters`].
unsafe fn launch(
    function: FunctionHandle,
    config: &LaunchConfig,
    each: *const *const c_void,
    packed: *const *const c_void,
) -> Outcome {
    let current = current()?;
    current.check_stream(config.stream)?;
    let function = current.state.functions.get(function)?;
    if !function.attributes.is_kernel {
        return Err(Code::INVALID_HANDLE);
    }
    let cluster = attributes(config)?.cluster.or(function.attributes.required_cluster);
    check(function, &current.driver.device, config, cluster)?;
    let launch = KernelLaunch {
        code: Arc::clone(&function.code),
        function: function.id,
        grid: config.grid,
        block: config.block,
        cluster,
        dynamic_shared_bytes: config.shared_bytes,
        // SAFETY: the caller's promise.
        parameters: unsafe { parameters(function, each, packed) }?,
    };
    current.enqueue(config.stream, Command::Work(Arc::new(launch)))
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: FunctionHandle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: StreamHandle,
    each: *const *const c_void,
    packed: *const *const c_void,
) -> Code {
    entry(|| {
        let config = LaunchConfig {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            stream,
            attributes: In::none(),
            attribute_count: 0,
        };
        // SAFETY: the client gives parameters as the documentation of cuLaunchKernel has it.
        unsafe { launch(function, &config, each, packed) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernelEx(
    config: In<LaunchConfig>,
    function: FunctionHandle,
    each: *const *const c_void,
    packed: *const *const c_void,
) -> Code {
    // SAFETY: the client gives parameters as the documentation of cuLaunchKernelEx has it.
    entry(|| unsafe { launch(function, &config.get()?, each, packed) })
}
