//! Shadow memory: who touched each pair of bytes last, and whether the next access is ordered after it.

use super::clocks::Thread;
use crate::engine::ir::Scope;

/// Bytes of memory under one cell. Sixteen-bit elements of different threads are neighbours, single bytes share a cell.
pub(super) const CELL_BYTES: u64 = 2;
/// Cells of one page.
pub(super) const PAGE_CELLS: u64 = 512;
/// Readers of one cell that are remembered; beyond that a race may be missed, never invented.
const MAX_READERS: usize = 64;

/// One access.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    pub unit: u32,
    /// Clock of the warp; 0 for no access at all.
    pub clock: u32,
    pub thread: Thread,
    /// Bytes of the cell.
    pub bytes: u8,
    pub flags: u8,
    /// PTX line.
    pub line: u32,
}

/// The access is atomic or strong, for its block.
pub(super) const ATOMIC: u8 = 1;
/// It is, for the whole device.
pub(super) const DEVICE: u8 = 2;
/// An asynchronous copy that has not been waited for.
pub(super) const ASYNC: u8 = 4;

impl Stamp {
    /// Of an atomic or otherwise strong access.
    pub fn flags_of(scope: Scope) -> u8 {
        match scope {
            Scope::Device => ATOMIC | DEVICE,
            Scope::Block | Scope::Cluster => ATOMIC,
        }
    }

    /// Two atomics that reach each other never race.
    fn is_compatible(&self, other: &Stamp) -> bool {
        let both = self.flags & other.flags;
        if self.unit == other.unit { both & ATOMIC != 0 } else { both & DEVICE != 0 }
    }

    fn overlaps(&self, other: &Stamp) -> bool {
        self.clock != 0 && self.bytes & other.bytes != 0
    }
}

/// What is known of two bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    write: Stamp,
    read: Stamp,
    /// Concurrent readers beyond the first: index in the page's sets plus one.
    readers: u32,
}

/// One kibibyte of shadowed memory.
#[derive(Clone, Debug)]
pub(super) struct Page {
    cells: Box<[Cell]>,
    sets: Vec<Vec<Stamp>>,
    /// Sets that no cell uses any more.
    unused: Vec<u32>,
}

impl Default for Page {
    fn default() -> Page {
        let cells = vec![Cell::default(); PAGE_CELLS as usize].into_boxed_slice();
        Page { cells, sets: Vec::new(), unused: Vec::new() }
    }
}

impl Page {
    /// Enters an access and gives an earlier one that it races with, and whether that was a write.
    #[inline]
    pub fn touch(
        &mut self,
        index: usize,
        new: Stamp,
        writes: bool,
        is_ordered: impl Fn(&Stamp) -> bool,
    ) -> Option<(Stamp, bool)> {
        let cell = &mut self.cells[index];
        let races = |old: &Stamp| old.overlaps(&new) && !old.is_compatible(&new) && !is_ordered(old);
        let mut conflict = races(&cell.write).then_some((cell.write, true));
        if writes {
            if conflict.is_none() && races(&cell.read) {
                conflict = Some((cell.read, false));
            }
            if cell.readers != 0 {
                let set = &mut self.sets[cell.readers as usize - 1];
                if conflict.is_none() {
                    conflict = set.iter().find(|old| races(old)).map(|old| (*old, false));
                }
                set.clear();
                self.unused.push(cell.readers);
                cell.readers = 0;
            }
            cell.write = new;
            cell.read = Stamp::default();
            return conflict;
        }
        let replaceable = |old: &Stamp| {
            old.clock == 0
                || old.flags & ASYNC == 0
                    && (old.bytes | new.bytes) == new.bytes
                    && ((old.unit, old.thread) == (new.unit, new.thread) || is_ordered(old))
        };
        if cell.readers == 0 && replaceable(&cell.read) {
            cell.read = new;
            return conflict;
        }
        if cell.readers == 0 {
            cell.readers = self.unused.pop().unwrap_or_else(|| {
                self.sets.push(Vec::new());
                self.sets.len() as u32
            });
        }
        let set = &mut self.sets[cell.readers as usize - 1];
        if let Some(old) =
            set.iter_mut().find(|old| (old.unit, old.thread) == (new.unit, new.thread) && replaceable(old))
        {
            *old = new;
        } else if set.len() < MAX_READERS {
            set.push(new);
        }
        conflict
    }

    /// As [`Self::touch`] for an access that follows everything remembered of the cell; false, with nothing done, for others.
    #[inline(always)]
    pub fn touch_quickly(
        &mut self,
        index: usize,
        new: Stamp,
        writes: bool,
        is_ordered: impl Fn(&Stamp) -> bool,
    ) -> bool {
        let cell = &mut self.cells[index];
        if !is_ordered(&cell.write) {
            return false;
        }
        if cell.readers != 0 {
            // One reader of many: of these only its own last reading matters.
            let of_new = |old: &&mut Stamp| (old.unit, old.thread) == (new.unit, new.thread);
            let set = &mut self.sets[cell.readers as usize - 1];
            return match set.iter_mut().find(of_new) {
                Some(old) if !writes && old.flags & ASYNC == 0 && (old.bytes | new.bytes) == new.bytes => {
                    *old = new;
                    true
                }
                _ => false,
            };
        }
        let covers = writes || (cell.read.bytes | new.bytes) == new.bytes;
        if !covers || !is_ordered(&cell.read) {
            return false;
        }
        if writes {
            cell.write = new;
            cell.read = Stamp::default();
        } else {
            cell.read = new;
        }
        true
    }

    /// An asynchronous access has been waited for: from now on it is one of its thread, at its thread's present clock.
    pub fn settle(&mut self, index: usize, unit: u32, thread: Thread, clock: u32, writes: bool) {
        let cell = &mut self.cells[index];
        let settle = |stamp: &mut Stamp| {
            if stamp.flags & ASYNC != 0 && (stamp.unit, stamp.thread) == (unit, thread) {
                stamp.flags &= !ASYNC;
                stamp.clock = clock;
            }
        };
        if writes {
            return settle(&mut cell.write);
        }
        settle(&mut cell.read);
        if cell.readers != 0 {
            self.sets[cell.readers as usize - 1].iter_mut().for_each(settle);
        }
    }
}

/// Calls `each(page, cell in the page, bytes of the cell)` for a range of bytes.
#[inline(always)]
pub(super) fn for_cells(offset: u64, bytes: u64, mut each: impl FnMut(usize, usize, u8)) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let cell = at / CELL_BYTES;
        let upto = end.min((cell + 1) * CELL_BYTES);
        let mask = ((1u8 << (upto - at)) - 1) << (at % CELL_BYTES);
        each((cell / PAGE_CELLS) as usize, (cell % PAGE_CELLS) as usize, mask);
        at = upto;
    }
}
