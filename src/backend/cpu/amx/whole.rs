//! Whole products of operands in memory, by all threads.
//!
//! A task holds a strip of one factor, packed, in the second-level cache: some rows of A or columns of B, a block deep. The
//! other factor passes by a panel at a time. While the tile unit multiplies a panel, the vector units pack the next one; while
//! it multiplies a register tile, they write the sums of the one before to C.
//!
//! Memory is what limits this: a line from beyond the second-level cache takes 100 ns and more, and the processor waits for
//! few of them at a time, those that tiles are loaded from among them. Hence:
//! - What passes is packed by the task itself. Panels packed once for all threads would be written and read beyond the
//!   second-level cache, half as large again as their source in f32.
//! - A factor that lies by its rows passes rather than one that lies by its columns: the lines of its panels follow each other,
//!   so the machine foresees them.
//! - Where both lie by their columns, as for a weight's gradient, a block is less deep. The rows of such a source are often a
//!   multiple of 4 KiB apart, so the lines of a panel fall into few sets of the caches, and push out what is held.
//! - Sums are stored to two buffers of a register tile in turn, which stay in the first-level cache: a tile that is stored
//!   elsewhere keeps the tile unit waiting for its lines. Those of C are asked for one register tile ahead.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::super::kernels::Target;
use super::super::pack::{Format, Operand, Part, Side, TILE_DEPTH};
use super::super::product::with_scratch;
use super::pack::Packing;
use super::sums::{Pace, Pending, PendingRows};
use super::unit::{self, Meanwhile, multiply_blocks, steps_of_block};
use super::{TILE, WIDTH};

/// Bytes of C from which on a task writes past the caches.
const STREAMED_BYTES: usize = 3 << 19;

/// Rows (columns) that are held, and the depth of a block.
const fn blocking(parts: usize, passes_by_columns: bool) -> (usize, usize) {
    match (parts, passes_by_columns) {
        (1, _) => (896, 512),
        (_, false) => (256, 512),
        (_, true) => (256, 256),
    }
}

/// See [`Whole`](super::super::kernels::Whole).
///
/// # Safety
/// See [`Whole`](super::super::kernels::Whole).
pub unsafe fn whole<const PARTS: usize>(
    threads: usize,
    a: Operand<'_>,
    b: Operand<'_>,
    c: Target,
    size: [usize; 3],
) {
    let division = Division::of(PARTS, threads, a, b, size);
    let [m, n, k] = size;
    let [rows, columns] = division.task;
    let across = n.div_ceil(columns);
    (0..m.div_ceil(rows) * across).into_par_iter().with_max_len(1).for_each(|task| {
        let (i, j) = (task / across * rows, task % across * columns);
        let (a, b, c) = (a.from(i), b.from(j), c.at(i, j));
        let size = [rows.min(m - i), columns.min(n - j), k];
        // SAFETY: by the contract; the tasks' parts of C are disjoint.
        unsafe { Strip::<PARTS>::new(&division, a, b, c, size).run() };
    });
}

/// How a product is divided. A row's bits do not depend on it: its additions are those of its depth, block by block, and a
/// block's depth follows from how the operands lie.
struct Division {
    held: Side,
    depth: usize,
    /// Rows and columns of a task.
    task: [usize; 2],
}

impl Division {
    fn of(parts: usize, threads: usize, a: Operand<'_>, b: Operand<'_>, [m, n, _]: [usize; 3]) -> Self {
        let by_columns = [a, b].map(|operand| operand.outer_stride == 1);
        let held = match by_columns {
            [true, false] => Side::A,
            [false, true] => Side::B,
            // Less of it is packed while nothing is multiplied.
            _ if m <= n => Side::A,
            _ => Side::B,
        };
        let (most, depth) = blocking(parts, by_columns == [true; 2]);
        let panels = |count: usize| count.div_ceil(WIDTH).max(1);
        let (holds, passes) = match held {
            Side::A => (panels(m), panels(n)),
            Side::B => (panels(n), panels(m)),
        };
        let most = most / WIDTH;
        // The same share for every thread: of strips, or else, where they would be narrow, of what passes by each.
        let least = holds.div_ceil(most);
        let even = least.next_multiple_of(threads);
        let (strips, pieces) = if 2 * holds >= even * most {
            (even, 1)
        } else {
            (least, threads / common_divisor(threads, least))
        };
        let (holds, passes) = (WIDTH * holds.div_ceil(strips), WIDTH * passes.div_ceil(pieces));
        let task = match held {
            Side::A => [holds, passes],
            Side::B => [passes, holds],
        };
        Self { held, depth, task }
    }
}

/// The greatest.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The product of a task.
struct Strip<'a, const PARTS: usize> {
    held_side: Side,
    held: Operand<'a>,
    passing: Operand<'a>,
    c: Target,
    /// Rows (columns) that are held.
    holds: usize,
    /// Columns (rows) that pass.
    passes: usize,
    k: usize,
    /// Of a block.
    depth: usize,
    /// Whether C is written past the caches: it will not be found in them anyway, and no line is read to be overwritten.
    streams: bool,
}

/// Panels and sums of a strip.
#[derive(Clone, Copy)]
struct Buffers {
    held: *mut f32,
    /// Of the panel that passes, and of the next.
    passing: [*mut f32; 2],
    /// Of the register tile that is multiplied, and of the one before.
    sums: [*mut f32; 2],
}

impl<'a, const PARTS: usize> Strip<'a, PARTS> {
    fn new(division: &Division, a: Operand<'a>, b: Operand<'a>, c: Target, [m, n, k]: [usize; 3]) -> Self {
        let (held, passing, holds, passes) = match division.held {
            Side::A => (a, b, m, n),
            Side::B => (b, a, n, m),
        };
        let streams = !c.accumulate
            && k <= division.depth
            && 4 * m * n > STREAMED_BYTES
            && c.pointer.addr().is_multiple_of(64)
            && c.stride.is_multiple_of(TILE);
        Self { held_side: division.held, held, passing, c, holds, passes, k, depth: division.depth, streams }
    }

    /// # Safety
    /// As [`whole`], for this task's part of C.
    unsafe fn run(&self) {
        let holds = self.holds.next_multiple_of(WIDTH);
        let steps = Format::Tiles { parts: PARTS }.steps(self.depth.min(self.k));
        let words = [steps * holds, steps * WIDTH, steps * WIDTH, WIDTH * WIDTH, WIDTH * WIDTH];
        with_scratch(words.iter().sum(), |scratch| {
            let mut used = 0;
            let [held, even, odd, sums, more_sums] = words.map(|words| {
                used += words;
                scratch.wrapping_add(used - words)
            });
            // SAFETY: the buffers are as large as said; the rest by the contract.
            unsafe { self.multiply(Buffers { held, passing: [even, odd], sums: [sums, more_sums] }) };
        });
    }

    /// # Safety
    /// As [`run`](Self::run), and the buffers must be as large as it makes them.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn multiply(&self, buffers: Buffers) {
        // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
        unsafe { unit::configure() };
        let (mut turn, mut tiles) = (0, 0);
        // SAFETY: the buffer has room for a panel, and is packed while nothing reads it.
        let panel = |first, start, turn: usize| unsafe {
            self.passing_panel(first, start, buffers.passing[turn % 2])
        };
        let mut next = panel(0, 0, 0);
        next.finish();
        let mut before = Pending { rows: 0, ..self.pending(buffers.sums[1], self.c, 0, 0) };
        let mut start = 0;
        // An empty reduction still defines C.
        while start < self.k || start == 0 {
            let depth = self.depth.min(self.k - start);
            let blocks = depth.div_ceil(TILE_DEPTH);
            let steps_of_tile = steps_of_block(PARTS) * blocks;
            let part = Part { count: self.holds, start, depth };
            // SAFETY: the buffer has room for the strip.
            unsafe { Packing::<PARTS>::new(self.held_side, self.held, part, buffers.held) }.finish();
            let c = Target { accumulate: self.c.accumulate || start > 0, ..self.c };
            for first in (0..self.passes).step_by(WIDTH) {
                next = if first + WIDTH < self.passes {
                    panel(first + WIDTH, start, turn + 1)
                } else {
                    panel(0, start + self.depth, turn + 1)
                };
                let mut next_pace = Pace::of(next.left(), self.holds.div_ceil(WIDTH) * steps_of_tile);
                for tile in (0..self.holds).step_by(WIDTH) {
                    let held = buffers.held.wrapping_add(tile * blocks * TILE * PARTS);
                    let now = self.pending(buffers.sums[tiles % 2], c, tile, first);
                    let (a, b) = match self.held_side {
                        Side::A => (held, buffers.passing[turn % 2]),
                        Side::B => (buffers.passing[turn % 2], held),
                    };
                    // SAFETY: the panels hold these blocks, and the sums a tile; what is pending lies in the other buffer, and
                    // in C by the contract.
                    unsafe {
                        let rows = PendingRows::new(before, now.c.pointer, steps_of_tile);
                        let mut beside = Beside { rows, next: &mut next, next_pace: &mut next_pace };
                        multiply_blocks::<PARTS>(blocks, a, b, now.sums, &mut beside);
                        beside.rows.write(WIDTH);
                    }
                    before = now;
                    tiles += 1;
                }
                turn += 1;
            }
            start += self.depth;
        }
        // SAFETY: these rows and columns of C, by the contract.
        unsafe { PendingRows::new(before, before.c.pointer, 0).write(WIDTH) };
        // SAFETY: as above.
        unsafe { unit::release() };
        // What was streamed is there for whoever is told that this is done.
        _mm_sfence();
    }

    /// The panel of what passes from `first` on, at the block that starts at this depth; empty if there is none.
    ///
    /// # Safety
    /// `out` must have room for it, for as long as it is packed.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn passing_panel(&self, first: usize, start: usize, out: *mut f32) -> Packing<PARTS> {
        let (side, operand) = (self.held_side.other(), self.passing.from(first));
        let depth = self.depth.min(self.k.saturating_sub(start));
        let count = if depth == 0 { 0 } else { WIDTH.min(self.passes - first) };
        // SAFETY: by the contract.
        let packing = unsafe { Packing::new(side, operand, Part { count, start, depth }, out) };
        let (then, then_start) =
            if first + WIDTH < self.passes { (first + WIDTH, start) } else { (0, start + self.depth) };
        packing.followed_by(then as isize - first as isize, then_start as isize - start as isize)
    }

    /// Sums of the `tile`-th row (column) that is held and those behind it, of the panel that passes from `first` on.
    fn pending(&self, sums: *mut f32, c: Target, tile: usize, first: usize) -> Pending {
        let (held, passing) = (WIDTH.min(self.holds - tile), WIDTH.min(self.passes - first));
        let (c, rows, columns) = match self.held_side {
            Side::A => (c.at(tile, first), held, passing),
            Side::B => (c.at(first, tile), passing, held),
        };
        Pending { sums, c, rows, columns, streamed: self.streams && columns == WIDTH }
    }
}

/// What is done while a register tile is multiplied.
struct Beside<'a, const PARTS: usize> {
    /// Of the register tile before.
    rows: PendingRows,
    next: &'a mut Packing<PARTS>,
    next_pace: &'a mut Pace,
}

impl<const PARTS: usize> Meanwhile for Beside<'_, PARTS> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn write_sums(&mut self) {
        // SAFETY: by the contract.
        unsafe { self.rows.write_sums() };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn work(&mut self) {
        for _ in 0..self.next_pace.due() {
            self.next.piece();
        }
    }
}
