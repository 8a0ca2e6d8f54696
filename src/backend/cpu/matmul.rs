//! Matrix products on the CPU: packed panels and register tiles (the structure of Goto and van de Geijn, 2008).
//!
//! Each element of C is accumulated along k in one order that depends on k alone: sums over blocks of [`DEPTH`], added
//! block by block. Edge tiles run the same kernel on zero-padded panels. So a row of C has the same bits whatever
//! the other rows are, and however the work is divided: batch invariance and thread invariance by construction.

use std::cell::RefCell;

use rayon::prelude::*;

use super::kernels::{self, Kernel};
use super::memory::Memory;
use super::simd::Simd;
use crate::backend::{Layout, Matmul};

/// Length of one packed block along k.
const DEPTH: usize = 256;
/// Rows of A packed at a time, at most; a panel block of A stays in the second-level cache.
const A_ROWS: usize = 240;
/// Columns of C per task, at most.
const TASK_COLUMNS: usize = 512;
/// Rows of C per task, at most.
const TASK_ROWS: usize = 480;

/// One factor of a product: element (outer, depth) at `outer * outer_stride + depth * depth_stride`; outer counts rows
/// of A or columns of B, depth runs along k.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// Where it lies, from its first element on.
    pub data: &'a [f32],
    /// Elements from one row of A (column of B) to the next.
    pub outer_stride: usize,
    /// Elements from one step along k to the next.
    pub depth_stride: usize,
}

/// Where a block of C goes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its first element.
    pub pointer: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Add to what is there.
    pub accumulate: bool,
}

impl Target {
    /// The same target from row i, column j on.
    fn at(self, i: usize, j: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(i * self.stride + j), ..self }
    }
}

// SAFETY: a plain address; `block`, which writes through it, is unsafe and asks for exclusive use.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "read through the cast to f32")] [f32; 16]);

#[derive(Default)]
struct Scratch {
    a: Vec<CacheLine>,
    b: Vec<CacheLine>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn grow(buffer: &mut Vec<CacheLine>, floats: usize) -> *mut f32 {
    let lines = floats.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, CacheLine::default());
    }
    buffer.as_mut_ptr().cast()
}

/// The operation [`Matmul`].
pub fn matmul(simd: Simd, threads: usize, memory: &mut Memory, arguments: Matmul) {
    let Matmul { layout, m, n, k, accumulate, .. } = arguments;
    assert_eq!(
        (arguments.a.len, arguments.b.len, arguments.c.len),
        (m * k, n * k, m * n),
        "matmul {layout:?} {m}x{n}x{k}"
    );
    let mut access = memory.access();
    let (a, b) = (access.read::<f32>(arguments.a), access.read::<f32>(arguments.b));
    let c = access.write::<f32>(arguments.c);
    let (a, b) = match layout {
        Layout::Nt => (by_rows(a, k), by_rows(b, k)),
        Layout::Nn => (by_rows(a, k), by_columns(b, n)),
        Layout::Tn => (by_columns(a, m), by_columns(b, n)),
    };
    let c = Target { pointer: c.as_mut_ptr(), stride: n, accumulate };
    let kernel = kernels::select(simd.level());
    let (rows, columns) = task_shape(kernel, m, n, threads);
    let across = n.div_ceil(columns);
    (0..m.div_ceil(rows) * across).into_par_iter().for_each(|task| {
        let (i, j) = (task / across * rows, task % across * columns);
        let (height, width) = (rows.min(m - i), columns.min(n - j));
        let part = c.at(i, j);
        // SAFETY: the tasks' blocks are disjoint and lie within C, which this operation alone holds.
        unsafe { block(kernel, a.from(i), b.from(j), part, height, width, k) };
    });
}

fn by_rows(data: &[f32], k: usize) -> Operand<'_> {
    Operand { data, outer_stride: k, depth_stride: 1 }
}

fn by_columns(data: &[f32], outer: usize) -> Operand<'_> {
    Operand { data, outer_stride: 1, depth_stride: outer }
}

impl<'a> Operand<'a> {
    /// The operand from row (column) `outer` on.
    pub fn from(self, outer: usize) -> Self {
        Self { data: self.data.get(outer * self.outer_stride..).unwrap_or_default(), ..self }
    }
}

/// Tasks as large as the caches like, but enough of them to keep all threads busy. The result does not depend on it.
fn task_shape(kernel: &Kernel, m: usize, n: usize, threads: usize) -> (usize, usize) {
    let round = |x: usize, unit: usize| x.div_ceil(unit) * unit;
    let mut rows = round(m.min(TASK_ROWS), kernel.rows);
    let mut columns = round(n.min(TASK_COLUMNS), kernel.columns);
    while threads > 1 && m.div_ceil(rows) * n.div_ceil(columns) < 3 * threads {
        if columns >= rows && columns > 2 * kernel.columns {
            columns = round(columns / 2, kernel.columns);
        } else if rows > 4 * kernel.rows {
            rows = round(rows / 2, kernel.rows);
        } else {
            break;
        }
    }
    (rows, columns)
}

/// `C (+)= A B` for one block, on this thread. A has `m` outer elements, B `n`.
///
/// # Safety
/// `c` must address `m` rows of `n` elements that nothing else reads or writes meanwhile.
pub unsafe fn block(
    kernel: &Kernel,
    a: Operand<'_>,
    b: Operand<'_>,
    c: Target,
    m: usize,
    n: usize,
    k: usize,
) {
    let (mr, nr) = (kernel.rows, kernel.columns);
    let a_rows = A_ROWS / mr * mr;
    SCRATCH.with_borrow_mut(|scratch| {
        let a_panels = grow(&mut scratch.a, a_rows.min(m.div_ceil(mr) * mr) * DEPTH.min(k));
        let b_panels = grow(&mut scratch.b, n.div_ceil(nr) * nr * DEPTH.min(k));
        let mut p = 0;
        // An empty reduction still defines C.
        while p < k || (k == 0 && p == 0) {
            let depth = DEPTH.min(k - p);
            let accumulate = c.accumulate || p > 0;
            // SAFETY: `grow` made room for these panels.
            unsafe { pack(b, n, p, depth, nr, b_panels) };
            for i in (0..m).step_by(a_rows) {
                let height = a_rows.min(m - i);
                // SAFETY: as above.
                unsafe { pack(a.from(i), height, p, depth, mr, a_panels) };
                let part = Target { accumulate, ..c.at(i, 0) };
                // SAFETY: the panels hold `height` rows and `n` columns of this depth; C by this function's contract.
                unsafe { tiles(kernel, a_panels, b_panels, part, height, n, depth) };
            }
            p += DEPTH;
        }
    });
}

/// All register tiles of one packed block.
///
/// # Safety
/// As [`block`]; `a` and `b` must hold packed panels of `depth` for `m` rows and `n` columns.
unsafe fn tiles(kernel: &Kernel, a: *const f32, b: *const f32, c: Target, m: usize, n: usize, depth: usize) {
    let (mr, nr) = (kernel.rows, kernel.columns);
    let mut edge = [CacheLine::default(); kernels::LARGEST_TILE / 16];
    let edge: *mut f32 = edge.as_mut_ptr().cast();
    for j in (0..n).step_by(nr) {
        for i in (0..m).step_by(mr) {
            // SAFETY: panel j/nr of B and i/mr of A lie within the packed buffers.
            let (a, b) = unsafe { (a.add(i * depth), b.add(j * depth)) };
            let (height, width) = (mr.min(m - i), nr.min(n - j));
            let corner = c.at(i, j).pointer;
            if height == mr && width == nr {
                // SAFETY: a whole tile of C, by this function's contract.
                unsafe { (kernel.run)(depth, a, b, corner, c.stride, c.accumulate) };
                continue;
            }
            // SAFETY: `edge` holds the largest tile of any kernel.
            unsafe { (kernel.run)(depth, a, b, edge, nr, false) };
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

/// Packs `count` outer elements of `operand`, `depth` steps from `start`, into panels `[depth][width]`, padded with
/// zeros to whole panels.
///
/// # Safety
/// `out` must have room for `count` rounded up to `width`, times `depth`.
unsafe fn pack(operand: Operand<'_>, count: usize, start: usize, depth: usize, width: usize, out: *mut f32) {
    /// Depth handled at a time when transposing: one cache line of each row.
    const STEP: usize = 16;
    for (panel, first) in (0..count).step_by(width).enumerate() {
        // SAFETY: by this function's contract.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(panel * width * depth), width * depth) };
        let present = width.min(count - first);
        if present < width {
            out.fill(0.0);
        }
        let source = &operand.data
            [(first * operand.outer_stride + start * operand.depth_stride).min(operand.data.len())..];
        if operand.outer_stride == 1 {
            for (p, out) in out.chunks_exact_mut(width).enumerate() {
                let from = &source[p * operand.depth_stride..][..present];
                out[..present].copy_from_slice(from);
            }
            continue;
        }
        for p in (0..depth).step_by(STEP) {
            let steps = STEP.min(depth - p);
            for j in 0..present {
                let from = &source[j * operand.outer_stride + p * operand.depth_stride..];
                for (q, out) in out[p * width..].iter_mut().skip(j).step_by(width).take(steps).enumerate() {
                    *out = from[q * operand.depth_stride];
                }
            }
        }
    }
}
