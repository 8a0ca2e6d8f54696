//! Products of packed factors that are in the caches, as attention has them.

use super::super::kernels::{Panel, Target};
use super::sums::{Pace, Pending, PendingRows};
use super::unit::{self, Meanwhile, multiply_block, steps_of_block};
use super::{BLOCK_WORDS, TILE, WIDTH};

/// See [`Factors`](super::super::kernels::Factors).
///
/// # Safety
/// See [`Factors`](super::super::kernels::Factors).
#[target_feature(enable = "avx512f")]
pub unsafe fn factors<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], steps: usize) {
    let blocks = steps / (TILE * PARTS);
    let steps_of_tile = steps_of_block(PARTS) * blocks;
    let mut buffers = [const { Sums([0.0; WIDTH * WIDTH]) }; 2];
    let [mut sums, mut other_sums] = buffers.each_mut().map(|buffer| buffer.0.as_mut_ptr());
    let mut before = Pending { sums: other_sums, c, rows: 0, columns: 0, streamed: false };
    // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
    unsafe { unit::configure() };
    for j in (0..n).step_by(WIDTH) {
        for i in (0..m).step_by(WIDTH) {
            let (mut a, mut b) = (a.words.wrapping_add(i * a.steps), b.words.wrapping_add(j * b.steps));
            let (rows, columns) = (WIDTH.min(m - i), WIDTH.min(n - j));
            let now = Pending { sums, c: c.at(i, j), rows, columns, streamed: false };
            let mut beside = Beside {
                rows: PendingRows::new(before, now.c.pointer),
                pace: Pace::of(WIDTH, steps_of_tile),
            };
            // SAFETY: these blocks of both panels are there by the contract, as are these rows and columns of C; what is
            // pending lies in the other buffer.
            unsafe {
                unit::clear_sums();
                for _ in 0..blocks {
                    multiply_block::<PARTS>(a, b, sums, &mut beside);
                    a = a.wrapping_add(BLOCK_WORDS * PARTS);
                    b = b.wrapping_add(BLOCK_WORDS * PARTS);
                }
                beside.rows.write(WIDTH);
                unit::store_sums(Target { pointer: sums, stride: WIDTH, accumulate: false });
            }
            before = now;
            (sums, other_sums) = (other_sums, sums);
        }
    }
    // SAFETY: as above.
    unsafe {
        unit::release();
        PendingRows::new(before, before.c.pointer).write(WIDTH);
    }
}

/// Room for the sums of a register tile.
#[repr(align(64))]
struct Sums([f32; WIDTH * WIDTH]);

/// What is done while a register tile is multiplied: the sums of the one before are written.
struct Beside {
    rows: PendingRows,
    pace: Pace,
}

impl Meanwhile for Beside {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn step(&mut self) {
        // SAFETY: the machine has AVX-512 by the contract, and the rows are there by that of the product.
        unsafe { self.rows.write(self.pace.due()) };
    }
}
