//! Products of packed factors that are in the caches, as attention has them.

use std::mem::MaybeUninit;

use super::super::kernels::{Panel, Target};
use super::super::needed::Needed;
use super::super::pack::{Format, TILE_DEPTH};
use super::sums::{Pending, PendingRows};
use super::unit::{self, multiply_blocks, steps_of_block};
use super::{BLOCK_WORDS, WIDTH};

/// See [`Factors`](super::super::kernels::Factors).
///
/// # Safety
/// See [`Factors`](super::super::kernels::Factors).
#[target_feature(enable = "avx512f")]
pub unsafe fn factors<const PARTS: usize>(
    a: Panel,
    b: Panel,
    c: Target,
    [m, n]: [usize; 2],
    steps: usize,
    needed: Needed,
) {
    let depth = Format::Tiles { parts: PARTS }.depth(steps);
    // Not cleared: that would be 128 stores for every product.
    let mut buffers = Sums(MaybeUninit::uninit());
    let mut sums: *mut f32 = buffers.0.as_mut_ptr().cast();
    let mut other_sums = sums.wrapping_add(WIDTH * WIDTH);
    let mut before = Pending { sums: other_sums, c, rows: 0, columns: 0, streamed: false };
    // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
    unsafe { unit::configure() };
    for j in (0..n).step_by(WIDTH) {
        for i in (0..m).step_by(WIDTH) {
            let [height, width] = [m - i, n - j].map(|left| WIDTH.min(left));
            let Some(depths) = needed.depths(i..i + height, j..j + width, depth) else { continue };
            let first = depths.start / TILE_DEPTH;
            let blocks = depths.end.div_ceil(TILE_DEPTH).saturating_sub(first);
            let a = a.words.wrapping_add(i * a.steps + first * BLOCK_WORDS * PARTS);
            let b = b.words.wrapping_add(j * b.steps + first * BLOCK_WORDS * PARTS);
            let now = Pending { sums, c: c.at(i, j), rows: height, columns: width, streamed: false };
            // SAFETY: these blocks of both panels are there by the contract, as are these rows and columns of C; what is
            // pending lies in the other buffer.
            unsafe {
                let mut rows = PendingRows::new(before, now.c.pointer, steps_of_block(PARTS) * blocks);
                multiply_blocks::<PARTS>(blocks, a, b, sums, &mut rows);
                rows.write(WIDTH);
            }
            before = now;
            (sums, other_sums) = (other_sums, sums);
        }
    }
    // SAFETY: as above.
    unsafe {
        unit::release();
        PendingRows::new(before, before.c.pointer, 0).write(WIDTH);
    }
}

/// Room for the sums of two register tiles.
#[repr(align(64))]
struct Sums(MaybeUninit<[[f32; WIDTH * WIDTH]; 2]>);
