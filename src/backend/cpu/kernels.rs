//! Register tiles of the matrix product, one for each instruction-set level and format of operands.
//!
//! A kernel multiplies a panel of A `[steps][rows]` by a panel of B `[steps][columns]` and writes or adds the tile. The
//! additions along the depth happen in one order for each element, wherever it lies in its tile.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused_imports, reason = "other architectures have the portable kernel only")
)]

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::needed::Needed;
use super::pack::{self, Format, Operand, Pack};
use super::simd::{Level, Simd};

/// What a product makes of its operands before it multiplies them; it adds in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// Nothing.
    #[default]
    F32,
    /// Rounds each to bf16, to nearest even.
    Bf16,
}

/// How products are computed.
pub struct Kernel {
    /// Rows of the register tile (width of a panel of A).
    pub rows: usize,
    /// Columns of the register tile (width of a panel of B).
    pub columns: usize,
    /// What its panels hold.
    pub format: Format,
    /// Makes the panels of A.
    pub pack_a: Pack,
    /// Makes the panels of B.
    pub pack_b: Pack,
    /// Multiplies panels.
    pub compute: Compute,
}

/// How panels are multiplied.
#[derive(Clone, Copy)]
pub enum Compute {
    /// A register tile at a time, in the order of `product.rs`.
    Tiles(Tiles),
    /// In the kernel's own order.
    Own {
        /// Products of packed factors.
        factors: Factors,
        /// Products of operands in memory.
        whole: Whole,
    },
}

/// What `product.rs` needs to know of a register tile.
#[derive(Clone, Copy)]
pub struct Tiles {
    /// Multiplies one.
    pub run: Run,
    /// Depth of a packed block: C is read and written once for each.
    pub depth: usize,
    /// Rows of C that one task takes at most: with a block's depth they stay in the second-level cache.
    pub task_rows: usize,
}

/// Packed panels, one after another.
#[derive(Clone, Copy)]
pub struct Panel {
    /// The first.
    pub words: *const f32,
    /// Steps from one panel to the next.
    pub steps: usize,
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
    pub fn at(self, i: usize, j: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(i * self.stride + j), ..self }
    }
}

// SAFETY: a plain address; who writes through it asks for exclusive use.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// `(a, b, c, [rows, columns], steps, needed)`.
///
/// Safety: the panels must hold these rows and columns at `steps` steps, `c` must address them for exclusive use, and the
/// machine must have the level of the kernel.
pub type Factors = unsafe fn(Panel, Panel, Target, [usize; 2], usize, Needed);

/// `(threads, a, b, c, [m, n, k])`: `C (+)= A B` by all threads of the pool that this is called in.
///
/// Safety: `c` must address `m` rows of `n` elements that nothing else reads or writes meanwhile, and the machine must have
/// the level of the kernel.
pub type Whole = unsafe fn(usize, Operand<'_>, Operand<'_>, Target, [usize; 3]);

/// Words of a packed block along k: with it, a panel of B and one of A stay in the first-level cache.
const DEPTH_WORDS: usize = 256;

/// Elements of the largest tile.
pub const LARGEST_TILE: usize = 12 * 32;

/// The kernel of the machine's level.
pub fn select(simd: Simd, operands: Operands) -> &'static Kernel {
    match (simd.level(), operands) {
        #[cfg(target_arch = "x86_64")]
        (Level::Amx, Operands::Bf16) => const { &amx::kernel::<1>() },
        #[cfg(target_arch = "x86_64")]
        (Level::Amx, Operands::F32) => const { &amx::kernel::<3>() },
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512Bf16, Operands::Bf16) => {
            const { &Kernel::new(12, 32, Format::Pairs, pack::avx512_pairs, x86::avx512_bf16) }
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx512Bf16, Operands::F32) => {
            const { &Kernel::new(12, 32, Format::F32, pack::avx2::<false>, x86::avx512) }
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Operands::Bf16) => {
            const { &Kernel::new(12, 32, Format::Rounded, pack::avx2::<true>, x86::avx512) }
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Operands::F32) => {
            const { &Kernel::new(6, 16, Format::F32, pack::avx2::<false>, x86::avx2) }
        }
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Operands::Bf16) => {
            const { &Kernel::new(6, 16, Format::Rounded, pack::avx2::<true>, x86::avx2) }
        }
        (_, Operands::F32) => const { &Kernel::new(4, 8, Format::F32, pack::portable::<false>, portable) },
        (_, Operands::Bf16) => {
            const { &Kernel::new(4, 8, Format::Rounded, pack::portable::<true>, portable) }
        }
    }
}

/// `(steps, a, b, c, stride of c, accumulate)`.
///
/// Safety: `a` and `b` must hold `steps` steps of packed panels, `c` a whole tile for exclusive use, and the machine
/// must have the level of the kernel.
pub type Run = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, bool);

impl Kernel {
    const fn new(rows: usize, columns: usize, format: Format, pack: Pack, run: Run) -> Self {
        let depth = match format {
            Format::Pairs => 2 * DEPTH_WORDS,
            _ => DEPTH_WORDS,
        };
        let compute = Compute::Tiles(Tiles { run, depth, task_rows: 240 });
        Self { rows, columns, format, pack_a: pack, pack_b: pack, compute }
    }
}

/// Plain code that any compiler turns into something decent.
///
/// # Safety
/// See [`Run`].
unsafe fn portable(steps: usize, a: *const f32, b: *const f32, c: *mut f32, stride: usize, accumulate: bool) {
    let mut tile = [[0.0f32; 8]; 4];
    for p in 0..steps {
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
    /// See [`super::Run`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(
        steps: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        fetch::<12, 2>(c, stride);
        let mut tile = [[_mm512_setzero_ps(); 2]; 12];
        for p in 0..steps {
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
        // SAFETY: a whole tile of C, by the contract.
        unsafe { store(&tile, c, stride, accumulate) };
    }

    /// The same with pairs of bf16.
    ///
    /// # Safety
    /// See [`super::Run`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn avx512_bf16(
        steps: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        fetch::<12, 2>(c, stride);
        let mut tile = [[_mm512_setzero_ps(); 2]; 12];
        for p in 0..steps {
            // SAFETY: within the panels, by the contract.
            unsafe {
                let b = [pairs(_mm512_loadu_ps(b.add(p * 32))), pairs(_mm512_loadu_ps(b.add(p * 32 + 16)))];
                for (i, row) in tile.iter_mut().enumerate() {
                    let left = pairs(_mm512_set1_ps(*a.add(p * 12 + i)));
                    row[0] = _mm512_dpbf16_ps(row[0], b[0], left);
                    row[1] = _mm512_dpbf16_ps(row[1], b[1], left);
                }
            }
        }
        // SAFETY: a whole tile of C, by the contract.
        unsafe { store(&tile, c, stride, accumulate) };
    }

    /// Asks for the cache lines of a tile of C, which will be here when its sums are complete.
    #[inline(always)]
    fn fetch<const ROWS: usize, const LINES: usize>(c: *const f32, stride: usize) {
        for i in 0..ROWS {
            for line in 0..LINES {
                // SAFETY: a hint, which faults nowhere.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + 16 * line).cast()) };
            }
        }
    }

    /// 32-bit words as what they are.
    #[inline(always)]
    fn pairs(words: __m512) -> __m512bh {
        // SAFETY: both are 64 bytes that may hold anything.
        unsafe { std::mem::transmute(words) }
    }

    /// Writes or adds a tile.
    ///
    /// # Safety
    /// `c` must address 12 rows of 32 elements for exclusive use.
    #[target_feature(enable = "avx512f")]
    unsafe fn store(tile: &[[__m512; 2]; 12], c: *mut f32, stride: usize, accumulate: bool) {
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
    /// See [`super::Run`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(
        steps: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        fetch::<6, 1>(c, stride);
        let mut tile = [[_mm256_setzero_ps(); 2]; 6];
        for p in 0..steps {
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
