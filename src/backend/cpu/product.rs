//! Blocked products of matrices in memory: packed panels and register tiles (the structure of Goto and van de Geijn,
//! 2008): of large ones by all threads ([`whole`]), of tiles that one thread packs itself ([`Factor`]). Kernels with an order of
//! their own ([`Compute::Own`]) are only called from here.
//!
//! Each element of C is accumulated along k in one order that depends on k alone, block by block of [`Tiles::depth`] (where a
//! kernel has its own order of things, of a depth that follows from how the factors lie).
//! Edge tiles run the same kernel on zero-padded panels. So a row of C has the same bits whatever the other rows are, and
//! however the work is divided: batch invariance and thread invariance by construction.

use std::cell::RefCell;
use std::ops::Range;

use memmap2::MmapMut;
use rayon::prelude::*;

use super::kernels::{self, Compute, Kernel, Panel, Run, Target, Tiles};
use super::needed::Needed;
pub use super::pack::Side;
use super::pack::{Operand, Part};
use super::pages::{HUGE, pages};

/// 32-bit words of B that are packed at a time, for all threads to read: a share of the last-level cache.
const SHARED_WORDS: usize = 2 << 20;
/// Columns of B that are packed at a time, at most.
const SHARED_COLUMNS: usize = 4096;
/// Bytes of panels from which on they get pages of their own.
const PAGED_BYTES: usize = 512 << 10;
/// Panels of B that one task packs.
const PACKED_PANELS: usize = 8;

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "read through the cast to f32")] [f32; 16]);

/// Room for packed panels, as large as the largest product has needed.
#[derive(Default)]
pub struct Panels {
    /// Few.
    lines: Vec<CacheLine>,
    /// Many.
    pages: Option<MmapMut>,
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Panels({} bytes)", self.bytes())
    }
}

impl Panels {
    fn bytes(&self) -> usize {
        self.pages.as_ref().map_or(size_of_val(&self.lines[..]), |pages| pages.len())
    }

    fn grow(&mut self, words: usize) -> *mut f32 {
        let bytes = size_of::<f32>() * words;
        if self.bytes() < bytes {
            // Without pages of their own, panels are merely slower to reach.
            self.pages = if bytes < PAGED_BYTES { None } else { pages(bytes.next_multiple_of(HUGE)).ok() };
            let lines = if self.pages.is_some() { 0 } else { bytes.div_ceil(size_of::<CacheLine>()) };
            self.lines = vec![CacheLine::default(); lines];
        }
        match &mut self.pages {
            Some(pages) => pages.as_mut_ptr().cast(),
            None => self.lines.as_mut_ptr().cast(),
        }
    }

    fn start(&self) -> *const f32 {
        match &self.pages {
            Some(pages) => pages.as_ptr().cast(),
            None => self.lines.as_ptr().cast(),
        }
    }
}

thread_local! {
    /// One thread's own.
    static OWN: RefCell<Panels> = RefCell::default();
}

/// Runs with so many words of this thread's own, whatever is in them. Not to be nested.
pub(super) fn with_scratch<T>(words: usize, run: impl FnOnce(*mut f32) -> T) -> T {
    OWN.with_borrow_mut(|own| run(own.grow(words)))
}

/// Packed panels of B that all tasks read.
#[derive(Clone, Copy)]
struct SharedPanels(*mut f32);

// SAFETY: a plain address; the tasks that pack write disjoint panels, and those that multiply only read.
unsafe impl Send for SharedPanels {}
// SAFETY: as above.
unsafe impl Sync for SharedPanels {}

impl SharedPanels {
    fn at(self, word: usize) -> *mut f32 {
        self.0.wrapping_add(word)
    }
}

/// `C (+)= A B` by all threads of the pool that this is called in: `[m, n, k]` is the size.
///
/// # Safety
/// `c` must address `m` rows of `n` elements that nothing else reads or writes meanwhile, and the machine must have the
/// kernel's level.
pub unsafe fn whole(
    kernel: &Kernel,
    threads: usize,
    panels: &mut Panels,
    a: Operand<'_>,
    b: Operand<'_>,
    c: Target,
    [m, n, k]: [usize; 3],
) {
    let tiles = match kernel.compute {
        Compute::Tiles(tiles) => tiles,
        // SAFETY: by the contract.
        Compute::Own { whole, .. } => return unsafe { whole(threads, a, b, c, [m, n, k]) },
    };
    let chunk = Chunk::of(kernel, tiles, n, k);
    let shared = SharedPanels(panels.grow(chunk.words(kernel)));
    let rows = task_rows(kernel, tiles, m, threads);
    for j in (0..n).step_by(chunk.columns) {
        let width = chunk.columns.min(n - j);
        let mut p = 0;
        // An empty reduction still defines C.
        while p < k || (k == 0 && p == 0) {
            let depths = p..k.min(p + chunk.depth);
            pack_shared(kernel, tiles, b.from(j), width, depths.clone(), shared);
            (0..m.div_ceil(rows)).into_par_iter().with_max_len(1).for_each(|task| {
                let i = task * rows;
                let part = Target { accumulate: c.accumulate || p > 0, ..c.at(i, j) };
                let size = [rows.min(m - i), width];
                // SAFETY: the tasks' rows are disjoint and lie within C; the panels have just been packed.
                unsafe { strip(kernel, tiles, a.from(i), shared, part, size, depths.clone()) };
            });
            p += chunk.depth;
        }
    }
}

/// How much of B is packed at a time.
struct Chunk {
    columns: usize,
    depth: usize,
}

impl Chunk {
    fn of(kernel: &Kernel, tiles: Tiles, n: usize, k: usize) -> Self {
        let columns = n.min(SHARED_COLUMNS).next_multiple_of(kernel.columns);
        let steps = kernel.format.steps(tiles.depth);
        let blocks = (SHARED_WORDS / (columns * steps)).max(1);
        Self { columns, depth: (blocks * tiles.depth).min(k.max(1).next_multiple_of(tiles.depth)) }
    }

    fn words(&self, kernel: &Kernel) -> usize {
        self.columns * kernel.format.steps(self.depth)
    }
}

/// Rows of C per task: many, because each task reads all of B; but as many tasks as give every thread the same share. The
/// result does not depend on it.
fn task_rows(kernel: &Kernel, tiles: Tiles, m: usize, threads: usize) -> usize {
    let panels = m.div_ceil(kernel.rows);
    let each = panels.div_ceil(threads * (tiles.task_rows / kernel.rows)).max(1);
    panels.div_ceil(threads * each).max(1) * kernel.rows
}

/// Packs `width` columns of B: blocks of depth one after another, each of all its panels.
fn pack_shared(
    kernel: &Kernel,
    tiles: Tiles,
    b: Operand<'_>,
    width: usize,
    depths: Range<usize>,
    out: SharedPanels,
) {
    let padded = width.next_multiple_of(kernel.columns);
    let columns = PACKED_PANELS * kernel.columns;
    let across = width.div_ceil(columns);
    let blocks = depths.len().div_ceil(tiles.depth);
    (0..blocks * across).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, j) = (task / across, task % across * columns);
        let start = depths.start + block * tiles.depth;
        let part = Part { count: columns.min(width - j), start, depth: tiles.depth.min(depths.end - start) };
        let block_start = padded * kernel.format.steps(block * tiles.depth);
        let to = out.at(block_start + j * kernel.format.steps(part.depth));
        // SAFETY: tasks write disjoint panels, for which `Chunk::words` made room.
        unsafe { (kernel.pack_b)(b.from(j), part, kernel.columns, to) };
    });
}

/// The rows of one task against all packed panels of B.
///
/// # Safety
/// As [`whole`]; `b` must hold the panels of `columns` columns at these depths.
unsafe fn strip(
    kernel: &Kernel,
    tiles: Tiles,
    a: Operand<'_>,
    b: SharedPanels,
    c: Target,
    [rows, columns]: [usize; 2],
    depths: Range<usize>,
) {
    let padded = columns.next_multiple_of(kernel.columns);
    let deepest = kernel.format.steps(tiles.depth.min(depths.len()));
    with_scratch(rows.next_multiple_of(kernel.rows) * deepest, |a_panels| {
        for start in depths.clone().step_by(tiles.depth) {
            let depth = tiles.depth.min(depths.end - start);
            let part = Part { count: rows, start, depth };
            // SAFETY: there is room for these panels.
            unsafe { (kernel.pack_a)(a, part, kernel.rows, a_panels) };
            let part = Target { accumulate: c.accumulate || start > depths.start, ..c };
            let b_panels = b.at(padded * kernel.format.steps(start - depths.start));
            let steps = kernel.format.steps(depth);
            let [a, b] = [a_panels, b_panels].map(|words| Panel { words, steps });
            // SAFETY: the panels hold these rows and columns at this depth; C by this function's contract.
            unsafe {
                multiply_tiles(kernel, tiles.run, a, b, part, [rows, columns], steps, Needed::All);
            }
        }
        if depths.is_empty() {
            let empty = Panel { words: a_panels, steps: 0 };
            // SAFETY: no panel is read where there are no steps.
            unsafe {
                multiply_tiles(kernel, tiles.run, empty, empty, c, [rows, columns], 0, Needed::All);
            }
        }
    });
}

/// A small factor of a product, packed whole: for one thread, and for as many products as it is good for.
#[derive(Default)]
pub struct Factor {
    panels: Panels,
    side: Option<Side>,
    width: usize,
    outer: usize,
    steps: usize,
}

impl Factor {
    /// Packs `outer` rows (columns) of an operand, `depth` deep, over what was packed before.
    pub fn pack(
        &mut self,
        kernel: &'static Kernel,
        side: Side,
        operand: Operand<'_>,
        outer: usize,
        depth: usize,
    ) {
        let (width, pack) = match side {
            Side::A => (kernel.rows, kernel.pack_a),
            Side::B => (kernel.columns, kernel.pack_b),
        };
        let steps = kernel.format.steps(depth);
        let panels = self.panels.grow(outer.next_multiple_of(width) * steps);
        // SAFETY: `grow` made room for these panels, and kernels are only chosen for the machine's level.
        unsafe { pack(operand, Part { count: outer, start: 0, depth }, width, panels) };
        (self.side, self.width, self.outer, self.steps) = (Some(side), width, outer, steps);
    }
}

/// `C (+)= A B` on one thread, for the first `columns` columns of B and as deep as A was packed.
pub struct Product<'a> {
    /// Packed for the left side.
    pub a: &'a Factor,
    /// Packed for the right side.
    pub b: &'a Factor,
    /// Of B.
    pub columns: usize,
    /// C, from its first element on.
    pub c: &'a mut [f32],
    /// Elements from one row of C to the next.
    pub stride: usize,
    /// Add to C.
    pub accumulate: bool,
    /// What of it is needed.
    pub needed: Needed,
}

/// Multiplies.
///
/// # Panics
/// If the factors were not packed for these sides by this kernel, B is smaller than said, or C is.
pub fn multiply(kernel: &'static Kernel, product: Product<'_>) {
    let Product { a, b, columns, c, stride, accumulate, needed } = product;
    assert!(a.side == Some(Side::A) && a.width == kernel.rows, "not a left factor");
    assert!(b.side == Some(Side::B) && b.width == kernel.columns, "not a right factor");
    assert!(
        columns <= b.outer && a.steps <= b.steps && columns <= stride,
        "a right factor that is too small"
    );
    assert!(a.outer == 0 || (a.outer - 1) * stride + columns <= c.len(), "a result that is too small");
    let c = Target { pointer: c.as_mut_ptr(), stride, accumulate };
    let [a_panels, b_panels] =
        [a, b].map(|factor| Panel { words: factor.panels.start(), steps: factor.steps });
    // SAFETY: the panels hold these rows and columns, C is borrowed exclusively and holds them, as asserted; kernels are
    // only chosen for the machine's level.
    unsafe {
        match kernel.compute {
            Compute::Tiles(tiles) => {
                let size = [a.outer, columns];
                multiply_tiles(kernel, tiles.run, a_panels, b_panels, c, size, a.steps, needed);
            }
            Compute::Own { factors, .. } => {
                factors(a_panels, b_panels, c, [a.outer, columns], a.steps, needed);
            }
        }
    }
}

/// All register tiles of packed panels.
///
/// # Safety
/// As [`whole`]; `a` and `b` must hold packed panels of at least `steps` for `m` rows and `n` columns.
#[allow(clippy::too_many_arguments, reason = "what a register tile needs to know, and which there are")]
unsafe fn multiply_tiles(
    kernel: &Kernel,
    run: Run,
    a: Panel,
    b: Panel,
    c: Target,
    [m, n]: [usize; 2],
    steps: usize,
    needed: Needed,
) {
    let (mr, nr) = (kernel.rows, kernel.columns);
    let depth = kernel.format.depth(steps);
    let mut edge = [CacheLine::default(); kernels::LARGEST_TILE / 16];
    let edge: *mut f32 = edge.as_mut_ptr().cast();
    for j in (0..n).step_by(nr) {
        for i in (0..m).step_by(mr) {
            let (height, width) = (mr.min(m - i), nr.min(n - j));
            let Some(depths) = needed.depths(i..i + height, j..j + width, depth) else { continue };
            let (from, to) = (kernel.format.steps_before(depths.start), kernel.format.steps(depths.end));
            let steps = to.saturating_sub(from);
            // SAFETY: panel j/nr of B and i/mr of A lie within the packed buffers, and these steps within the panels.
            let (a, b) =
                unsafe { (a.words.add(i * a.steps + from * mr), b.words.add(j * b.steps + from * nr)) };
            let corner = c.at(i, j).pointer;
            if height == mr && width == nr {
                // SAFETY: a whole tile of C, by this function's contract.
                unsafe { run(steps, a, b, corner, c.stride, c.accumulate) };
                continue;
            }
            // SAFETY: `edge` holds the largest tile of any kernel.
            unsafe { run(steps, a, b, edge, nr, false) };
            for row in 0..height {
                for column in 0..width {
                    // SAFETY: inside the tile and inside C.
                    unsafe {
                        let (value, out) =
                            (*edge.add(row * nr + column), corner.add(row * c.stride + column));
                        *out = if c.accumulate { *out + value } else { value };
                    }
                }
            }
        }
    }
}
