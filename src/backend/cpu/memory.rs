//! The CPU's arenas, and the one place where views become slices.
//!
//! Boundary: an operation opens an [`Access`], asks it for its slices, and works on those. An access refuses (by a
//! panic: it is a mistake in the program, not in its input) to hand out a writable slice that overlaps anything else
//! it has handed out, which is what makes the slices sound although many views share one arena.

use memmap2::MmapMut;

use super::pages::pages;
use crate::backend::{ArenaId, BackendError, Scalar, View};

/// All arenas by number.
#[derive(Debug, Default)]
pub struct Memory {
    arenas: Vec<Option<MmapMut>>,
}

impl Memory {
    /// Takes zeroed pages; the system commits each at its first use, so what a plan reserves and a run never touches
    /// costs nothing.
    pub fn allocate(&mut self, arena: ArenaId, bytes: usize) -> Result<(), BackendError> {
        let index = arena.0 as usize;
        if self.arenas.len() <= index {
            self.arenas.resize_with(index + 1, || None);
        }
        self.arenas[index] = None;
        let map = pages(bytes).map_err(|error| BackendError::OutOfMemory {
            arena,
            bytes,
            reason: error.to_string(),
        })?;
        self.arenas[index] = Some(map);
        Ok(())
    }

    /// Gives an arena back to the system.
    pub fn free(&mut self, arena: ArenaId) {
        if let Some(slot) = self.arenas.get_mut(arena.0 as usize) {
            *slot = None;
        }
    }

    /// Starts an operation.
    pub fn access(&mut self) -> Access<'_> {
        Access { memory: self, taken: Vec::with_capacity(12) }
    }

    /// The bytes of a view, whatever its elements are.
    pub fn bytes(&mut self, view: View) -> &mut [u8] {
        let start = view.offset * view.element.bytes();
        &mut self.arena(view)[start..start + view.bytes()]
    }

    fn arena(&mut self, view: View) -> &mut MmapMut {
        let arena = self
            .arenas
            .get_mut(view.arena.0 as usize)
            .and_then(Option::as_mut)
            .unwrap_or_else(|| panic!("{:?} has not been allocated", view.arena));
        let end = (view.offset + view.len) * view.element.bytes();
        assert!(end <= arena.len(), "{view:?} ends beyond its arena of {} bytes", arena.len());
        arena
    }
}

struct Taken {
    arena: ArenaId,
    start: usize,
    end: usize,
    writable: bool,
}

/// The slices of one operation.
pub struct Access<'a> {
    memory: &'a mut Memory,
    taken: Vec<Taken>,
}

impl<'a> Access<'a> {
    fn take<S: Scalar>(&mut self, view: View, writable: bool) -> *mut S {
        assert_eq!(view.element, S::ELEMENT, "{view:?} does not hold elements of the type asked for");
        let start = view.offset * view.element.bytes();
        let end = start + view.bytes();
        for other in &self.taken {
            let apart = other.arena != view.arena || end <= other.start || other.end <= start;
            assert!(
                apart || (!writable && !other.writable),
                "{view:?} overlaps another operand that is written"
            );
        }
        self.taken.push(Taken { arena: view.arena, start, end, writable });
        // The arena starts on a page and every offset is a multiple of the element's size.
        self.memory.arena(view).as_mut_ptr().wrapping_add(start).cast()
    }

    /// A slice to read.
    pub fn read<S: Scalar>(&mut self, view: View) -> &'a [S] {
        let pointer = self.take::<S>(view, false);
        // SAFETY: `arena` has checked that the view lies within a live arena, whose memory stays where it is while
        // `'a` borrows the `Memory`; it is initialised (zero pages) and aligned; `take` has checked that no writable
        // slice of this access overlaps it, and there is no other access.
        unsafe { std::slice::from_raw_parts(pointer, view.len) }
    }

    /// A slice to write (and read).
    pub fn write<S: Scalar>(&mut self, view: View) -> &'a mut [S] {
        let pointer = self.take::<S>(view, true);
        // SAFETY: as in `read`; and `take` has checked that nothing this access handed out overlaps it.
        unsafe { std::slice::from_raw_parts_mut(pointer, view.len) }
    }
}

/// A writable matrix whose disjoint parts are filled by several tasks at once.
///
/// For results that tasks own by (rows, columns), such as heads lying side by side, which slices cannot express.
#[derive(Clone, Copy)]
pub struct SharedMatrix<'a> {
    data: *mut f32,
    len: usize,
    stride: usize,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the methods that touch memory are unsafe and ask their callers to keep tasks apart.
unsafe impl Send for SharedMatrix<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMatrix<'_> {}

impl<'a> SharedMatrix<'a> {
    /// Rows of `stride` elements.
    pub fn new(data: &'a mut [f32], stride: usize) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), stride, lifetime: std::marker::PhantomData }
    }

    /// Elements `columns` of a row.
    ///
    /// # Safety
    /// No other live slice, of this task or another, may cover any of these elements.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise, as documented")]
    pub unsafe fn row(&self, row: usize, columns: std::ops::Range<usize>) -> &'a mut [f32] {
        assert!(
            columns.start <= columns.end && columns.end <= self.stride && (row + 1) * self.stride <= self.len
        );
        // SAFETY: within the slice `new` was given, by the assertion; unaliased by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.stride + columns.start),
                columns.end - columns.start,
            )
        }
    }
}

/// A figure that Linux gives in kB, in bytes; nothing on systems without these files.
pub fn proc_kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Element;

    fn view(offset: usize, len: usize) -> View {
        View { arena: ArenaId(1), element: Element::F32, offset, len }
    }

    #[test]
    fn disjoint_views_of_one_arena_can_be_written_together() {
        let mut memory = Memory::default();
        memory.allocate(ArenaId(1), 64).unwrap();
        let mut access = memory.access();
        let (left, right) = (access.write::<f32>(view(0, 8)), access.write::<f32>(view(8, 8)));
        left.fill(1.0);
        right.copy_from_slice(left);
        assert_eq!(memory.access().read::<f32>(view(7, 2)), [1.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "overlaps another operand")]
    fn a_written_view_may_not_be_read_as_well() {
        let mut memory = Memory::default();
        memory.allocate(ArenaId(1), 64).unwrap();
        let mut access = memory.access();
        let _ = (access.write::<f32>(view(0, 8)), access.read::<f32>(view(7, 2)));
    }

    #[test]
    #[should_panic(expected = "ends beyond its arena")]
    fn a_view_beyond_its_arena_is_refused() {
        let mut memory = Memory::default();
        memory.allocate(ArenaId(1), 64).unwrap();
        memory.access().read::<f32>(view(10, 7));
    }
}
