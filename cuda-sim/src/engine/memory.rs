//! Device memory: allocations with addresses that are never used twice, their bytes, and which bytes were ever written.
//!
//! The boundary: this module knows addresses and bytes; who may touch them when is the business of the checks.

use super::error::MemoryError;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First address of device memory. Below are the windows of the other state spaces, and below those every address that a
/// process can have on the host (47 bits on x86-64, 48 on AArch64): a host pointer never hits device memory by chance.
pub(crate) const FIRST_ADDRESS: u64 = HOST_ADDRESSES + (3 << 40);
/// No pointer of the host reaches this.
pub(crate) const HOST_ADDRESSES: u64 = 1 << 48;
/// Every allocation starts at a multiple of this, as `cuMemAlloc` guarantees.
const MINIMUM_ALIGNMENT: u64 = 256;
/// Unused addresses after each allocation, so that a small overrun never reaches the next one.
const GUARD: u64 = 4096;
/// Addresses end here; a program that allocates this much in total is out of addresses.
const LAST_ADDRESS: u64 = 1 << 62;

/// One allocation: its addresses, its bytes, and a bit per byte that says whether anybody wrote it.
pub(crate) struct Allocation {
    pub address: u64,
    pub bytes: u64,
    pub read_only: bool,
    freed: AtomicBool,
    /// All bytes are initialised; spares looking at the bits.
    complete: AtomicBool,
    /// One more word than needed, so that no access inside the allocation is ever past the end.
    data: Box<[AtomicU64]>,
    initialised: Box<[AtomicU8]>,
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.address)
    }
}

/// `count` zeroed atomics whose pages the operating system hands out as they are touched.
fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    let plain = vec![0u64; count].into_boxed_slice();
    // SAFETY: AtomicU64 has the size, alignment and bit validity of u64, and the box is uniquely owned.
    unsafe { Box::from_raw(Box::into_raw(plain) as *mut [AtomicU64]) }
}

fn zeroed_bytes(count: usize) -> Box<[AtomicU8]> {
    let plain = vec![0u8; count].into_boxed_slice();
    // SAFETY: AtomicU8 has the size, alignment and bit validity of u8, and the box is uniquely owned.
    unsafe { Box::from_raw(Box::into_raw(plain) as *mut [AtomicU8]) }
}

impl Allocation {
    fn new(address: u64, bytes: u64, read_only: bool) -> Allocation {
        Allocation {
            address,
            bytes,
            read_only,
            freed: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            data: zeroed_words(bytes as usize / 8 + 2),
            initialised: zeroed_bytes(bytes as usize / 8 + 2),
        }
    }

    /// The first byte of the data. Every access through it must be atomic: host and kernels share the bytes.
    pub fn base(&self) -> *mut u8 {
        self.data.as_ptr().cast::<u8>().cast_mut()
    }

    pub fn is_freed(&self) -> bool {
        self.freed.load(Relaxed)
    }

    fn byte(&self, offset: u64) -> &AtomicU8 {
        assert!(offset < self.bytes, "offset {offset} of {self:?}");
        // SAFETY: the offset is inside the data, and AtomicU8 has no alignment or validity requirement beyond u8's.
        unsafe { &*self.base().add(offset as usize).cast::<AtomicU8>() }
    }

    fn read(&self, offset: u64, to: &mut [u8]) {
        let mut at = 0;
        while at < to.len() {
            let position = offset + at as u64;
            if position.is_multiple_of(8) && to.len() - at >= 8 {
                let word = self.data[position as usize / 8].load(Relaxed);
                to[at..at + 8].copy_from_slice(&word.to_le_bytes());
                at += 8;
            } else {
                to[at] = self.byte(position).load(Relaxed);
                at += 1;
            }
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let mut at = 0;
        while at < from.len() {
            let position = offset + at as u64;
            match from[at..].first_chunk::<8>() {
                Some(word) if position.is_multiple_of(8) => {
                    self.data[position as usize / 8].store(u64::from_le_bytes(*word), Relaxed);
                    at += 8;
                }
                _ => {
                    self.byte(position).store(from[at], Relaxed);
                    at += 1;
                }
            }
        }
    }

    /// Marks bytes as written.
    pub fn mark_initialised(&self, offset: u64, bytes: u64) {
        if self.complete.load(Relaxed) {
            return;
        }
        if offset == 0 && bytes == self.bytes {
            self.complete.store(true, Relaxed);
            return;
        }
        if let Some(bits) = single_byte(offset, bytes)
            && self.initialised[(offset / 8) as usize].load(Relaxed) & bits == bits
        {
            return;
        }
        for_bits(offset, bytes, |index, bits| {
            let cell = &self.initialised[index];
            if bits == 0xff {
                cell.store(0xff, Relaxed);
            } else if cell.load(Relaxed) & bits != bits {
                cell.fetch_or(bits, Relaxed);
            }
        });
    }

    /// The first byte of the range that nobody wrote.
    pub fn first_uninitialised(&self, offset: u64, bytes: u64) -> Option<u64> {
        if self.complete.load(Relaxed) {
            return None;
        }
        if let Some(bits) = single_byte(offset, bytes)
            && self.initialised[(offset / 8) as usize].load(Relaxed) & bits == bits
        {
            return None;
        }
        let mut first = None;
        for_bits(offset, bytes, |index, bits| {
            let missing = bits & !self.initialised[index].load(Relaxed);
            if missing != 0 && first.is_none() {
                first = Some(index as u64 * 8 + u64::from(missing.trailing_zeros()));
            }
        });
        first
    }

    fn copy_initialised(&self, offset: u64, from: &Allocation, from_offset: u64, bytes: u64) {
        if from.complete.load(Relaxed) {
            return self.mark_initialised(offset, bytes);
        }
        for at in 0..bytes {
            if from.first_uninitialised(from_offset + at, 1).is_none() {
                self.mark_initialised(offset + at, 1);
            } else {
                self.complete_to_bits();
                self.initialised[((offset + at) / 8) as usize]
                    .fetch_and(!(1 << ((offset + at) % 8)), Relaxed);
            }
        }
    }

    /// Spells `complete` out in the bits, before one of them is cleared.
    fn complete_to_bits(&self) {
        if self.complete.load(Relaxed) {
            for cell in &self.initialised {
                cell.store(0xff, Relaxed);
            }
            self.complete.store(false, Relaxed);
        }
    }
}

/// The bits of a range that lies in one byte of a bitmap.
#[inline(always)]
pub(crate) fn single_byte(offset: u64, bits: u64) -> Option<u8> {
    (offset % 8 + bits <= 8).then(|| (((1u16 << bits) - 1) << (offset % 8)) as u8)
}

/// Calls `each(byte index, bits)` for a range of bits in a bitmap of bytes.
pub(crate) fn for_bits(offset: u64, bits: u64, mut each: impl FnMut(usize, u8)) {
    let (mut at, end) = (offset, offset + bits);
    while at < end {
        let upto = end.min((at / 8 + 1) * 8);
        let mask = ((1u16 << (upto - at)) - 1) << (at % 8);
        each((at / 8) as usize, mask as u8);
        at = upto;
    }
}

#[derive(Debug)]
struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    /// Start and length of what was freed, for findings that say so.
    freed: BTreeMap<u64, u64>,
    next: u64,
    used: u64,
}

#[derive(Debug)]
struct Inner {
    capacity: u64,
    state: Mutex<State>,
}

/// The memory of one device. Cheap to clone: all clones are the same memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    inner: Arc<Inner>,
}

impl DeviceMemory {
    /// An empty memory of `capacity` bytes. Host memory is taken as allocations are touched, not here.
    pub fn new(capacity: u64) -> Self {
        let state = State { live: BTreeMap::new(), freed: BTreeMap::new(), next: FIRST_ADDRESS, used: 0 };
        DeviceMemory { inner: Arc::new(Inner { capacity, state: Mutex::new(state) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `(free, total)` in bytes.
    pub fn info(&self) -> (u64, u64) {
        (self.inner.capacity - self.state().used, self.inner.capacity)
    }

    /// Takes `bytes` bytes, uninitialised, at an address that is a multiple of `alignment` (a power of two) and 256.
    ///
    /// # Errors
    /// No room, no bytes, or no power of two.
    pub fn allocate(&self, bytes: u64, alignment: u64) -> Result<u64, MemoryError> {
        self.place(bytes, alignment, false).map(|allocation| allocation.address)
    }

    pub(crate) fn place(
        &self,
        bytes: u64,
        alignment: u64,
        read_only: bool,
    ) -> Result<Arc<Allocation>, MemoryError> {
        if bytes == 0 || !alignment.is_power_of_two() || alignment > 1 << 32 {
            return Err(MemoryError::InvalidRequest { bytes, alignment });
        }
        let mut state = self.state();
        let free = self.inner.capacity - state.used;
        let address = state.next.next_multiple_of(alignment.max(MINIMUM_ALIGNMENT));
        if bytes > free || address >= LAST_ADDRESS - bytes - GUARD {
            let capacity = self.inner.capacity;
            return Err(MemoryError::OutOfMemory { requested: bytes, free, capacity });
        }
        let allocation = Arc::new(Allocation::new(address, bytes, read_only));
        state.live.insert(address, Arc::clone(&allocation));
        state.used += bytes;
        state.next = address + bytes + GUARD;
        Ok(allocation)
    }

    /// Gives an allocation back. Its addresses are never handed out again, so later uses are found.
    ///
    /// # Errors
    /// `address` is not the start of a live allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut state = self.state();
        let allocation = state.live.remove(&address).ok_or(MemoryError::NotAnAllocation { address })?;
        allocation.freed.store(true, Relaxed);
        state.used -= allocation.bytes;
        state.freed.insert(address, allocation.bytes);
        Ok(())
    }

    /// The allocation around `address`: its start and its length in bytes.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let state = self.state();
        let (_, allocation) = state.live.range(..=address).next_back()?;
        (address - allocation.address < allocation.bytes).then_some((allocation.address, allocation.bytes))
    }

    /// The live allocation that holds the whole range, and the range's offset in it. It stays what it is while it is held,
    /// even if another thread frees it.
    pub(crate) fn locate(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let state = self.state();
        if let Some((_, allocation)) = state.live.range(..=address).next_back() {
            let offset = address - allocation.address;
            if offset <= allocation.bytes && bytes <= allocation.bytes - offset {
                return Ok((Arc::clone(allocation), offset));
            }
        }
        let reason = state.describe(address);
        Err(MemoryError::OutOfBounds { address, bytes, reason })
    }

    /// Reads bytes as the host. Bytes nobody wrote are zero.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        if to.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.locate(address, to.len() as u64)?;
        allocation.read(offset, to);
        Ok(())
    }

    /// Writes bytes as the host; they count as initialised.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        if from.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.locate(address, from.len() as u64)?;
        allocation.write(offset, from);
        allocation.mark_initialised(offset, from.len() as u64);
        Ok(())
    }

    /// Writes `count` copies of `pattern` (1, 2 or 4 bytes, or any other length), as memset does.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).checked_mul(count).ok_or(MemoryError::OutOfBounds {
            address,
            bytes: u64::MAX,
            reason: "the length does not fit into 64 bits".to_owned(),
        })?;
        if bytes == 0 {
            return Ok(());
        }
        let (allocation, offset) = self.locate(address, bytes)?;
        // A block of whole patterns whose length is a multiple of 8, so that whole words are written.
        let block = pattern.repeat(512);
        let mut at = 0;
        while at < bytes {
            let length = (bytes - at).min(block.len() as u64);
            allocation.write(offset + at, &block[..length as usize]);
            at += length;
        }
        allocation.mark_initialised(offset, bytes);
        Ok(())
    }

    /// Copies `bytes` bytes from one range to another (they may overlap); what was uninitialised stays so.
    ///
    /// # Errors
    /// One of the ranges is not inside one live allocation.
    pub fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, source_offset) = self.locate(from, bytes)?;
        let (target, target_offset) = self.locate(to, bytes)?;
        let mut buffer = vec![0; bytes as usize];
        source.read(source_offset, &mut buffer);
        target.write(target_offset, &buffer);
        if !(Arc::ptr_eq(&source, &target) && source_offset == target_offset) {
            target.copy_initialised(target_offset, &source, source_offset, bytes);
        }
        Ok(())
    }

    /// The live allocations at this moment, by address: what a launch may touch.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.state().live.values().cloned().collect()
    }

    /// What lies at or before an address that is no good, and whether it was freed.
    pub(crate) fn describe(&self, address: u64) -> (String, bool) {
        let state = self.state();
        (state.describe(address), state.was_freed(address))
    }
}

impl State {
    fn was_freed(&self, address: u64) -> bool {
        self.freed.range(..=address).next_back().is_some_and(|(start, bytes)| address - start < *bytes)
    }

    fn describe(&self, address: u64) -> String {
        let freed = self.freed.range(..=address).next_back();
        if let Some((start, bytes)) = freed.filter(|(start, bytes)| address - **start < **bytes) {
            return format!("inside the allocation of {bytes} bytes at {start:#x}, which was freed");
        }
        match self.live.range(..=address).next_back() {
            Some((start, allocation)) => {
                let (offset, bytes) = (address - start, allocation.bytes);
                format!("offset {offset} from the allocation of {bytes} bytes at {start:#x}")
            }
            None if (4096..HOST_ADDRESSES).contains(&address) => {
                "not an address of device memory; it could be one of the host's".to_owned()
            }
            None if address < FIRST_ADDRESS => "not an address of device memory".to_owned(),
            None => "before every live allocation".to_owned(),
        }
    }
}
