//! Products on AMX, the tile unit of Intel's server cores (Sapphire Rapids and later): tiles of bf16, sums in f32.
//!
//! The unit knows bf16 only, at 16 times the rate of fused multiply-adds in f32. So products in f32 run on it too: an f32
//! has 24 significant bits, and three bf16 of 8 bits each hold it exactly, `x = x1 + x2 + x3` with `|x2| <= 2^-8 |x1|`. Of the nine
//! products of two such sums the six with `i + j <= 4` are formed; the others are below 2^-24 of the whole, less than f32's own
//! rounding (Henry, Tang and Heinecke 2019, arXiv 1904.06376). The products themselves are exact in f32. Each instruction sums 32 of them
//! before it adds to the tile, so there are fewer roundings than in a chain of multiply-adds. What is lost: parts below
//! f32's smallest normal number count as zero, and an infinite operand gives NaN.
//!
//! A panel is a run of blocks of 32 depths; a block holds all its rows (columns) once for each part. A's are
//! `[part][32 rows][16 pairs]`, B's `[part, the last first][16 pairs][32 columns]`, as the instruction reads them.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::kernels::{Compute, Kernel, Panel, Target};
use super::pack::x86::{mask16, transpose16, words, words_of};
use super::pack::{Format, Operand, Part, TILE_DEPTH};

/// Rows and columns of a tile.
const TILE: usize = 16;
/// Rows and columns of a register tile: two by two tiles of sums.
const WIDTH: usize = 2 * TILE;
/// Words of a block of a panel, for each part.
const BLOCK_WORDS: usize = WIDTH * TILE;
/// Depth of a packed block: the sums over it are formed before C is touched.
const DEPTH: usize = 512;
/// Bytes of a panel of B that are used for all rows before the next ones: they stay in the first-level cache.
const NEAR_BYTES: usize = 24 << 10;
/// Rows of C that one task takes: with the depth of a block they stay in the second-level cache.
const ROWS: usize = 224;

/// Elements between what is packed and what is asked for, along a row and across rows.
const AHEAD_ALONG: usize = 4 * TILE_DEPTH;
const AHEAD_ACROSS: usize = 4 * TILE;

/// The kernel for operands that are sums of so many bf16: 1 (rounded) or 3 (exact).
pub const fn kernel<const PARTS: usize>() -> Kernel {
    assert!(PARTS == 1 || PARTS == 3);
    Kernel {
        rows: WIDTH,
        columns: WIDTH,
        depth: DEPTH,
        format: Format::Tiles { parts: PARTS },
        pack_a: pack::<PARTS, true>,
        pack_b: pack::<PARTS, false>,
        compute: Compute::Panels(panels::<PARTS>),
        task_rows: ROWS,
    }
}

/// Whether the processor has the unit and the system lets this process use it.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        let features = __cpuid_count(7, 0).edx;
        features & (BF16 | TILES) == BF16 | TILES && permitted()
    })
}

/// Asks the system for the state of the tiles, once for all threads of the process: they are 8 KiB more to save for each.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The memory format of `ldtilecfg` (Intel SDM 1, chapter 18.3): palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = 4 * TILE as u16;
        rows[tile] = TILE as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// # Safety
/// The machine must have AMX.
unsafe fn configure() {
    // SAFETY: a valid configuration; the tiles are nobody else's.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
}

/// # Safety
/// The machine must have AMX.
unsafe fn release() {
    // SAFETY: the tiles are nobody else's.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Sums of [`ROWS`] rows and one panel of columns.
#[repr(align(64))]
struct Sums(#[allow(dead_code, reason = "written and read through pointers")] [f32; ROWS * WIDTH]);

/// See [`super::kernels::All`].
///
/// The unit is faster than the last-level cache. So a panel of B is cut along the depth into pieces that stay in the
/// first-level cache while all rows of A pass, the next piece is asked for meanwhile, and the sums of all pieces are
/// formed in a buffer: C is touched once.
///
/// # Safety
/// See [`super::kernels::All`].
unsafe fn panels<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], steps: usize) {
    // Every tile is written before it is read; clearing the buffer would be as many stores again as a small product makes.
    let mut sums = MaybeUninit::<Sums>::uninit();
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    let block_words = BLOCK_WORDS * PARTS;
    let (blocks, near) = (steps / (TILE * PARTS), NEAR_BYTES / (4 * block_words));
    // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
    unsafe { configure() };
    for i in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - i);
        let lines_ahead = if b.far { (block_words / 16).div_ceil(rows.div_ceil(WIDTH)) } else { 0 };
        for j in (0..n).step_by(WIDTH) {
            for first in (0..blocks.max(1)).step_by(near) {
                let (count, within) = (near.min(blocks - first), first * block_words);
                let b = b.words.wrapping_add(j * b.steps + within);
                let mut ahead = b.wrapping_add(count * block_words);
                for row in (0..rows).step_by(WIDTH) {
                    let a = a.words.wrapping_add((i + row) * a.steps + within);
                    let sums = sums.wrapping_add(row * WIDTH);
                    if first == 0 && lines_ahead > 0 {
                        ask_for(c.at(i + row, j));
                    }
                    // SAFETY: these blocks of both panels are there by the contract, and a tile in the buffer.
                    unsafe { tile::<PARTS>(count, a, b, sums, first > 0, ahead, lines_ahead) };
                    ahead = ahead.wrapping_add(count * lines_ahead * 16);
                }
            }
            // SAFETY: these rows and columns of C, by the contract; AMX comes with AVX-512.
            unsafe { store(sums, c.at(i, j), rows, WIDTH.min(n - j)) };
        }
    }
    // SAFETY: as above.
    unsafe { release() };
}

/// Asks for a tile of C, to be written.
#[inline(always)]
fn ask_for(c: Target) {
    for i in 0..WIDTH {
        for half in [0, TILE] {
            // SAFETY: a hint, which faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(c.at(i, half).pointer.cast()) };
        }
    }
}

/// Writes or adds sums.
///
/// # Safety
/// `sums` must hold these rows, and `c` address these rows and columns for exclusive use.
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: *const f32, c: Target, rows: usize, columns: usize) {
    let masks = [mask16(columns), mask16(columns.saturating_sub(TILE))];
    for i in 0..rows {
        for (half, mask) in masks.into_iter().enumerate() {
            // SAFETY: by the contract; the mask ends with the columns.
            unsafe {
                let out = c.at(i, TILE * half).pointer;
                let sum = _mm512_loadu_ps(sums.add(i * WIDTH + TILE * half));
                let sum =
                    if c.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sum) } else { sum };
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
}

/// Loads both tiles of the part of A at these bytes of a block.
macro_rules! load_a {
    ($at:literal) => {
        concat!("tileloadd tmm4, [{a} + {row} + ", $at, "]\ntileloadd tmm5, [{a} + {row} + ", $at, " + 1024]")
    };
}

/// The same of B.
macro_rules! load_b {
    ($at:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {wide_row} + ",
            $at,
            "]\ntileloadd tmm7, [{b} + {wide_row} + ",
            $at,
            " + 64]"
        )
    };
}

/// Adds the products of what is loaded.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\n\
         tdpbf16ps tmm1, tmm4, tmm7\n\
         tdpbf16ps tmm2, tmm5, tmm6\n\
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// One register tile of so many blocks, written to 32 rows of 32 sums or added to them. Of what will be needed soon, from
/// `ahead` on, `lines` cache lines are asked for with each block.
///
/// # Safety
/// The panels must hold the blocks, `sums` a tile for exclusive use, and the tiles must be configured.
unsafe fn tile<const PARTS: usize>(
    blocks: usize,
    a: *const f32,
    b: *const f32,
    sums: *mut f32,
    accumulate: bool,
    ahead: *const f32,
    lines: usize,
) {
    // Tiles 0 to 3 are the sums: top left, top right, bottom left, bottom right; 4 and 5 upper and lower rows of A, 6 and
    // 7 left and right columns of B.
    macro_rules! tile_loop {
        ($($body:expr),* $(,)?) => {
            asm!(
                "test {accumulate:e}, {accumulate:e}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {wide_row}]",
                "tileloadd tmm1, [{sums} + {wide_row} + 64]",
                "tileloadd tmm2, [{sums} + {wide_row} + 2048]",
                "tileloadd tmm3, [{sums} + {wide_row} + 2112]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "test {blocks}, {blocks}",
                "jz 7f",
                "4:",
                "mov {left}, {lines}",
                "test {left}, {left}",
                "jz 6f",
                "5:",
                "prefetcht1 [{ahead}]",
                "add {ahead}, 64",
                "dec {left}",
                "jnz 5b",
                "6:",
                $($body,)*
                "add {a}, {block_bytes}",
                "add {b}, {block_bytes}",
                "dec {blocks}",
                "jnz 4b",
                "7:",
                "tilestored [{sums} + {wide_row}], tmm0",
                "tilestored [{sums} + {wide_row} + 64], tmm1",
                "tilestored [{sums} + {wide_row} + 2048], tmm2",
                "tilestored [{sums} + {wide_row} + 2112], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                blocks = inout(reg) blocks => _,
                ahead = inout(reg) ahead => _,
                left = out(reg) _,
                lines = in(reg) lines,
                sums = in(reg) sums,
                accumulate = in(reg) u32::from(accumulate),
                // Bytes from one row of A to the next, and of B and the sums.
                row = in(reg) 64usize,
                wide_row = in(reg) 128usize,
                block_bytes = const 4 * BLOCK_WORDS * PARTS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: by the contract: the blocks are read, the sums read and written; what is asked for may lie anywhere.
    unsafe {
        if PARTS == 1 {
            tile_loop!(load_a!("0"), load_b!("0"), multiply!());
        } else {
            // The six largest products, two tiles changed at a time.
            tile_loop!(
                load_a!("0"),
                load_b!("0"),
                multiply!(),
                load_b!("2048"),
                multiply!(),
                load_a!("2048"),
                multiply!(),
                load_b!("4096"),
                multiply!(),
                load_a!("4096"),
                multiply!(),
                load_a!("0"),
                multiply!(),
            );
        }
    }
}

/// [`Format::Tiles`], of A (`LEFT`) or of B.
///
/// # Safety
/// See [`super::pack::Pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack<const PARTS: usize, const LEFT: bool>(
    operand: Operand<'_>,
    part: Part,
    width: usize,
    out: *mut f32,
) {
    let source = operand.start(part);
    let Part { count, depth, .. } = part;
    let panel_words = width * Format::Tiles { parts: PARTS }.steps(depth);
    let (outer_tiles, blocks) = (count.next_multiple_of(width) / TILE, depth.div_ceil(TILE_DEPTH));
    // Neighbouring rows (columns) lie side by side: a vector has one pair of depths of each of them.
    let across = operand.outer_stride == 1;
    let mut tiles = [[_mm512_setzero_si512(); TILE]; PARTS];
    for index in 0..outer_tiles * blocks {
        // Along memory.
        let (outer, block) = if across {
            (index % outer_tiles, index / outer_tiles)
        } else {
            (index / blocks, index % blocks)
        };
        let (first, start) = (outer * TILE, block * TILE_DEPTH);
        let present = count.saturating_sub(first).min(TILE);
        let from = source.wrapping_add(first * operand.outer_stride + start * operand.depth_stride);
        let left = (depth - start).min(TILE_DEPTH);
        // SAFETY: `start` has checked the part, of which `present` x `left` elements lie here.
        unsafe {
            if across {
                pairs_across(from, operand.depth_stride, present, left, &mut tiles);
            } else {
                pairs_along(from, operand.outer_stride, present, left, &mut tiles);
            }
        }
        let in_panel = first % width;
        let (at, stride) = if LEFT { (in_panel * TILE, TILE) } else { (in_panel, width) };
        let to = out.wrapping_add(first / width * panel_words + block * BLOCK_WORDS * PARTS + at);
        for (index, tile) in tiles.iter().enumerate() {
            // The order in which the kernel reads them.
            let index = if LEFT { index } else { PARTS - 1 - index };
            // A's vectors run along the depth, B's across its columns.
            let tile = if across == LEFT { transpose16(*tile) } else { *tile };
            for (i, vector) in tile.into_iter().enumerate() {
                // SAFETY: the panel by the contract.
                unsafe { _mm512_storeu_epi32(to.add(index * BLOCK_WORDS + i * stride).cast(), vector) };
            }
        }
    }
}

/// Vector i: the parts of row i, `left` elements, in pairs. Zeros beyond `present` rows.
///
/// # Safety
/// The elements must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_along<const PARTS: usize>(
    from: *const f32,
    stride: usize,
    present: usize,
    left: usize,
    tiles: &mut [[__m512i; TILE]; PARTS],
) {
    let (low_mask, high_mask) = (mask16(left), mask16(left.saturating_sub(TILE)));
    for i in 0..TILE {
        let row = from.wrapping_add(i * stride);
        let (low_mask, high_mask) = if i < present { (low_mask, high_mask) } else { (0, 0) };
        for line in [0, TILE] {
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD_ALONG + line).cast());
        }
        // SAFETY: by the contract; the masks end with the row, and the rows.
        let (mut low, mut high) = unsafe {
            (_mm512_maskz_loadu_ps(low_mask, row), _mm512_maskz_loadu_ps(high_mask, row.wrapping_add(TILE)))
        };
        for tile in &mut *tiles {
            let both = words(_mm512_cvtne2ps_pbh(high, low));
            tile[i] = both;
            low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(both)));
            high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64::<1>(both)));
        }
    }
}

/// Vector i: the parts of depths 2i and 2i + 1 of `present` rows that lie side by side. Zeros beyond `left` depths.
///
/// # Safety
/// The elements must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_across<const PARTS: usize>(
    from: *const f32,
    stride: usize,
    present: usize,
    left: usize,
    tiles: &mut [[__m512i; TILE]; PARTS],
) {
    let mask = mask16(present);
    for i in 0..TILE {
        let row = from.wrapping_add(2 * i * stride);
        let (present, above) = (if 2 * i < left { mask } else { 0 }, if 2 * i + 1 < left { mask } else { 0 });
        for line in [0, stride] {
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD_ACROSS + line).cast());
        }
        // SAFETY: by the contract; the masks end with the rows, and the depth.
        let (mut low, mut high) = unsafe {
            (_mm512_maskz_loadu_ps(present, row), _mm512_maskz_loadu_ps(above, row.wrapping_add(stride)))
        };
        for tile in &mut *tiles {
            let (lower, upper) = (words_of(low), _mm512_slli_epi32::<16>(words_of(high)));
            tile[i] = _mm512_or_si512(lower, upper);
            low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(lower)));
            high = _mm512_sub_ps(high, _mm512_castsi512_ps(upper));
        }
    }
}

/// bf16 as f32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened(values: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values)))
}
