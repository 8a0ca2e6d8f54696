//! Sums of register tiles on their way to C: stored from the tiles to a buffer in the first-level cache, and written from
//! there by the vector units while the tile unit multiplies the next ones.
//!
//! Storing tiles to C directly would be less work, and slower: the tile unit waits for every line that is not in the
//! first-level cache, and C's are not.

use std::arch::x86_64::*;

use super::super::kernels::Target;
use super::super::pack::x86::mask16;
use super::unit::{self, Meanwhile};
use super::{TILE, WIDTH};

/// A register tile's sums, and where in C they go.
#[derive(Clone, Copy)]
pub struct Pending {
    /// A register tile, its rows one after another.
    pub sums: *mut f32,
    /// Its corner.
    pub c: Target,
    /// Rows of C that there are.
    pub rows: usize,
    /// Columns of C that there are.
    pub columns: usize,
    /// Whether it is written past the caches.
    pub streamed: bool,
}

impl Pending {
    /// Writes or adds all of a register tile that C ends in. There are few of these: they may wait for their sums.
    ///
    /// # Safety
    /// See [`PendingRows::new`].
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    unsafe fn write_edge(self) {
        let masks = [mask16(self.columns), mask16(self.columns.saturating_sub(TILE))];
        for (row, half) in (0..self.rows).flat_map(|row| [(row, 0), (row, 1)]) {
            let (to, mask) = (self.c.at(row, TILE * half).pointer, masks[half]);
            // SAFETY: by the contract; the masks end with the columns.
            unsafe {
                let mut sums = _mm512_loadu_ps(self.sums.wrapping_add(row * WIDTH + TILE * half));
                if self.c.accumulate {
                    sums = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sums);
                }
                _mm512_mask_storeu_ps(to, mask, sums);
            }
        }
    }
}

/// Rows of a register tile that have not been written to C yet; they are written while another is multiplied.
pub struct PendingRows {
    sums: *const f32,
    c: Target,
    rows: usize,
    streamed: bool,
    /// The same row of the register tile that will be written after this one, to ask for it.
    following: *const f32,
    pace: Pace,
}

impl PendingRows {
    /// All of them, spread over so many steps of the register tile that is multiplied, which goes to `following`. One that C ends in
    /// is written at once, so that the others need no masks.
    ///
    /// # Safety
    /// The sums must be there, and C must address the rows and columns for exclusive use.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn new(pending: Pending, following: *const f32, steps: usize) -> Self {
        let Pending { sums, c, rows, columns, streamed } = pending;
        let whole = rows == WIDTH && columns == WIDTH;
        if !whole {
            // SAFETY: by the contract.
            unsafe { pending.write_edge() };
        }
        let rows = if whole { WIDTH } else { 0 };
        Self { sums, c, rows, streamed, following, pace: Pace::of(WIDTH, steps) }
    }

    /// Writes or adds so many rows, if they are left.
    ///
    /// # Safety
    /// See [`new`](Self::new).
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn write(&mut self, rows: usize) {
        for _ in 0..rows.min(self.rows) {
            let (left, right) = (self.c.pointer, self.c.at(0, TILE).pointer);
            // SAFETY: by the contract.
            unsafe {
                let (mut low, mut high) =
                    (_mm512_loadu_ps(self.sums), _mm512_loadu_ps(self.sums.wrapping_add(TILE)));
                if self.streamed {
                    _mm512_stream_ps(left, low);
                    _mm512_stream_ps(right, high);
                } else {
                    if self.c.accumulate {
                        unit::ask_for_writing(self.following);
                        unit::ask_for_writing(self.following.wrapping_add(TILE));
                        low = _mm512_add_ps(_mm512_loadu_ps(left), low);
                        high = _mm512_add_ps(_mm512_loadu_ps(right), high);
                    }
                    _mm512_storeu_ps(left, low);
                    _mm512_storeu_ps(right, high);
                }
            }
            self.sums = self.sums.wrapping_add(WIDTH);
            self.c = self.c.at(1, 0);
            self.following = self.following.wrapping_add(self.c.stride);
            self.rows -= 1;
        }
    }
}

impl Meanwhile for PendingRows {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write_sums(&mut self) {
        let due = self.pace.due();
        // SAFETY: the machine has AVX-512 by the contract, and the rows are there by that of the product.
        unsafe { self.write(due) };
    }

    unsafe fn work(&mut self) {}
}

/// Spreads one count evenly over another.
pub struct Pace {
    count: usize,
    over: usize,
    credit: usize,
}

impl Pace {
    /// So many, over so many.
    pub fn of(count: usize, over: usize) -> Self {
        Self { count, over, credit: 0 }
    }

    /// How many are due at this one.
    #[inline]
    pub fn due(&mut self) -> usize {
        self.credit += self.count;
        let mut due = 0;
        while self.credit >= self.over {
            self.credit -= self.over;
            due += 1;
        }
        due
    }
}
