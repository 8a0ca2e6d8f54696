//! Memory: allocated, freed, pinned, and what is known about a pointer.
//!
//! Pinned host memory is ordinary host memory that this driver remembers; the device cannot read it in place
//! (`CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY` is 0).

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{c_int, c_uint, c_void};

use super::abi::{ContextHandle, DevicePointer, Out, PoolHandle, StreamHandle};
use super::codes::{Code, Outcome};
use super::state::{Current, Driver, State, current, driver, entry, say};
use crate::engine::MemoryError;

/// One allocation of device memory.
pub(crate) struct Allocation {
    pub(crate) context: ContextHandle,
    bytes: u64,
    /// The pool it was taken from.
    pool: Option<PoolHandle>,
}

/// One range of pinned host memory.
pub(crate) struct HostBlock {
    pub(crate) context: ContextHandle,
    bytes: usize,
    flags: c_uint,
    /// Ours to free; `None` for memory that the client registered.
    owned: Option<OwnedHost>,
}

/// Host memory that was allocated here.
struct OwnedHost {
    address: *mut u8,
    layout: Layout,
}

// SAFETY: the block is reached through this value alone and is only freed through it; threads may share the bytes, which
// is between the client and its threads.
unsafe impl Send for OwnedHost {}

impl OwnedHost {
    /// Zeroed memory on a page of its own, as the driver gives it.
    fn new(bytes: usize) -> Outcome<OwnedHost> {
        const PAGE: usize = 4096;
        let layout = Layout::from_size_align(bytes.max(1), PAGE).map_err(|_| Code::OUT_OF_MEMORY)?;
        // SAFETY: the layout's size is not zero.
        let address = unsafe { alloc_zeroed(layout) };
        if address.is_null() { Err(Code::OUT_OF_MEMORY) } else { Ok(OwnedHost { address, layout }) }
    }
}

impl Drop for OwnedHost {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.address, self.layout) };
    }
}

/// Device memory is aligned as the driver aligns it.
const ALIGNMENT: u64 = 512;

/// A device memory error as the driver reports it.
pub(crate) fn refuse(error: MemoryError) -> Code {
    let code = match error {
        MemoryError::OutOfMemory { .. } => Code::OUT_OF_MEMORY,
        MemoryError::InvalidRequest { .. }
        | MemoryError::NotAnAllocation { .. }
        | MemoryError::OutOfBounds { .. } => Code::INVALID_VALUE,
    };
    say(&format!("{error} ({})", code.name()));
    code
}

impl State {
    /// Frees an allocation. Its pool, if it is still there, notes it.
    pub(crate) fn forget_allocation(&mut self, driver: &Driver, address: u64) -> Outcome {
        let Some(allocation) = self.allocations.remove(&address) else {
            return Err(refuse(MemoryError::NotAnAllocation { address }));
        };
        if let Some(Ok(pool)) = allocation.pool.map(|pool| self.pools.get_mut(pool)) {
            pool.gave_back(allocation.bytes);
        }
        driver.memory.free(address).map_err(refuse)
    }

    /// The allocation around `address`, with its first address.
    pub(crate) fn allocation_around(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (&start, allocation) = self.allocations.range(..=address).next_back()?;
        (address - start < allocation.bytes).then_some((start, allocation))
    }

    /// The pinned block around a host address, with its first address.
    fn host_block_around(&self, address: usize) -> Option<(usize, &HostBlock)> {
        let (&start, block) = self.host_blocks.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((start, block))
    }

    /// Bytes that a new allocation could still get.
    fn free_bytes(&self, driver: &Driver) -> u64 {
        let idle: u64 = self.pools.iter().map(|(_, pool)| pool.idle()).sum();
        driver.memory.info().0.saturating_sub(idle)
    }
}

impl Current {
    fn allocate(&mut self, bytes: usize, pool: Option<PoolHandle>) -> Outcome<u64> {
        let bytes = bytes as u64;
        let address = self.driver.memory.allocate(bytes, ALIGNMENT).map_err(refuse)?;
        let allocation = Allocation { context: self.context, bytes, pool };
        self.state.allocations.insert(address, allocation);
        let span = &mut self.state.device_span;
        *span =
            if span.is_empty() { address } else { span.start.min(address) }..span.end.max(address + bytes);
        Ok(address)
    }

    /// Stream-ordered allocation; `None` takes the device's current pool.
    pub(crate) fn allocate_from_pool(
        &mut self,
        bytes: usize,
        pool: Option<PoolHandle>,
        stream: StreamHandle,
    ) -> Outcome<u64> {
        self.check_stream(stream)?;
        if let Some(capture) = self.capture_of(stream)? {
            say("allocating in a captured stream is not implemented");
            return Err(self.invalidate(capture, Code::NOT_SUPPORTED));
        }
        let pool = pool.unwrap_or_else(|| self.state.current_pool());
        if !self.state.pools.get(pool)?.has_room(bytes as u64) {
            return Err(Code::OUT_OF_MEMORY);
        }
        let address = self.allocate(bytes, Some(pool))?;
        self.state.pools.get_mut(pool)?.took(bytes as u64);
        Ok(address)
    }

    fn pin(&mut self, bytes: usize, flags: c_uint) -> Outcome<*mut c_void> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        self.forbid_while_capturing()?;
        let owned = OwnedHost::new(bytes)?;
        let address = owned.address;
        let block = HostBlock { context: self.context, bytes, flags, owned: Some(owned) };
        self.state.host_blocks.insert(address as usize, block);
        Ok(address.cast())
    }
}

/// Frees after whatever is running is done, since that may use the memory.
fn free(address: DevicePointer, stream: Option<StreamHandle>) -> Outcome {
    let driver = driver()?;
    let _running = driver.execution();
    let mut current = current()?;
    match stream {
        None => current.forbid_while_capturing()?,
        Some(stream) => {
            if let Some(capture) = current.capture_of(stream)? {
                say("freeing in a captured stream is not implemented");
                return Err(current.invalidate(capture, Code::NOT_SUPPORTED));
            }
        }
    }
    if address == 0 { Ok(()) } else { current.state.forget_allocation(driver, address) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Code {
    entry(|| {
        let current = current()?;
        free.put(current.state.free_bytes(current.driver) as usize)?;
        total.put(current.driver.memory.info().1 as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<DevicePointer>, bytes: usize) -> Code {
    entry(|| {
        let mut current = current()?;
        current.forbid_while_capturing()?;
        address.put(current.allocate(bytes, None)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocPitch_v2(
    address: Out<DevicePointer>,
    pitch: Out<usize>,
    width_bytes: usize,
    height: usize,
    element_bytes: c_uint,
) -> Code {
    entry(|| {
        if ![4, 8, 16].contains(&element_bytes) {
            return Err(Code::INVALID_VALUE);
        }
        let mut current = current()?;
        current.forbid_while_capturing()?;
        let row = width_bytes.checked_next_multiple_of(ALIGNMENT as usize).ok_or(Code::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
        let allocated = current.allocate(bytes, None)?;
        pitch.put(row)?;
        address.put(allocated)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: DevicePointer) -> Code {
    entry(|| free(address, None))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: DevicePointer, stream: StreamHandle) -> Code {
    entry(|| free(address, Some(stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAddressRange_v2(
    base: Out<DevicePointer>,
    bytes: Out<usize>,
    address: DevicePointer,
) -> Code {
    entry(|| {
        let current = current()?;
        let (start, allocation) = current.state.allocation_around(address).ok_or(Code::NOT_FOUND)?;
        base.put_if_wanted(start)?;
        bytes.put_if_wanted(allocation.bytes as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(address: Out<*mut c_void>, bytes: usize, flags: c_uint) -> Code {
    // CU_MEMHOSTALLOC_PORTABLE, _DEVICEMAP, _WRITECOMBINED
    const KNOWN: c_uint = 7;
    entry(|| {
        if flags & !KNOWN != 0 {
            return Err(Code::INVALID_VALUE);
        }
        address.put(current()?.pin(bytes, flags)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(address: Out<*mut c_void>, bytes: usize) -> Code {
    entry(|| address.put(current()?.pin(bytes, 0)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> Code {
    entry(|| {
        let driver = driver()?;
        let _running = driver.execution();
        let mut current = current()?;
        current.forbid_while_capturing()?;
        let at = address as usize;
        if current.state.host_blocks.get(&at).is_none_or(|block| block.owned.is_none()) {
            return Err(Code::INVALID_VALUE);
        }
        current.state.host_blocks.remove(&at);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint) -> Code {
    entry(|| {
        let mut current = current()?;
        current.forbid_while_capturing()?;
        let start = address as usize;
        let end = start.checked_add(bytes).filter(|_| start != 0 && bytes != 0).ok_or(Code::INVALID_VALUE)?;
        let before = current.state.host_blocks.range(..end).next_back();
        if before.is_some_and(|(&other, block)| other + block.bytes > start) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let block = HostBlock { context: current.context, bytes, flags, owned: None };
        current.state.host_blocks.insert(start, block);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(address: *mut c_void) -> Code {
    entry(|| {
        let mut current = current()?;
        current.forbid_while_capturing()?;
        let at = address as usize;
        match current.state.host_blocks.get(&at) {
            Some(block) if block.owned.is_none() => {
                current.state.host_blocks.remove(&at);
                Ok(())
            }
            _ => Err(Code::HOST_MEMORY_NOT_REGISTERED),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetFlags(flags: Out<c_uint>, address: *mut c_void) -> Code {
    entry(|| {
        let current = current()?;
        let (_, block) = current.state.host_block_around(address as usize).ok_or(Code::INVALID_VALUE)?;
        flags.put(block.flags)
    })
}

/// `CUpointer_attribute`s that are answered.
fn pointer_attribute(state: &State, value: Out<u64>, attribute: c_uint, address: DevicePointer) -> Outcome {
    const HOST: u32 = 1;
    const DEVICE: u32 = 2;
    if let Some((start, allocation)) = state.allocation_around(address) {
        return match attribute {
            1 => value.at(0).put(allocation.context.0 as u64),
            2 => value.cast::<u32>().put(DEVICE),
            3 => value.at(0).put(address),
            8 => value.cast::<u8>().put(0), // IS_MANAGED
            9 => value.cast::<c_int>().put(0),
            11 => value.at(0).put(start),
            12 => value.at(0).put(allocation.bytes),
            13 => value.cast::<u8>().put(1), // MAPPED
            17 => value.at(0).put(allocation.pool.map_or(0, |pool| pool.0 as u64)),
            _ => Err(Code::NOT_SUPPORTED),
        };
    }
    let (start, block) = state.host_block_around(address as usize).ok_or(Code::INVALID_VALUE)?;
    match attribute {
        1 => value.at(0).put(block.context.0 as u64),
        2 => value.cast::<u32>().put(HOST),
        4 => value.at(0).put(address),
        8 => value.cast::<u8>().put(0),
        9 => value.cast::<c_int>().put(0),
        11 => value.at(0).put(start as u64),
        12 => value.at(0).put(block.bytes as u64),
        13 => value.cast::<u8>().put(0),
        _ => Err(Code::NOT_SUPPORTED),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(value: Out<u64>, attribute: c_uint, address: DevicePointer) -> Code {
    entry(|| {
        let outcome = pointer_attribute(&current()?.state, value, attribute, address);
        if outcome == Err(Code::NOT_SUPPORTED) {
            say(&format!("cuPointerGetAttribute: attribute {attribute} is not implemented"));
        }
        outcome
    })
}
