//! Products of packed factors that are in the caches, as attention has them: C's tiles are loaded and stored as they are.

use std::arch::x86_64::*;

use super::super::kernels::{Panel, Target};
use super::super::pack::x86::mask16;
use super::unit::{clear_sums, configure, load_sums, multiply_block, release, store_sums};
use super::{BLOCK_WORDS, TILE, WIDTH};

/// See [`Factors`](super::super::kernels::Factors).
///
/// # Safety
/// See [`Factors`](super::super::kernels::Factors).
#[target_feature(enable = "avx512f")]
pub unsafe fn factors<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], steps: usize) {
    let blocks = steps / (TILE * PARTS);
    let mut edge = Edge([0.0; WIDTH * WIDTH]);
    let edge = Target { pointer: edge.0.as_mut_ptr(), stride: WIDTH, accumulate: c.accumulate };
    // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
    unsafe { configure() };
    for j in (0..n).step_by(WIDTH) {
        for i in (0..m).step_by(WIDTH) {
            let (a, b) = (a.words.wrapping_add(i * a.steps), b.words.wrapping_add(j * b.steps));
            let (rows, columns, c) = (WIDTH.min(m - i), WIDTH.min(n - j), c.at(i, j));
            // SAFETY: these blocks of both panels are there by the contract, as are these rows and columns of C.
            unsafe {
                if rows == WIDTH && columns == WIDTH {
                    tile::<PARTS>(blocks, a, b, c);
                    continue;
                }
                // The same additions as in a whole tile, so that a row does not depend on its neighbours.
                if c.accumulate {
                    copy(c, edge, rows, columns);
                }
                tile::<PARTS>(blocks, a, b, edge);
                copy(edge, c, rows, columns);
            }
        }
    }
    // SAFETY: as above.
    unsafe { release() };
}

/// One register tile of so many blocks, written to C or added to it. The line that is stored with each block is C's: what
/// was in it is in the tiles by then, and it is written once more at the end.
///
/// # Safety
/// The panels must hold the blocks, C address 32 rows and columns for exclusive use, and the tiles be configured.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const PARTS: usize>(blocks: usize, mut a: *const f32, mut b: *const f32, c: Target) {
    // SAFETY: by the contract.
    unsafe {
        if c.accumulate {
            load_sums(c);
        } else {
            clear_sums();
        }
        for _ in 0..blocks {
            multiply_block::<PARTS>(a, b, c.pointer, &mut ());
            a = a.wrapping_add(BLOCK_WORDS * PARTS);
            b = b.wrapping_add(BLOCK_WORDS * PARTS);
        }
        store_sums(c);
    }
}

/// A register tile of C that is not whole.
#[repr(align(64))]
struct Edge([f32; WIDTH * WIDTH]);

/// Copies a part of a register tile.
///
/// # Safety
/// Both must address these rows and columns, `to` for exclusive use.
#[target_feature(enable = "avx512f")]
unsafe fn copy(from: Target, to: Target, rows: usize, columns: usize) {
    let masks = [mask16(columns), mask16(columns.saturating_sub(TILE))];
    for i in 0..rows {
        for (half, mask) in masks.into_iter().enumerate() {
            let (from, to) = (from.at(i, TILE * half).pointer, to.at(i, TILE * half).pointer);
            // SAFETY: by the contract; the mask ends with the columns.
            unsafe { _mm512_mask_storeu_ps(to, mask, _mm512_maskz_loadu_ps(mask, from)) };
        }
    }
}
