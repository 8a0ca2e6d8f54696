//! Packing for the tile unit: elements split into parts, pairs of depths side by side.

use std::arch::x86_64::*;

use super::super::pack::x86::{mask16, transpose_across, transpose_within, transpose16, words_of};
use super::super::pack::{Format, Operand, Part, Side, TILE_DEPTH};
use super::{BLOCK_WORDS, TILE, WIDTH};

/// [`Format::Tiles`], of A (`LEFT`) or of B.
///
/// # Safety
/// See [`Pack`](super::super::pack::Pack); panels are [`WIDTH`] wide.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack<const PARTS: usize, const LEFT: bool>(
    operand: Operand<'_>,
    part: Part,
    _: usize,
    out: *mut f32,
) {
    let side = if LEFT { Side::A } else { Side::B };
    // SAFETY: by the contract.
    unsafe { Packing::<PARTS>::new(side, operand, part, out) }.finish();
}

/// A part of an operand on its way into panels, a piece of some 30 instructions at a time: so the next panels are packed
/// while the tile unit multiplies these.
pub struct Packing<const PARTS: usize> {
    source: *const f32,
    outer_stride: usize,
    depth_stride: usize,
    part: Part,
    out: *mut f32,
    panel_words: usize,
    /// Of a pair of A, all rows lie together; of one of B, all columns of the panel.
    side: Side,
    /// The tile to be packed next.
    place: Place,
    /// What will be packed after all this.
    following: *const f32,
    /// Pieces that are left.
    left: usize,
    /// The tile that is packed, its pieces, and the next of them.
    tile: Tile<PARTS>,
    pieces: usize,
    piece: usize,
    /// Its elements, where they are transposed: each half of the depth.
    halves: [[__m512i; TILE]; 2],
}

/// A tile of an operand, [`TILE`] rows (columns) by [`TILE_DEPTH`], in the order of memory.
#[derive(Clone, Copy)]
struct Place {
    outer: usize,
    block: usize,
    outers: usize,
    blocks: usize,
    /// Neighbouring rows (columns) lie side by side: a vector has one depth of each of them.
    across: bool,
}

impl Place {
    fn next(self) -> Self {
        let Self { outer, block, outers, blocks, across } = self;
        let (outer, block) = match across {
            true if outer + 1 < outers => (outer + 1, block),
            true => (0, block + 1),
            false if block + 1 < blocks => (outer, block + 1),
            false => (outer + 1, 0),
        };
        Self { outer, block, ..self }
    }
}

impl<const PARTS: usize> Packing<PARTS> {
    /// Begins.
    ///
    /// # Safety
    /// See [`Pack`](super::super::pack::Pack), for as long as there are pieces.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn new(side: Side, operand: Operand<'_>, part: Part, out: *mut f32) -> Self {
        let source = operand.start(part);
        let (outers, blocks) = (part.count.next_multiple_of(WIDTH) / TILE, part.depth.div_ceil(TILE_DEPTH));
        let mut packing = Self {
            source,
            outer_stride: operand.outer_stride,
            depth_stride: operand.depth_stride,
            part,
            out,
            panel_words: WIDTH * Format::Tiles { parts: PARTS }.steps(part.depth),
            side,
            place: Place { outer: 0, block: 0, outers, blocks, across: operand.outer_stride == 1 },
            following: source,
            left: 0,
            tile: Tile {
                first: source,
                ahead: None,
                stride: 0,
                half: 0,
                whole: false,
                vectors: [0; 2],
                lanes: [0; 2],
                stores: Stores { to: out, part: 0, stride: 0 },
            },
            pieces: 0,
            piece: 0,
            halves: [[_mm512_setzero_si512(); TILE]; 2],
        };
        packing.pieces = packing.pieces_of_tile();
        packing.piece = packing.pieces;
        packing.left = outers * blocks * packing.pieces;
        packing
    }

    /// Says what will be packed next: so many rows (columns) and depths further.
    pub fn followed_by(self, outer: isize, depth: isize) -> Self {
        let distance = outer * self.outer_stride as isize + depth * self.depth_stride as isize;
        Self { following: self.source.wrapping_offset(distance), ..self }
    }

    /// Pieces that are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Packs what is left.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn finish(&mut self) {
        while self.left > 0 {
            if self.piece == self.pieces {
                self.begin_tile();
                if self.tile.whole {
                    // SAFETY: as for the pieces of a tile.
                    unsafe { if self.transposes() { self.transposed_tile() } else { self.plain_tile() } };
                    (self.piece, self.left) = (self.pieces, self.left - self.pieces);
                    continue;
                }
            }
            self.piece();
        }
    }

    /// All of a whole tile.
    ///
    /// # Safety
    /// See [`new`](Self::new).
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn plain_tile(&self) {
        let Tile { first, stride, half, .. } = self.tile;
        let store = self.tile.stores;
        self.tile.fetch();
        for i in 0..TILE {
            let from = first.wrapping_add(i * stride);
            // SAFETY: by the contract; the tile is whole.
            unsafe {
                store.pair(i, split([_mm512_loadu_ps(from), _mm512_loadu_ps(from.wrapping_add(half))]))
            };
        }
    }

    /// # Safety
    /// See [`new`](Self::new).
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn transposed_tile(&self) {
        let Tile { first, stride, half, .. } = self.tile;
        let store = self.tile.stores;
        self.tile.fetch();
        // SAFETY: by the contract; the tile is whole.
        let vector =
            |i: usize, half: usize| unsafe { _mm512_loadu_ps(first.wrapping_add(i * stride + half)) };
        if PARTS == 1 {
            let rows = std::array::from_fn(|i| {
                let [words] = split([vector(i, 0), vector(i, half)]);
                words
            });
            for (i, words) in transpose16(rows).into_iter().enumerate() {
                // SAFETY: by the contract.
                unsafe { store.pair(i, [words; PARTS]) };
            }
            return;
        }
        // Two transpositions of elements, not three of parts.
        let [low, high] =
            [0, half].map(|half| transpose16(std::array::from_fn(|i| _mm512_castps_si512(vector(i, half)))));
        for (i, pair) in low.into_iter().zip(high).enumerate() {
            // SAFETY: by the contract.
            unsafe { store.pair(i, split([pair.0, pair.1].map(|words| _mm512_castsi512_ps(words)))) };
        }
    }

    /// A's vectors run along the depth, B's across its columns.
    fn transposes(&self) -> bool {
        self.place.across == (self.side == Side::A)
    }

    fn pieces_of_tile(&self) -> usize {
        match (PARTS, self.transposes()) {
            (1, false) => 4,
            (1, true) => 8,
            (_, false) => TILE,
            (_, true) => 8 + TILE / 2,
        }
    }

    /// Packs a piece, if one is left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn piece(&mut self) {
        if self.left == 0 {
            return;
        }
        if self.piece == self.pieces {
            self.begin_tile();
        }
        let piece = self.piece;
        // SAFETY: `new` has checked the part that the tile is of, and its panels have room by the contract.
        unsafe {
            if self.transposes() {
                self.transposed_piece(piece);
            } else {
                self.plain_piece(piece);
            }
        }
        self.left -= 1;
        self.piece += 1;
    }

    /// Not inlined, as the functions below: what calls them is short, and what they do fills the registers.
    #[inline(never)]
    fn begin_tile(&mut self) {
        self.tile = self.tile_at(self.place);
        self.place = self.place.next();
        self.piece = 0;
    }

    /// # Safety
    /// See [`new`](Self::new).
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn plain_piece(&mut self, piece: usize) {
        let pairs = if PARTS == 1 { 4 } else { 1 };
        for i in pairs * piece..pairs * (piece + 1) {
            // SAFETY: by the contract.
            unsafe { self.tile.stores.pair(i, split(self.tile.pair(i))) };
        }
    }

    /// # Safety
    /// See [`new`](Self::new).
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn transposed_piece(&mut self, piece: usize) {
        let elements = |words| _mm512_castsi512_ps(words);
        // SAFETY: by the contract.
        unsafe {
            match (PARTS, piece) {
                (1, 0..4) => {
                    let four = std::array::from_fn(|i| {
                        let [words] = split(self.tile.pair(4 * piece + i));
                        words
                    });
                    self.halves[0][4 * piece..][..4].copy_from_slice(&transpose_within(four));
                }
                (1, _) => {
                    let j = piece - 4;
                    for (i, words) in transpose_across(&self.halves[0], j).into_iter().enumerate() {
                        self.tile.stores.pair(4 * i + j, [words; PARTS]);
                    }
                }
                // Two transpositions of elements, not three of parts.
                (_, 0..4) => {
                    for half in 0..2 {
                        let four = std::array::from_fn(|i| {
                            _mm512_castps_si512(self.tile.vector(4 * piece + i, half))
                        });
                        self.halves[half][4 * piece..][..4].copy_from_slice(&transpose_within(four));
                    }
                }
                (_, 4..8) => {
                    let j = piece - 4;
                    for half in &mut self.halves {
                        for (i, column) in transpose_across(half, j).into_iter().enumerate() {
                            half[4 * i + j] = column;
                        }
                    }
                }
                _ => {
                    let [low, high] = &self.halves;
                    for i in 2 * (piece - 8)..2 * (piece - 7) {
                        self.tile.stores.pair(i, split([elements(low[i]), elements(high[i])]));
                    }
                }
            }
        }
    }

    fn tile_at(&self, place: Place) -> Tile<PARTS> {
        let Place { outer, block, blocks, across, .. } = place;
        let address = |from: *const f32, outer: usize, block: usize| {
            from.wrapping_add(TILE * outer * self.outer_stride + TILE_DEPTH * block * self.depth_stride)
        };
        let present = self.part.count.saturating_sub(TILE * outer).min(TILE);
        let depth = self.part.depth - TILE_DEPTH * block;
        let depths = [depth.min(TILE), depth.saturating_sub(TILE).min(TILE)];
        let first = address(self.source, outer, block);
        // The machine foresees what is walked along, once it has begun.
        let ahead = match (across, block + 1 < blocks) {
            (true, true) => Some(address(self.source, outer, block + 1)),
            (true, false) => Some(address(self.following, outer, 0)),
            (false, _) => (block == 0).then(|| address(self.following, outer, 0)),
        };
        let (panel, in_panel) = (TILE * outer / WIDTH, TILE * outer % WIDTH);
        let to = self.out.wrapping_add(panel * self.panel_words + block * BLOCK_WORDS * PARTS);
        // The order in which the kernel reads them.
        let stores = match self.side {
            Side::A => {
                Stores { to: to.wrapping_add(in_panel * TILE), part: BLOCK_WORDS as isize, stride: TILE }
            }
            Side::B => Stores {
                to: to.wrapping_add(in_panel + (PARTS - 1) * BLOCK_WORDS),
                part: -(BLOCK_WORDS as isize),
                stride: WIDTH,
            },
        };
        let whole = present == TILE && depth >= TILE_DEPTH;
        if across {
            let (stride, half) = (self.depth_stride, TILE * self.depth_stride);
            Tile { first, ahead, stride, half, whole, vectors: depths, lanes: [mask16(present); 2], stores }
        } else {
            let (stride, half) = (self.outer_stride, TILE);
            Tile {
                first,
                ahead,
                stride,
                half,
                whole,
                vectors: [present; 2],
                lanes: depths.map(mask16),
                stores,
            }
        }
    }
}

/// Where the pairs of a tile go.
#[derive(Clone, Copy)]
struct Stores<const PARTS: usize> {
    to: *mut f32,
    /// Words from one part to the next.
    part: isize,
    /// Words from one pair to the next.
    stride: usize,
}

impl<const PARTS: usize> Stores<PARTS> {
    /// Stores pair i of all rows, or all pairs of row i.
    ///
    /// # Safety
    /// The panel must have room.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pair(self, i: usize, words: [__m512i; PARTS]) {
        let mut to = self.to.wrapping_add(i * self.stride);
        for words in words {
            // SAFETY: by the contract.
            unsafe { _mm512_storeu_epi32(to.cast(), words) };
            to = to.wrapping_offset(self.part);
        }
    }
}

/// A tile that is packed; zeros beyond the operand's edges.
#[derive(Clone, Copy)]
struct Tile<const PARTS: usize> {
    first: *const f32,
    /// Memory that is asked for meanwhile.
    ahead: Option<*const f32>,
    /// From one vector to the next.
    stride: usize,
    /// From one half of the depth to the other.
    half: usize,
    /// Whether all of it is there.
    whole: bool,
    /// Vectors that there are of each half.
    vectors: [usize; 2],
    /// Their lanes that there are.
    lanes: [u16; 2],
    /// Where it goes.
    stores: Stores<PARTS>,
}

impl<const PARTS: usize> Tile<PARTS> {
    /// Asks for the memory that is to be asked for.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fetch(&self) {
        let Some(ahead) = self.ahead else { return };
        for at in (0..TILE).flat_map(|i| [i * self.stride, i * self.stride + self.half]) {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(at).cast());
        }
    }

    /// A half of the depth: of row (column) i, or the i-th of that half of all of them.
    ///
    /// # Safety
    /// The elements must be readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn vector(&self, i: usize, half: usize) -> __m512 {
        let at = half * self.half + i * self.stride;
        if let Some(ahead) = self.ahead {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(at).cast());
        }
        let from = self.first.wrapping_add(at);
        // SAFETY: by the contract; the mask ends with the operand.
        unsafe {
            if self.whole {
                return _mm512_loadu_ps(from);
            }
            _mm512_maskz_loadu_ps(if i < self.vectors[half] { self.lanes[half] } else { 0 }, from)
        }
    }

    /// Both halves. A pair of a panel is one element of each: any order of depths serves that A and B share.
    ///
    /// # Safety
    /// The elements must be readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pair(&self, i: usize) -> [__m512; 2] {
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
