//! Register tiles of the matrix product, one for each instruction-set level.
//!
//! A kernel multiplies a panel of A `[depth][rows]` by a panel of B `[depth][columns]` and writes or adds the tile. The
//! additions along the depth happen one after another for each element, whatever the level.

use super::simd::Level;

/// A register tile.
pub struct Kernel {
    /// Rows of the tile (width of a panel of A).
    pub rows: usize,
    /// Columns of the tile (width of a panel of B).
    pub columns: usize,
    /// `(depth, a, b, c, stride of c, accumulate)`.
    ///
    /// Safety: `a` and `b` must hold `depth` steps of packed panels, `c` a whole tile for exclusive use, and the machine
    /// must have the level this kernel was selected for.
    pub run: unsafe fn(usize, *const f32, *const f32, *mut f32, usize, bool),
}

/// Elements of the largest tile.
pub const LARGEST_TILE: usize = 12 * 32;

/// The kernel of a level.
pub fn select(level: Level) -> &'static Kernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &Kernel { rows: 12, columns: 32, run: x86::avx512 },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &Kernel { rows: 6, columns: 16, run: x86::avx2 },
        _ => &Kernel { rows: 4, columns: 8, run: portable },
    }
}

/// Plain code that any compiler turns into something decent.
///
/// # Safety
/// See [`Kernel::run`].
unsafe fn portable(depth: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, accumulate: bool) {
    let mut tile = [[0.0f32; 8]; 4];
    for p in 0..depth {
        for (i, row) in tile.iter_mut().enumerate() {
            // SAFETY: within the panels, by the contract.
            let left = unsafe { *a.add(p * 4 + i) };
            for (j, sum) in row.iter_mut().enumerate() {
                // SAFETY: as above.
                *sum += left * unsafe { *b.add(p * 8 + j) };
            }
        }
    }
    for (i, row) in tile.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            // SAFETY: within the tile of C, by the contract.
            unsafe {
                let out = c.add(i * stride + j);
                *out = if accumulate { *out + sum } else { sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// 12 x 32: 24 accumulators, 2 registers of B, and A broadcast from memory.
    ///
    /// # Safety
    /// See [`super::Kernel::run`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        let mut tile = [[_mm512_setzero_ps(); 2]; 12];
        for p in 0..depth {
            // SAFETY: within the panels, by the contract.
            unsafe {
                let b = [_mm512_loadu_ps(b.add(p * 32)), _mm512_loadu_ps(b.add(p * 32 + 16))];
                for (i, row) in tile.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*a.add(p * 12 + i));
                    row[0] = _mm512_fmadd_ps(left, b[0], row[0]);
                    row[1] = _mm512_fmadd_ps(left, b[1], row[1]);
                }
            }
        }
        for (i, row) in tile.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: within the tile of C, by the contract.
                unsafe {
                    let out = c.add(i * stride + j * 16);
                    let sum = if accumulate { _mm512_add_ps(_mm512_loadu_ps(out), sum) } else { sum };
                    _mm512_storeu_ps(out, sum);
                }
            }
        }
    }

    /// 6 x 16: 12 accumulators, 2 registers of B, one of A.
    ///
    /// # Safety
    /// See [`super::Kernel::run`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        let mut tile = [[_mm256_setzero_ps(); 2]; 6];
        for p in 0..depth {
            // SAFETY: within the panels, by the contract.
            unsafe {
                let b = [_mm256_loadu_ps(b.add(p * 16)), _mm256_loadu_ps(b.add(p * 16 + 8))];
                for (i, row) in tile.iter_mut().enumerate() {
                    let left = _mm256_set1_ps(*a.add(p * 6 + i));
                    row[0] = _mm256_fmadd_ps(left, b[0], row[0]);
                    row[1] = _mm256_fmadd_ps(left, b[1], row[1]);
                }
            }
        }
        for (i, row) in tile.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: within the tile of C, by the contract.
                unsafe {
                    let out = c.add(i * stride + j * 8);
                    let sum = if accumulate { _mm256_add_ps(_mm256_loadu_ps(out), sum) } else { sum };
                    _mm256_storeu_ps(out, sum);
                }
            }
        }
    }
}
