//! Packing for the tile unit: elements split into parts, pairs of depths side by side.

use std::arch::x86_64::*;

use super::super::pack::x86::{mask16, transpose16, words_of};
use super::super::pack::{Format, Operand, Part, TILE_DEPTH};
use super::{BLOCK_WORDS, TILE};

/// Tiles between the one that is packed and the one that is asked for.
const AHEAD: usize = 4;

/// [`Format::Tiles`], of A (`LEFT`) or of B.
///
/// # Safety
/// See [`Pack`](super::super::pack::Pack).
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack<const PARTS: usize, const LEFT: bool>(
    operand: Operand<'_>,
    part: Part,
    width: usize,
    out: *mut f32,
) {
    let source = operand.start(part);
    let Part { count, depth, .. } = part;
    let panel_words = width * Format::Tiles { parts: PARTS }.steps(depth);
    let (outer_tiles, blocks) = (count.next_multiple_of(width) / TILE, depth.div_ceil(TILE_DEPTH));
    // Neighbouring rows (columns) lie side by side: a vector has one depth of each of them.
    let across = operand.outer_stride == 1;
    // Along memory.
    let place = |index: usize| {
        let (outer, block) = if across {
            (index % outer_tiles, index / outer_tiles)
        } else {
            (index / blocks, index % blocks)
        };
        (outer * TILE, block * TILE_DEPTH)
    };
    let address = |(first, start): (usize, usize)| {
        source.wrapping_add(first * operand.outer_stride + start * operand.depth_stride)
    };
    for index in 0..outer_tiles * blocks {
        let (first, start) = place(index);
        let block = start / TILE_DEPTH;
        let source = Source {
            first: address((first, start)),
            ahead: address(place(index + AHEAD)),
            stride: if across { operand.depth_stride } else { operand.outer_stride },
            across,
            present: count.saturating_sub(first).min(TILE),
            depth: (depth - start).min(TILE_DEPTH),
        };
        let in_panel = first % width;
        let (at, stride) = if LEFT { (in_panel * TILE, TILE) } else { (in_panel, width) };
        let to = out.wrapping_add(first / width * panel_words + block * BLOCK_WORDS * PARTS + at);
        let store = |i: usize, words: [__m512i; PARTS]| {
            for (part, words) in words.into_iter().enumerate() {
                // The order in which the kernel reads them.
                let part = if LEFT { part } else { PARTS - 1 - part };
                // SAFETY: the panel by the contract.
                unsafe { _mm512_storeu_epi32(to.add(part * BLOCK_WORDS + i * stride).cast(), words) };
            }
        };
        // SAFETY: `start` has checked the part, of which this much lies here.
        unsafe {
            // A's vectors run along the depth, B's across its columns.
            if across != LEFT {
                for i in 0..TILE {
                    store(i, split(source.pair(i)));
                }
            } else if PARTS == 1 {
                let mut tile = [_mm512_setzero_si512(); TILE];
                for (i, words) in tile.iter_mut().enumerate() {
                    [*words] = split(source.pair(i));
                }
                transpose16(&mut tile);
                for (i, words) in tile.iter().enumerate() {
                    store(i, [*words; PARTS]);
                }
            } else {
                // Two transpositions of elements, not three of parts.
                let mut halves = [[_mm512_setzero_si512(); TILE]; 2];
                for (half, tile) in halves.iter_mut().enumerate() {
                    for (i, elements) in tile.iter_mut().enumerate() {
                        *elements = _mm512_castps_si512(source.vector(i, half));
                    }
                    transpose16(tile);
                }
                let [low, high] = &halves;
                for (i, (&low, &high)) in low.iter().zip(high).enumerate() {
                    store(i, split([_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)]));
                }
            }
        }
    }
}

/// A tile of an operand, [`TILE`] rows (columns) by [`TILE_DEPTH`], zeros beyond its edges.
#[derive(Clone, Copy)]
struct Source {
    first: *const f32,
    /// The tile that is asked for meanwhile.
    ahead: *const f32,
    /// From one vector's memory to the next.
    stride: usize,
    /// Vectors run across the rows (columns), not along the depth.
    across: bool,
    /// Rows (columns) that there are.
    present: usize,
    /// Depth that there is.
    depth: usize,
}

impl Source {
    /// A half of the depth: of row (column) i, or the i-th of that half of all of them.
    ///
    /// # Safety
    /// The elements must be readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn vector(self, i: usize, half: usize) -> __m512 {
        let start = half * TILE;
        let (at, count) = if self.across {
            let depth = start + i;
            (depth * self.stride, if depth < self.depth { self.present } else { 0 })
        } else {
            (i * self.stride + start, if i < self.present { self.depth.saturating_sub(start) } else { 0 })
        };
        _mm_prefetch::<_MM_HINT_T0>(self.ahead.wrapping_add(at).cast());
        // SAFETY: by the contract; the mask ends with the operand.
        unsafe { _mm512_maskz_loadu_ps(mask16(count), self.first.wrapping_add(at)) }
    }

    /// Both halves. A pair of a panel is one element of each: any order of depths serves that A and B share.
    ///
    /// # Safety
    /// The elements must be readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pair(self, i: usize) -> [__m512; 2] {
        // SAFETY: by the contract.
        unsafe { [self.vector(i, 0), self.vector(i, 1)] }
    }
}

/// Pairs of bf16, the first number in the lower half of each word: rounded to nearest even, or three parts whose sums are
/// the numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split<const PARTS: usize>([mut low, mut high]: [__m512; 2]) -> [__m512i; PARTS] {
    if PARTS == 1 {
        return [pairs(words_of(low), _mm512_slli_epi32::<16>(words_of(high))); PARTS];
    }
    std::array::from_fn(|part| {
        // Rounded by carry. What is left for the last part has 8 bits.
        let half = _mm512_set1_epi32(if part + 1 < PARTS { 0x8000 } else { 0 });
        let [low_bits, high_bits] =
            [low, high].map(|numbers| _mm512_add_epi32(_mm512_castps_si512(numbers), half));
        low = _mm512_sub_ps(low, upper(low_bits));
        high = _mm512_sub_ps(high, upper(high_bits));
        pairs(_mm512_srli_epi32::<16>(low_bits), high_bits)
    })
}

/// The upper halves of words, as the numbers they are.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper(bits: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(!0xffff)))
}

/// The upper halves of `high` beside what `low` has in its lower halves (and nowhere else).
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(low: __m512i, high: __m512i) -> __m512i {
    // low | (high & mask)
    _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi32(!0xffff))
}
