//! Packing: the factors of a product copied into panels that the register tiles of `kernels.rs` read front to back.
//!
//! A panel is `[steps][width]` of 32-bit words: one f32 for each step along the reduction, or two bf16 of neighbouring
//! depths ([`Format`]). Panels are padded with zeros to whole ones. Nothing here multiplies; what is rounded is said by
//! the format and rounded to nearest even.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other architectures have the portable kernel only")
)]

use super::simd;

/// What a 32-bit word of a panel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The element as it is.
    F32,
    /// The element rounded to bf16, as f32: for machines without bf16 products.
    Rounded,
    /// Two elements rounded to bf16, the one of the lower depth in the lower half; an odd depth ends with a zero.
    Pairs,
    /// For AMX: pairs in blocks of [`TILE_DEPTH`], each block once for every part of its elements ([`super::amx`]).
    Tiles {
        /// bf16 numbers that an element is the sum of.
        parts: usize,
    },
}

/// Depth of one AMX tile.
pub const TILE_DEPTH: usize = 32;

impl Format {
    /// Words along a reduction of this depth.
    pub fn steps(self, depth: usize) -> usize {
        match self {
            Format::F32 | Format::Rounded => depth,
            Format::Pairs => depth.div_ceil(2),
            Format::Tiles { parts } => depth.div_ceil(TILE_DEPTH) * TILE_DEPTH / 2 * parts,
        }
    }

    /// Words before the one (the block) that holds this depth.
    pub fn steps_before(self, depth: usize) -> usize {
        match self {
            Format::F32 | Format::Rounded => depth,
            Format::Pairs => depth / 2,
            Format::Tiles { parts } => depth / TILE_DEPTH * TILE_DEPTH / 2 * parts,
        }
    }

    /// Depths that so many words hold.
    pub fn depth(self, steps: usize) -> usize {
        match self {
            Format::F32 | Format::Rounded => steps,
            Format::Pairs => 2 * steps,
            Format::Tiles { parts } => 2 * steps / parts,
        }
    }
}

/// One factor of a product: element (outer, depth) at `outer * outer_stride + depth * depth_stride`; outer counts rows
/// of A or columns of B, depth runs along k. One of the strides is 1.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// Where it lies, from its first element on.
    pub data: &'a [f32],
    /// Elements from one row of A (column of B) to the next.
    pub outer_stride: usize,
    /// Elements from one step along k to the next.
    pub depth_stride: usize,
}

impl<'a> Operand<'a> {
    /// A factor whose reduction runs along its rows, `stride` elements apart.
    pub fn by_rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, outer_stride: stride, depth_stride: 1 }
    }

    /// A factor whose reduction runs down its columns; its rows are `stride` elements apart.
    pub fn by_columns(data: &'a [f32], stride: usize) -> Self {
        Self { data, outer_stride: 1, depth_stride: stride }
    }

    /// The operand from row (column) `outer` on.
    pub fn from(self, outer: usize) -> Self {
        Self { data: self.data.get(outer * self.outer_stride..).unwrap_or_default(), ..self }
    }
}

/// Which factor of a product something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its rows are those of C.
    A,
    /// Its columns are those of C.
    B,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Which elements of an operand are packed: its first `count` rows (columns), `depth` steps from `start`.
#[derive(Clone, Copy)]
pub struct Part {
    /// Outer elements.
    pub count: usize,
    /// First step along k.
    pub start: usize,
    /// Steps along k.
    pub depth: usize,
}

impl Operand<'_> {
    /// The address of a part's first element, after checking that all of the part is there.
    pub(super) fn start(&self, part: Part) -> *const f32 {
        assert!(self.outer_stride == 1 || self.depth_stride == 1, "an operand with two strides");
        if part.count == 0 || part.depth == 0 {
            return self.data.as_ptr();
        }
        let first = part.start * self.depth_stride;
        let last = first + (part.count - 1) * self.outer_stride + (part.depth - 1) * self.depth_stride;
        assert!(last < self.data.len(), "a part beyond its operand");
        self.data[first..].as_ptr()
    }
}

/// Packs a part into panels of `width` rows (columns) each.
///
/// Safety: `out` must have room for the count rounded up to whole panels, times the format's steps, and the machine the
/// level that the function is for.
pub type Pack = unsafe fn(Operand<'_>, Part, usize, *mut f32);

/// Any machine: [`Format::F32`], or [`Format::Rounded`].
///
/// # Safety
/// See [`Pack`].
pub unsafe fn portable<const ROUND: bool>(operand: Operand<'_>, part: Part, width: usize, out: *mut f32) {
    let source = operand.start(part);
    let Part { count, depth, .. } = part;
    for first in (0..count).step_by(width) {
        let present = width.min(count - first);
        for p in 0..depth {
            for j in 0..width {
                let at = (first + j) * operand.outer_stride + p * operand.depth_stride;
                // SAFETY: `start` has checked the part; the panel by the contract.
                unsafe {
                    let value = if j < present { *source.add(at) } else { 0.0 };
                    *out.add(first * depth + p * width + j) =
                        if ROUND { simd::round_to_bf16(value) } else { value };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{avx2, avx512_pairs};

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::{Operand, Part};

    /// Rows between the one that is packed and the one that is asked for.
    const AHEAD: usize = 16;

    /// AVX2: [`super::Format::F32`], or [`super::Format::Rounded`].
    ///
    /// # Safety
    /// See [`super::Pack`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2<const ROUND: bool>(operand: Operand<'_>, part: Part, width: usize, out: *mut f32) {
        let source = operand.start(part);
        let Part { count, depth, .. } = part;
        if operand.outer_stride == 1 {
            // Depth first, so that neighbouring panels share the cache lines of a row.
            for p in 0..depth {
                fetch(source.wrapping_add((p + AHEAD) * operand.depth_stride), count);
                for first in (0..count).step_by(width) {
                    for lane in (0..width).step_by(8) {
                        let outer = first + lane;
                        // SAFETY: `start` has checked the part, the mask ends with it; the panel by the contract.
                        unsafe {
                            let from = source.wrapping_add(outer + p * operand.depth_stride);
                            let values = round8::<ROUND>(load8(from, count.saturating_sub(outer)));
                            store8(out.add(first * depth + p * width + lane), values, width - lane);
                        }
                    }
                }
            }
            return;
        }
        for first in (0..count).step_by(width) {
            for lane in (0..width).step_by(8) {
                let outer = first + lane;
                for p in (0..depth).step_by(8) {
                    let mut rows = [_mm256_setzero_ps(); 8];
                    for (i, row) in rows.iter_mut().enumerate().take(count.saturating_sub(outer)) {
                        // SAFETY: `start` has checked the part; the mask ends with its depth.
                        *row = unsafe {
                            let from = source.wrapping_add((outer + i) * operand.outer_stride + p);
                            round8::<ROUND>(load8(from, depth - p))
                        };
                    }
                    for (q, values) in transpose8(rows).into_iter().enumerate().take(depth - p) {
                        // SAFETY: the panel by the contract.
                        unsafe {
                            store8(out.add(first * depth + (p + q) * width + lane), values, width - lane)
                        };
                    }
                }
            }
        }
    }

    /// AVX-512 with bf16: [`super::Format::Pairs`].
    ///
    /// # Safety
    /// See [`super::Pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn avx512_pairs(operand: Operand<'_>, part: Part, width: usize, out: *mut f32) {
        let source = operand.start(part);
        let Part { count, depth, .. } = part;
        let steps = depth.div_ceil(2);
        if operand.outer_stride == 1 {
            for step in 0..steps {
                for row in 0..2 {
                    fetch(source.wrapping_add((2 * step + row + AHEAD) * operand.depth_stride), count);
                }
                for first in (0..count).step_by(width) {
                    for lane in (0..width).step_by(16) {
                        let outer = first + lane;
                        let low = source.wrapping_add(outer + 2 * step * operand.depth_stride);
                        let present = mask16(count.saturating_sub(outer));
                        let above = if 2 * step + 1 < depth { present } else { 0 };
                        // SAFETY: `start` has checked the part, the masks end with it; the panel by the contract.
                        unsafe {
                            let high = low.wrapping_add(operand.depth_stride);
                            let (low, high) =
                                (_mm512_maskz_loadu_ps(present, low), _mm512_maskz_loadu_ps(above, high));
                            let to = out.add(first * steps + step * width + lane);
                            _mm512_mask_storeu_epi32(to.cast(), mask16(width - lane), interleave(low, high));
                        }
                    }
                }
            }
            return;
        }
        for first in (0..count).step_by(width) {
            for lane in (0..width).step_by(16) {
                let outer = first + lane;
                for step in (0..steps).step_by(16) {
                    let left = depth - 2 * step;
                    let (low_mask, high_mask) = (mask16(left), mask16(left.saturating_sub(16)));
                    let mut rows = [_mm512_setzero_si512(); 16];
                    for (i, row) in rows.iter_mut().enumerate().take(count.saturating_sub(outer)) {
                        let from = source.wrapping_add((outer + i) * operand.outer_stride + 2 * step);
                        // SAFETY: `start` has checked the part; the masks end with its depth.
                        *row = unsafe {
                            let low = _mm512_maskz_loadu_ps(low_mask, from);
                            let high = _mm512_maskz_loadu_ps(high_mask, from.wrapping_add(16));
                            words(_mm512_cvtne2ps_pbh(high, low))
                        };
                    }
                    for (q, &values) in transpose16(rows).iter().enumerate().take(steps - step) {
                        // SAFETY: the panel by the contract.
                        unsafe {
                            let to = out.add(first * steps + (step + q) * width + lane);
                            _mm512_mask_storeu_epi32(to.cast(), mask16(width - lane), values);
                        }
                    }
                }
            }
        }
    }

    /// Asks for the cache lines of a row that will be read soon: rows lie too far apart for the machine to foresee them.
    #[inline(always)]
    fn fetch(row: *const f32, count: usize) {
        for at in (0..count).step_by(16) {
            // SAFETY: a hint, which faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at).cast()) };
        }
    }

    /// The same bits as integers.
    #[inline(always)]
    pub fn words(values: __m512bh) -> __m512i {
        // SAFETY: both are 64 bytes that may hold anything.
        unsafe { std::mem::transmute(values) }
    }

    /// The lowest `count` of 16 lanes.
    #[inline(always)]
    pub fn mask16(count: usize) -> u16 {
        if count >= 16 { u16::MAX } else { (1 << count) - 1 }
    }

    /// bf16 of both, alternating: `low[0], high[0], low[1], high[1], ..`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn interleave(low: __m512, high: __m512) -> __m512i {
        let (low, high) = (words_of(low), words_of(high));
        _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
    }

    /// bf16 in the lower halves of 16 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn words_of(values: __m512) -> __m512i {
        let narrow = _mm512_cvtneps_pbh(values);
        // SAFETY: both are 32 bytes that may hold anything.
        _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(narrow) })
    }

    /// Vector j gets word j of every vector.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn transpose16(mut rows: [__m512i; 16]) -> [__m512i; 16] {
        let mut within = rows;
        for (four, rows) in within.as_chunks_mut::<4>().0.iter_mut().zip(rows.as_chunks::<4>().0) {
            *four = transpose_within(*rows);
        }
        for j in 0..4 {
            for (i, column) in transpose_across(&within, j).into_iter().enumerate() {
                rows[4 * i + j] = column;
            }
        }
        rows
    }

    /// The first half of a transposition of 16 x 16 words, for four rows: lane k of vector j gets column 4 k + j of all four.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn transpose_within([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let [low, high] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let [low_cd, high_cd] = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
        [
            _mm512_unpacklo_epi64(low, low_cd),
            _mm512_unpackhi_epi64(low, low_cd),
            _mm512_unpacklo_epi64(high, high_cd),
            _mm512_unpackhi_epi64(high, high_cd),
        ]
    }

    /// The second half: columns j, 4 + j, 8 + j and 12 + j.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn transpose_across(rows: &[__m512i; 16], j: usize) -> [__m512i; 4] {
        let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
        let [even, odd] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)];
        let [even_cd, odd_cd] = [_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        [
            _mm512_shuffle_i32x4::<0x88>(even, even_cd),
            _mm512_shuffle_i32x4::<0x88>(odd, odd_cd),
            _mm512_shuffle_i32x4::<0xdd>(even, even_cd),
            _mm512_shuffle_i32x4::<0xdd>(odd, odd_cd),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // Column j of rows 4i..4i+4 in the lower half of fours[4 i + j], column 4 + j in the upper.
        let mut fours = pairs;
        for i in 0..2 {
            let (a, b) = (4 * i, 4 * i + 2);
            fours[a] = _mm256_shuffle_ps::<0x44>(pairs[a], pairs[b]);
            fours[a + 1] = _mm256_shuffle_ps::<0xee>(pairs[a], pairs[b]);
            fours[a + 2] = _mm256_shuffle_ps::<0x44>(pairs[a + 1], pairs[b + 1]);
            fours[a + 3] = _mm256_shuffle_ps::<0xee>(pairs[a + 1], pairs[b + 1]);
        }
        let mut columns = fours;
        for j in 0..4 {
            columns[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
            columns[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
        }
        columns
    }

    /// Ones in the lowest `count` of 8 lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask8(count: usize) -> __m256i {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), lanes)
    }

    /// The first `count` elements, at most 8; zeros behind them.
    ///
    /// # Safety
    /// They must be readable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load8(from: *const f32, count: usize) -> __m256 {
        if count >= 8 {
            // SAFETY: by the contract.
            return unsafe { _mm256_loadu_ps(from) };
        }
        // SAFETY: by the contract; lanes outside the mask are not touched.
        unsafe { _mm256_maskload_ps(from, mask8(count)) }
    }

    /// Stores the first `count` lanes, at most 8.
    ///
    /// # Safety
    /// They must be writable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store8(to: *mut f32, values: __m256, count: usize) {
        if count >= 8 {
            // SAFETY: by the contract.
            return unsafe { _mm256_storeu_ps(to, values) };
        }
        // SAFETY: by the contract; lanes outside the mask are not touched.
        unsafe { _mm256_maskstore_ps(to, mask8(count), values) };
    }

    /// Rounded to bf16 where asked for, as [`crate::backend::cpu::simd::round_to_bf16`] does.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn round8<const ROUND: bool>(values: __m256) -> __m256 {
        if !ROUND {
            return values;
        }
        let bits = _mm256_castps_si256(values);
        let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_and_si256(_mm256_add_epi32(bits, up), _mm256_set1_epi32(-0x1_0000));
        let rounded = _mm256_castsi256_ps(rounded);
        _mm256_blendv_ps(rounded, values, _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values))
    }
}
