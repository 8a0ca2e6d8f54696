//! Memory pools: what stream-ordered allocation counts as used and as reserved.
//!
//! Every allocation is its own in device memory, so that an access past its end is found; a pool only keeps the books
//! that a program can ask for. As the documentation of `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD` has it, memory that was
//! freed stays reserved up to the threshold when something is next waited for.

use std::ffi::{c_int, c_uint};

use super::abi::{In, MemoryLocation, Out, PoolHandle, PoolProperties, StreamHandle};
use super::codes::{Code, Outcome};
use super::device;
use super::state::{Current, State, current, driver, entry, say};

/// Memory is reserved in steps of this many bytes.
const STEP: u64 = 32 << 20;

/// One pool.
pub(crate) struct Pool {
    is_default: bool,
    max_bytes: u64,
    release_threshold: u64,
    /// `CU_MEMPOOL_ATTR_REUSE_*`: kept, and without effect on work that is done at once.
    reuse: [u32; 3],
    used: u64,
    used_high: u64,
    reserved: u64,
    reserved_high: u64,
}

impl Pool {
    fn new(is_default: bool, max_bytes: u64) -> Pool {
        Pool {
            is_default,
            max_bytes,
            release_threshold: 0,
            reuse: [1; 3],
            used: 0,
            used_high: 0,
            reserved: 0,
            reserved_high: 0,
        }
    }

    /// Whether `bytes` more stay within the pool's own limit.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.max_bytes == 0 || self.used.saturating_add(bytes) <= self.max_bytes
    }

    pub(crate) fn took(&mut self, bytes: u64) {
        self.used += bytes;
        self.used_high = self.used_high.max(self.used);
        self.reserved = self.reserved.max(self.used.next_multiple_of(STEP));
        self.reserved_high = self.reserved_high.max(self.reserved);
    }

    pub(crate) fn gave_back(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    /// What it holds without using it.
    pub(crate) fn idle(&self) -> u64 {
        self.reserved - self.used
    }

    fn trim_to(&mut self, keep: u64) {
        let needed = self.used.next_multiple_of(STEP);
        self.reserved = self.reserved.min(needed.max(keep));
    }
}

impl State {
    /// The device's default pool, made when it is first asked for.
    fn default_pool(&mut self) -> PoolHandle {
        *self.default_pool.get_or_insert_with(|| self.pools.insert(Pool::new(true, 0)))
    }

    /// The pool that `cuMemAllocAsync` takes from.
    pub(crate) fn current_pool(&mut self) -> PoolHandle {
        let default = self.default_pool();
        self.current_pool.unwrap_or(default)
    }
}

impl Current {
    /// Something was waited for: pools give back what is above their threshold.
    pub(crate) fn release_unused_pool_memory(&mut self) {
        for pool in self.state.pools.values_mut() {
            pool.trim_to(pool.release_threshold);
        }
    }
}

/// `CUmemPool_attribute`.
#[derive(Clone, Copy)]
enum Attribute {
    /// One of the three switches for reuse, a 32-bit number.
    Reuse(usize),
    ReleaseThreshold,
    Reserved,
    ReservedHigh,
    Used,
    UsedHigh,
}

impl Attribute {
    fn from_number(number: c_uint) -> Outcome<Attribute> {
        Ok(match number {
            1..=3 => Attribute::Reuse(number as usize - 1),
            4 => Attribute::ReleaseThreshold,
            5 => Attribute::Reserved,
            6 => Attribute::ReservedHigh,
            7 => Attribute::Used,
            8 => Attribute::UsedHigh,
            _ => return Err(Code::INVALID_VALUE),
        })
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAttribute(pool: PoolHandle, attribute: c_uint, value: Out<u64>) -> Code {
    entry(|| {
        let state = driver()?.state();
        let pool = state.pools.get(pool)?;
        value.put(match Attribute::from_number(attribute)? {
            Attribute::Reuse(at) => return value.cast::<u32>().put(pool.reuse[at]),
            Attribute::ReleaseThreshold => pool.release_threshold,
            Attribute::Reserved => pool.reserved,
            Attribute::ReservedHigh => pool.reserved_high,
            Attribute::Used => pool.used,
            Attribute::UsedHigh => pool.used_high,
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(pool: PoolHandle, attribute: c_uint, value: Out<u64>) -> Code {
    entry(|| {
        let mut state = driver()?.state();
        let pool = state.pools.get_mut(pool)?;
        match Attribute::from_number(attribute)? {
            Attribute::Reuse(at) => pool.reuse[at] = value.cast::<u32>().read()?,
            Attribute::ReleaseThreshold => pool.release_threshold = value.read()?,
            // The high-water marks can be reset, to zero only.
            Attribute::ReservedHigh if value.read()? == 0 => pool.reserved_high = pool.reserved,
            Attribute::UsedHigh if value.read()? == 0 => pool.used_high = pool.used,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<PoolHandle>, ordinal: c_int) -> Code {
    entry(|| {
        device::device(ordinal)?;
        pool.put(driver()?.state().default_pool())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(pool: Out<PoolHandle>, ordinal: c_int) -> Code {
    entry(|| {
        device::device(ordinal)?;
        pool.put(driver()?.state().current_pool())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(ordinal: c_int, pool: PoolHandle) -> Code {
    entry(|| {
        device::device(ordinal)?;
        let mut state = driver()?.state();
        state.pools.get(pool)?;
        state.current_pool = Some(pool);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolCreate(pool: Out<PoolHandle>, properties: In<PoolProperties>) -> Code {
    const PINNED: c_uint = 1;
    const DEVICE: c_uint = 1;
    entry(|| {
        let wanted = properties.get()?;
        let MemoryLocation { kind, id } = wanted.location;
        if wanted.allocation_type != PINNED || id != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if kind != DEVICE || wanted.handle_types != 0 {
            say("cuMemPoolCreate: only pools of device memory without shareable handles are implemented");
            return Err(Code::NOT_SUPPORTED);
        }
        pool.put(driver()?.state().pools.insert(Pool::new(false, wanted.max_bytes as u64)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: PoolHandle) -> Code {
    entry(|| {
        let mut state = driver()?.state();
        if state.pools.get(pool)?.is_default {
            return Err(Code::INVALID_VALUE);
        }
        state.pools.remove(pool)?;
        // Allocations from it live on; the device falls back to its default pool.
        state.current_pool.take_if(|current| *current == pool);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: PoolHandle, keep: usize) -> Code {
    entry(|| {
        driver()?.state().pools.get_mut(pool)?.trim_to(keep as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<u64>,
    bytes: usize,
    pool: PoolHandle,
    stream: StreamHandle,
) -> Code {
    entry(|| address.put(current()?.allocate_from_pool(bytes, Some(pool), stream)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: StreamHandle) -> Code {
    entry(|| address.put(current()?.allocate_from_pool(bytes, None, stream)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_stays_reserved_up_to_the_threshold() {
        let mut pool = Pool::new(false, 0);
        pool.took(40 << 20);
        assert_eq!((pool.used, pool.reserved), (40 << 20, 64 << 20));
        pool.gave_back(40 << 20);
        assert_eq!(pool.idle(), 64 << 20, "nothing was waited for yet");
        pool.trim_to(50 << 20);
        assert_eq!(pool.reserved, 50 << 20);
        pool.trim_to(0);
        assert_eq!((pool.reserved, pool.reserved_high, pool.used_high), (0, 64 << 20, 40 << 20));
    }

    #[test]
    fn a_pool_can_have_a_limit() {
        let mut pool = Pool::new(false, 100);
        assert!(pool.has_room(100) && !pool.has_room(101));
        pool.took(60);
        assert!(!pool.has_room(41));
    }
}
