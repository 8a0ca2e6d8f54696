//! Memory as a warp sees it: addresses of every state space are resolved to host memory, bounds and alignment are
//! checked, bytes are moved. What the checks and the counters see of it is in `inspect`.
//!
//! This is the only module that dereferences raw pointers into simulated memory. Every pointer comes from `resolve`, which
//! has checked bounds and alignment; global and shared memory are only touched through atomics, because blocks on other
//! host threads may use the same bytes.

use super::checks::{Kind, Touch};
use super::error::FindingKind;
use super::execute::{Executor, Fault};
use super::ir::{
    Access, Address, Atomic, Element, LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_RANK_SHIFT, SHARED_WINDOW,
    WINDOW_BYTES,
};
use super::lower::lanes;
use super::registers::{LANES, Source};
use super::traffic::count_global;
use super::types::Space;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Where each active lane's access lies.
pub(super) struct Places {
    pub pointers: [*mut u8; LANES],
    /// Index of the allocation (global) or of the block (shared).
    pub owner: [u32; LANES],
    /// Offset in the allocation, the shared memory or the thread's local memory.
    pub offset: [u64; LANES],
}

impl Places {
    fn new() -> Places {
        Places { pointers: [std::ptr::null_mut(); LANES], owner: [0; LANES], offset: [0; LANES] }
    }
}

/// Reads 1, 2, 4 or 8 bytes.
///
/// # Safety
/// The pointer is valid for that many bytes and aligned to them.
pub(super) unsafe fn load(pointer: *const u8, bytes: u32) -> u64 {
    // SAFETY: by the caller's promise; atomics have the layout of their integers.
    unsafe {
        match bytes {
            1 => u64::from((*pointer.cast::<AtomicU8>()).load(Ordering::Relaxed)),
            2 => u64::from((*pointer.cast::<AtomicU16>()).load(Ordering::Relaxed)),
            4 => u64::from((*pointer.cast::<AtomicU32>()).load(Ordering::Relaxed)),
            _ => (*pointer.cast::<AtomicU64>()).load(Ordering::Relaxed),
        }
    }
}

/// Writes 1, 2, 4 or 8 bytes.
///
/// # Safety
/// The pointer is valid for that many bytes and aligned to them.
pub(super) unsafe fn store(pointer: *mut u8, bytes: u32, value: u64) {
    // SAFETY: by the caller's promise; atomics have the layout of their integers.
    unsafe {
        match bytes {
            1 => (*pointer.cast::<AtomicU8>()).store(value as u8, Ordering::Relaxed),
            2 => (*pointer.cast::<AtomicU16>()).store(value as u16, Ordering::Relaxed),
            4 => (*pointer.cast::<AtomicU32>()).store(value as u32, Ordering::Relaxed),
            _ => (*pointer.cast::<AtomicU64>()).store(value, Ordering::Relaxed),
        }
    }
}

/// Replaces a word by a function of it in one step; returns the old one.
///
/// # Safety
/// The pointer is valid for that many bytes and aligned to them.
unsafe fn update(pointer: *mut u8, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
    // Sequentially consistent: what a kernel orders by fences around atomics must hold between host threads.
    const ORDER: Ordering = Ordering::SeqCst;
    macro_rules! through {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: by the caller's promise; atomics have the layout of their integers.
            let cell = unsafe { &*pointer.cast::<$atomic>() };
            let mut old = cell.load(ORDER);
            loop {
                match cell.compare_exchange(old, f(u64::from(old)) as $int, ORDER, ORDER) {
                    Ok(old) => return u64::from(old),
                    Err(now) => old = now,
                }
            }
        }};
    }
    match bytes {
        2 => through!(AtomicU16, u16),
        4 => through!(AtomicU32, u32),
        _ => {
            // SAFETY: by the caller's promise.
            let cell = unsafe { &*pointer.cast::<AtomicU64>() };
            let mut old = cell.load(ORDER);
            loop {
                match cell.compare_exchange(old, f(old), ORDER, ORDER) {
                    Ok(old) => return old,
                    Err(now) => old = now,
                }
            }
        }
    }
}

/// The state space of a generic address, and the address in it.
fn classify(address: u64) -> (Space, u64) {
    for (space, window) in [
        (Space::SharedCluster, SHARED_WINDOW),
        (Space::Local, LOCAL_WINDOW),
        (Space::Param, PARAMETER_WINDOW),
    ] {
        let offset = address.wrapping_sub(window);
        if offset < WINDOW_BYTES {
            return (space, offset);
        }
    }
    (Space::Global, address)
}

fn extend(value: u64, bytes: u32, signed: bool) -> u64 {
    match (bytes, signed) {
        (1, true) => value as i8 as u64,
        (2, true) => value as i16 as u64,
        (4, true) => value as i32 as u64,
        _ => value,
    }
}

impl Executor<'_, '_> {
    pub(super) fn addresses(&self, address: &Address) -> [u64; LANES] {
        let mut addresses = self.warp.registers.read::<u64>(address.base);
        addresses.iter_mut().for_each(|base| *base = base.wrapping_add(address.offset));
        addresses
    }

    /// Calls `each(space, lanes, addresses)` once per state space that the lanes' generic addresses are in.
    pub(super) fn by_space(
        &mut self,
        space: Space,
        mask: u32,
        mut addresses: [u64; LANES],
        mut each: impl FnMut(&mut Self, Space, u32, &[u64; LANES]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if space != Space::Generic {
            return each(self, space, mask, &addresses);
        }
        let mut left = mask;
        let spaces = addresses.map(|address| classify(address).0);
        addresses.iter_mut().for_each(|address| *address = classify(*address).1);
        while left != 0 {
            let space = spaces[left.trailing_zeros() as usize];
            let same =
                lanes(left).filter(|lane| spaces[*lane] == space).fold(0, |bits, lane| bits | 1 << lane);
            each(self, space, same, &addresses)?;
            left &= !same;
        }
        Ok(())
    }

    /// Host memory for an access of `bytes` bytes in every lane of `mask`; bounds and alignment hold afterwards.
    pub(super) fn resolve(
        &mut self,
        space: Space,
        mask: u32,
        addresses: &[u64; LANES],
        bytes: u64,
        writes: bool,
    ) -> Result<Places, Fault> {
        let crooked =
            (0..LANES).fold(0, |bits, lane| bits | if mask >> lane & 1 != 0 { addresses[lane] } else { 0 });
        if crooked & (bytes - 1) != 0
            && let Some(lane) = lanes(mask).find(|lane| addresses[*lane] & (bytes - 1) != 0)
        {
            let address = addresses[lane];
            let message =
                format!("an access of {bytes} bytes at {address:#x}, which is no multiple of {bytes}");
            return Err(Fault::new(FindingKind::Misaligned, lane, message));
        }
        match space {
            Space::Shared | Space::SharedCluster => self.resolve_shared(mask, addresses, bytes),
            Space::Local => self.resolve_local(mask, addresses, bytes),
            Space::Param => self.resolve_parameters(mask, addresses, bytes, writes),
            Space::Global | Space::Const | Space::Generic => {
                self.resolve_global(mask, addresses, bytes, writes)
            }
        }
    }

    fn resolve_global(
        &mut self,
        mask: u32,
        addresses: &[u64; LANES],
        bytes: u64,
        writes: bool,
    ) -> Result<Places, Fault> {
        let mut places = Places::new();
        let launch = self.launch;
        let mut index = self.warp.last_allocation;
        for lane in lanes(mask) {
            let address = addresses[lane];
            let fits = |index: usize| {
                launch.allocations.get(index).is_some_and(|allocation| {
                    let offset = address.wrapping_sub(allocation.address);
                    offset < allocation.bytes && bytes <= allocation.bytes - offset
                })
            };
            if !fits(index) {
                let after = launch.allocations.partition_point(|allocation| allocation.address <= address);
                index = after.wrapping_sub(1);
                if !fits(index) {
                    let (place, freed) = launch.memory.describe(address);
                    let kind = if freed { FindingKind::UseAfterFree } else { FindingKind::OutOfBounds };
                    let what = if writes { "a store of" } else { "a load of" };
                    let message = format!("{what} {bytes} bytes at {address:#x}, {place}");
                    return Err(Fault::new(kind, lane, message));
                }
            }
            let allocation = &launch.allocations[index];
            if allocation.is_freed() {
                let message = format!("{bytes} bytes at {address:#x}, in memory freed during the launch");
                return Err(Fault::new(FindingKind::UseAfterFree, lane, message));
            }
            if writes && allocation.read_only {
                let message = format!("a store of {bytes} bytes at {address:#x}, which is constant memory");
                return Err(Fault::new(FindingKind::ReadOnly, lane, message));
            }
            let offset = address - allocation.address;
            // SAFETY: the offset was found to be inside the allocation's data.
            places.pointers[lane] = unsafe { allocation.base().add(offset as usize) };
            places.owner[lane] = index as u32;
            places.offset[lane] = offset;
        }
        self.warp.last_allocation = index;
        Ok(places)
    }

    fn resolve_shared(&mut self, mask: u32, addresses: &[u64; LANES], bytes: u64) -> Result<Places, Fault> {
        let mut places = Places::new();
        for lane in lanes(mask) {
            let address = addresses[lane];
            let offset = address & ((1 << SHARED_RANK_SHIFT) - 1);
            let block = match (address & (WINDOW_BYTES - 1)) >> SHARED_RANK_SHIFT {
                0 => self.warp.block,
                rank => rank as usize - 1,
            };
            let size = u64::from(self.launch.shared_bytes);
            if address >= WINDOW_BYTES || block >= self.blocks.len() || offset + bytes > size {
                let message =
                    format!("{bytes} bytes at shared address {address:#x}; the block has {size} bytes");
                return Err(Fault::new(FindingKind::OutOfBounds, lane, message));
            }
            let shared = &self.blocks[block].shared;
            // SAFETY: the offset was found to be inside the block's shared memory.
            places.pointers[lane] = unsafe { shared.base().add(offset as usize) };
            places.owner[lane] = block as u32;
            places.offset[lane] = offset;
        }
        Ok(places)
    }

    fn resolve_local(&mut self, mask: u32, addresses: &[u64; LANES], bytes: u64) -> Result<Places, Fault> {
        let mut places = Places::new();
        let size = self.warp.local.stride as u64;
        for lane in lanes(mask) {
            let address = addresses[lane];
            if address >= size || bytes > size - address {
                let message =
                    format!("{bytes} bytes at local address {address:#x}; the thread has {size} bytes");
                return Err(Fault::new(FindingKind::OutOfBounds, lane, message));
            }
            // SAFETY: the offset was found to be inside the thread's local memory.
            places.pointers[lane] = unsafe { self.warp.local.base(lane).add(address as usize) };
            places.offset[lane] = address;
        }
        Ok(places)
    }

    fn resolve_parameters(
        &mut self,
        mask: u32,
        addresses: &[u64; LANES],
        bytes: u64,
        writes: bool,
    ) -> Result<Places, Fault> {
        let mut places = Places::new();
        let size = u64::from(self.launch.program.parameter_bytes);
        for lane in lanes(mask) {
            let address = addresses[lane];
            if writes {
                return Err(Fault::new(FindingKind::ReadOnly, lane, "a store to a kernel parameter"));
            }
            if address >= size || bytes > size - address {
                let message =
                    format!("{bytes} bytes at parameter offset {address}; the parameters have {size} bytes");
                return Err(Fault::new(FindingKind::OutOfBounds, lane, message));
            }
            let base = self.launch.parameters.as_ptr().cast::<u8>().cast_mut();
            // SAFETY: the offset was found to be inside the parameters; they are only read.
            places.pointers[lane] = unsafe { base.add(address as usize) };
            places.offset[lane] = address;
        }
        Ok(places)
    }

    /// `ld` and `st`.
    pub(super) fn access(&mut self, access: &Access, active: u32) -> Result<(), Fault> {
        let addresses = self.addresses(&access.address);
        let total = u64::from(access.bytes) * access.elements.len() as u64;
        let kind = if access.is_store { Kind::Write } else { Kind::Read };
        let touch = Touch { kind, order: access.order, scope: access.scope };
        self.by_space(access.space, active, addresses, |this, space, mask, addresses| {
            let places = this.resolve(space, mask, addresses, total, access.is_store)?;
            this.count(space, mask, addresses, total, kind);
            let stored: &[Element] = if access.is_store { &access.elements } else { &[] };
            this.check(space, mask, &places, total, touch, stored);
            let mut offset = 0;
            for element in &access.elements {
                match *element {
                    Element::Load(target) => {
                        let row = read_row(&places, mask, offset, access.bytes, access.signed);
                        this.warp.registers.write(target, &row, mask);
                    }
                    Element::LoadPair(targets) => {
                        for (half, target) in targets.into_iter().enumerate() {
                            let row = read_row(&places, mask, offset + 8 * half, 8, false);
                            this.warp.registers.write(target, &row, mask);
                        }
                    }
                    Element::Store(source) => {
                        let row = this.warp.registers.read::<u64>(source);
                        write_row(&places, mask, offset, access.bytes, &row);
                    }
                    Element::StorePair(sources) => {
                        for (half, source) in sources.into_iter().enumerate() {
                            let row = this.warp.registers.read::<u64>(source);
                            write_row(&places, mask, offset + 8 * half, 8, &row);
                        }
                    }
                }
                offset += access.bytes as usize;
            }
            if access.is_store {
                this.mark(space, mask, &places, total);
            }
            this.acquire(space, mask, &places, touch);
            Ok(())
        })
    }

    /// `atom` and `red`: lane after lane.
    pub(super) fn atomic(&mut self, atomic: &Atomic, active: u32) -> Result<(), Fault> {
        let addresses = self.addresses(&atomic.address);
        let total = u64::from(atomic.bytes) * atomic.operands.len() as u64;
        let touch = Touch { kind: Kind::Atomic, order: atomic.order, scope: atomic.scope };
        self.by_space(atomic.space, active, addresses, |this, space, mask, addresses| {
            if matches!(space, Space::Local | Space::Param) {
                let lane = mask.trailing_zeros() as usize;
                let message = "an atomic on memory that is neither global nor shared";
                return Err(Fault::new(FindingKind::InvalidOperand, lane, message));
            }
            let places = this.resolve(space, mask, addresses, total, true)?;
            this.count(space, mask, addresses, total, Kind::Atomic);
            this.check(space, mask, &places, total, touch, &[]);
            let registers = &mut this.warp.registers;
            for (index, operand) in atomic.operands.iter().enumerate() {
                let operand = registers.read::<u64>(*operand);
                let second = match atomic.second.get(index) {
                    Some(second) => registers.read::<u64>(*second),
                    None => [0; LANES],
                };
                let mut old = [0u64; LANES];
                for lane in lanes(mask) {
                    // SAFETY: `resolve` checked bounds and alignment of all elements together.
                    old[lane] = unsafe {
                        let pointer = places.pointers[lane].add(index * atomic.bytes as usize);
                        update(pointer, atomic.bytes, |old| (atomic.update)(old, operand[lane], second[lane]))
                    };
                    old[lane] = extend(old[lane], atomic.bytes, atomic.signed);
                }
                if let Some(target) = atomic.targets.get(index) {
                    registers.write(*target, &old, mask);
                }
            }
            this.mark(space, mask, &places, total);
            this.acquire(space, mask, &places, touch);
            Ok(())
        })
    }

    /// Reads bytes at a generic address, for the runtime's own functions.
    pub(super) fn peek(&mut self, lane: usize, address: u64, to: &mut [u8]) -> Result<(), Fault> {
        for (index, byte) in to.iter_mut().enumerate() {
            let (space, address) = classify(address + index as u64);
            let places = self.resolve(space, 1 << lane, &[address; LANES], 1, false)?;
            // SAFETY: `resolve` checked the byte.
            *byte = unsafe { load(places.pointers[lane], 1) as u8 };
        }
        Ok(())
    }

    /// Resolves both ends of asynchronous copies: `(block, offset)` and the source.
    #[allow(clippy::type_complexity)]
    pub(super) fn resolve_copy(
        &mut self,
        to: &Address,
        from: &Address,
        bytes: u32,
        source_bytes: &[u32; LANES],
        active: u32,
    ) -> Result<(Places, Option<(Places, u32)>), Fault> {
        let to_addresses = self.addresses(to);
        let from_addresses = self.addresses(from);
        let target = self.resolve(Space::Shared, active, &to_addresses, u64::from(bytes), true)?;
        self.count(Space::Shared, active, &to_addresses, u64::from(bytes), Kind::Write);
        let reading =
            lanes(active).filter(|lane| source_bytes[*lane] > 0).fold(0, |bits, lane| bits | 1 << lane);
        if reading == 0 {
            return Ok((target, None));
        }
        let mut source = Places::new();
        for lane in lanes(reading) {
            let used = u64::from(source_bytes[lane]);
            if !from_addresses[lane].is_multiple_of(u64::from(bytes)) {
                let message = format!("a copy of {bytes} bytes from {:#x}", from_addresses[lane]);
                return Err(Fault::new(FindingKind::Misaligned, lane, message));
            }
            // Only the bytes that are read must exist; they may be any number, so alignment was checked apart.
            let one = self.resolve_global(1 << lane, &from_addresses, used, false)?;
            source.pointers[lane] = one.pointers[lane];
            source.owner[lane] = one.owner[lane];
            source.offset[lane] = one.offset[lane];
        }
        count_global(&mut self.report.global_read, &from_addresses, reading, u64::from(bytes));
        Ok((target, Some((source, reading))))
    }
}

/// Loads one element of every active lane.
fn read_row(places: &Places, mask: u32, offset: usize, bytes: u32, signed: bool) -> [u64; LANES] {
    let mut row = [0; LANES];
    for lane in lanes(mask) {
        // SAFETY: `resolve` checked bounds and alignment of the whole access, of which this is an element.
        let value = unsafe { load(places.pointers[lane].add(offset), bytes) };
        row[lane] = extend(value, bytes, signed);
    }
    row
}

/// Stores one element of every active lane; of lanes at the same address the highest stays.
fn write_row(places: &Places, mask: u32, offset: usize, bytes: u32, row: &[u64; LANES]) {
    for lane in lanes(mask) {
        // SAFETY: `resolve` checked bounds and alignment of the whole access, of which this is an element.
        unsafe { store(places.pointers[lane].add(offset), bytes, row[lane]) };
    }
}

/// A source operand of 32 bits, or the same value in all lanes.
pub(super) fn row_or(executor: &Executor<'_, '_>, source: Option<Source>, default: u32) -> [u32; LANES] {
    match source {
        Some(source) => executor.warp.registers.read(source),
        None => [default; LANES],
    }
}
