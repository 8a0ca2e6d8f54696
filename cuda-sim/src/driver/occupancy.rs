//! Occupancy: how many blocks of a function fit on a multiprocessor, and what follows from that.
//!
//! The rules are those of NVIDIA's occupancy calculator for compute capability 8.0 and 9.0: registers are taken in 256
//! per warp and for four warps at a time, shared memory in 128 bytes with 1 KiB more per block for the system. The
//! registers are the engine's estimate, not what `ptxas` would allocate.

use std::ffi::{c_int, c_uint};

use super::abi::{BlockToShared, FunctionHandle, In, LaunchConfig, Out};
use super::codes::{Code, Outcome};
use super::device::Device;
use super::launch::{self, check_cluster};
use super::state::{current, entry};
use crate::engine::FunctionAttributes;

/// A function on a device.
struct Occupancy {
    device: &'static Device,
    attributes: FunctionAttributes,
    non_portable_cluster: bool,
}

impl Occupancy {
    /// Copies what it needs, so that a client's callback is not called under a lock.
    fn of(function: FunctionHandle) -> Outcome<Occupancy> {
        let current = current()?;
        let function = current.state.functions.get(function)?;
        Ok(Occupancy {
            device: &current.driver.device,
            attributes: function.attributes.clone(),
            non_portable_cluster: function.non_portable_cluster,
        })
    }

    /// Blocks of `threads` threads with `dynamic` bytes of dynamic shared memory that fit on one multiprocessor at once.
    fn blocks(&self, threads: u32, dynamic: usize) -> u32 {
        if threads == 0 || threads > self.attributes.max_threads {
            return 0;
        }
        let warps = threads.div_ceil(Device::WARP);
        let by_threads = Device::THREADS_PER_MULTIPROCESSOR / (warps * Device::WARP);
        let registers_per_warp = (self.attributes.registers * Device::WARP).next_multiple_of(256);
        let by_registers = match registers_per_warp {
            0 => Device::BLOCKS_PER_MULTIPROCESSOR,
            _ => Device::REGISTERS / registers_per_warp / 4 * 4 / warps.next_multiple_of(4),
        };
        let shared = (dynamic as u64).saturating_add(self.attributes.static_shared_bytes.into());
        if shared > u64::from(self.device.shared_per_block_optin) {
            return 0;
        }
        let per_block = (shared + u64::from(Device::SHARED_RESERVED)).next_multiple_of(128);
        let by_shared = (u64::from(self.device.shared_per_multiprocessor) / per_block) as u32;
        Device::BLOCKS_PER_MULTIPROCESSOR.min(by_threads).min(by_registers).min(by_shared)
    }

    /// How many blocks fill the device with the most resident threads, and the largest block size that does.
    fn best(&self, limit: u32, shared: impl Fn(u32) -> usize) -> (u32, u32) {
        let most =
            if limit == 0 { self.attributes.max_threads } else { limit.min(self.attributes.max_threads) };
        let sizes = (1..=most.div_ceil(Device::WARP)).rev().map(|warps| (warps * Device::WARP).min(most));
        let (mut resident, mut best) = (0, (0, 0));
        for size in sizes {
            let blocks = self.blocks(size, shared(size));
            if blocks * size > resident {
                resident = blocks * size;
                best = (blocks * self.device.multiprocessors, size);
            }
        }
        best
    }
}

/// A count of something that a client gave, which must be positive.
fn positive(number: c_int) -> Outcome<u32> {
    u32::try_from(number).ok().filter(|&number| number > 0).ok_or(Code::INVALID_VALUE)
}

fn active_blocks(blocks: Out<c_int>, function: FunctionHandle, threads: c_int, dynamic: usize) -> Outcome {
    blocks.put(Occupancy::of(function)?.blocks(positive(threads)?, dynamic) as c_int)
}

fn potential_block(
    (grid, block): (Out<c_int>, Out<c_int>),
    function: FunctionHandle,
    shared: Option<BlockToShared>,
    dynamic: usize,
    limit: c_int,
) -> Outcome {
    let limit = u32::try_from(limit).map_err(|_| Code::INVALID_VALUE)?;
    let (blocks, size) = Occupancy::of(function)?.best(limit, |threads| match shared {
        None => dynamic,
        // SAFETY: the client gave this function to be called with block sizes.
        Some(shared) => unsafe { shared(threads as c_int) },
    });
    grid.put(blocks as c_int)?;
    block.put(size as c_int)
}

/// The one known flag turns off a caching override that this device does not have.
fn check_flags(flags: c_uint) -> Outcome {
    if flags <= 1 { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<c_int>,
    function: FunctionHandle,
    threads: c_int,
    dynamic: usize,
) -> Code {
    entry(|| active_blocks(blocks, function, threads, dynamic))
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<c_int>,
    function: FunctionHandle,
    threads: c_int,
    dynamic: usize,
    flags: c_uint,
) -> Code {
    entry(|| {
        check_flags(flags)?;
        active_blocks(blocks, function, threads, dynamic)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: FunctionHandle,
    shared: Option<BlockToShared>,
    dynamic: usize,
    limit: c_int,
) -> Code {
    entry(|| potential_block((grid, block), function, shared, dynamic, limit))
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: FunctionHandle,
    shared: Option<BlockToShared>,
    dynamic: usize,
    limit: c_int,
    flags: c_uint,
) -> Code {
    entry(|| {
        check_flags(flags)?;
        potential_block((grid, block), function, shared, dynamic, limit)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    dynamic: Out<usize>,
    function: FunctionHandle,
    blocks: c_int,
    threads: c_int,
) -> Code {
    entry(|| {
        let occupancy = Occupancy::of(function)?;
        let (blocks, threads) = (positive(blocks)?, positive(threads)?);
        if occupancy.blocks(threads, 0) < blocks {
            return Err(Code::INVALID_VALUE);
        }
        let share = occupancy.device.shared_per_multiprocessor / blocks / 128 * 128;
        let most = share.saturating_sub(Device::SHARED_RESERVED).min(occupancy.device.shared_per_block_optin);
        dynamic.put(most.saturating_sub(occupancy.attributes.static_shared_bytes) as usize)
    })
}

/// Clusters are taken to be free to spread over the whole device; on a GPU each stays within one of its clusters of
/// multiprocessors, so this is an upper bound.
#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveClusters(
    clusters: Out<c_int>,
    function: FunctionHandle,
    config: In<LaunchConfig>,
) -> Code {
    entry(|| {
        let config = config.get()?;
        let occupancy = Occupancy::of(function)?;
        let asked = launch::attributes(&config)?.cluster.or(occupancy.attributes.required_cluster);
        let size = match asked {
            Some(cluster) => {
                let current = current()?;
                check_cluster(current.state.functions.get(function)?, occupancy.device, cluster)?
            }
            None => 1,
        };
        let threads = config.block.iter().try_fold(1u32, |product, &axis| product.checked_mul(axis));
        let per_multiprocessor =
            occupancy.blocks(threads.ok_or(Code::INVALID_VALUE)?, config.shared_bytes as usize);
        clusters.put((per_multiprocessor * occupancy.device.multiprocessors / size) as c_int)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialClusterSize(
    size: Out<c_int>,
    function: FunctionHandle,
    _config: In<LaunchConfig>,
) -> Code {
    entry(|| {
        let Occupancy { device, non_portable_cluster, .. } = Occupancy::of(function)?;
        size.put(if non_portable_cluster { device.largest_cluster } else { device.portable_cluster } as c_int)
    })
}
