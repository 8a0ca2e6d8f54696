//! Multiplying panels: register tiles of two by two tiles of sums.
//!
//! Boundary: nothing here knows how panels were made (`pack.rs`), nor how a product is cut into tasks (`product.rs`).

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::kernels::{Panel, Target};
use super::super::pack::x86::mask16;
use super::{BLOCK_WORDS, MOST_ROWS, TILE, WIDTH, blocking};

/// Bytes of C from which on a task writes past the caches.
const STREAMED_BYTES: usize = 3 << 19;

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

/// Sums of all rows of a task and one panel of columns.
#[repr(align(64))]
struct Sums(#[allow(dead_code, reason = "written and read through pointers")] [f32; MOST_ROWS * WIDTH]);

/// Sums of a panel of columns that have not been written to C yet.
#[derive(Clone, Copy)]
struct Pending {
    sums: *const f32,
    c: Target,
    rows: usize,
    columns: usize,
    /// Past the caches, where C will not be found in them anyway: no line is read to be overwritten.
    streamed: bool,
}

impl Pending {
    /// The register tile that begins at this row, if there is one.
    fn tile(self, row: usize) -> Self {
        Self {
            sums: self.sums.wrapping_add(row * WIDTH),
            c: self.c.at(row, 0),
            rows: self.rows.saturating_sub(row).min(WIDTH),
            ..self
        }
    }
}

/// See [`All`](super::super::kernels::All).
///
/// # Safety
/// See [`All`](super::super::kernels::All).
#[target_feature(enable = "avx512f")]
pub unsafe fn panels<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], steps: usize) {
    let blocks = steps / (TILE * PARTS);
    // SAFETY: the machine has AMX by the contract, and the tiles are nobody else's until they are released.
    unsafe { configure() };
    // SAFETY: by the contract; the tiles are configured.
    unsafe {
        if b.far {
            far::<PARTS>(a, b, c, [m, n], blocks);
        } else {
            near::<PARTS>(a, b, c, [m, n], blocks);
        }
        release();
    }
}

/// Factors and result are in the caches: C's tiles are loaded and stored as they are.
///
/// # Safety
/// See [`All`](super::super::kernels::All); the tiles must be configured.
#[target_feature(enable = "avx512f")]
unsafe fn near<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], blocks: usize) {
    let mut edge = Edge([0.0; WIDTH * WIDTH]);
    let edge = Target { pointer: edge.0.as_mut_ptr(), stride: WIDTH, accumulate: c.accumulate };
    for j in (0..n).step_by(WIDTH) {
        for i in (0..m).step_by(WIDTH) {
            let (a, b) = (a.words.wrapping_add(i * a.steps), b.words.wrapping_add(j * b.steps));
            let (rows, columns, c) = (WIDTH.min(m - i), WIDTH.min(n - j), c.at(i, j));
            // SAFETY: these blocks of both panels are there by the contract, as are these rows and columns of C.
            unsafe {
                if rows == WIDTH && columns == WIDTH {
                    near_tile::<PARTS>(blocks, a, b, c);
                    continue;
                }
                // The same additions as in a whole tile, so that a row does not depend on its neighbours.
                if c.accumulate {
                    copy(c, edge, rows, columns);
                }
                near_tile::<PARTS>(blocks, a, b, edge);
                copy(edge, c, rows, columns);
            }
        }
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

/// B, and perhaps C, come from beyond the second-level cache, and the unit is faster than that. So what comes from there
/// and what goes there passes while it multiplies: the next panel of B is asked for, and the sums of the panel before,
/// which wait in a buffer, are written to C. (Tiles are not stored to C itself: its rows often lie a multiple of 4 KiB
/// apart, and 32 of them fall into one set of the first-level cache.)
///
/// # Safety
/// See [`All`](super::super::kernels::All); the tiles must be configured.
#[target_feature(enable = "avx512f")]
unsafe fn far<const PARTS: usize>(a: Panel, b: Panel, c: Target, [m, n]: [usize; 2], blocks: usize) {
    // Every tile is written before it is read; clearing the buffers would be as many stores again as a small product makes.
    let mut sums = [MaybeUninit::<Sums>::uninit(), MaybeUninit::uninit()];
    let sums: [*mut f32; 2] = sums.each_mut().map(|sums| sums.as_mut_ptr().cast());
    let (_, task_rows) = blocking(PARTS);
    let panel_words = WIDTH * b.steps;
    for i in (0..m).step_by(task_rows) {
        let rows = task_rows.min(m - i);
        let mut pending = Pending { sums: sums[1], c, rows: 0, columns: 0, streamed: false };
        let streams = !c.accumulate
            && 4 * rows * n > STREAMED_BYTES
            && c.pointer.addr().is_multiple_of(64)
            && c.stride.is_multiple_of(TILE);
        for (panel, j) in (0..n).step_by(WIDTH).enumerate() {
            let b = b.words.wrapping_add(panel * panel_words);
            let sums = sums[panel % 2];
            let mut ahead = b.wrapping_add(if j + WIDTH < n { panel_words } else { 0 });
            for row in (0..rows).step_by(WIDTH) {
                let a = a.words.wrapping_add((i + row) * a.steps);
                // SAFETY: these blocks of both panels are there by the contract, and a tile in the buffer; what is pending
                // lies in the other one, and in C by the contract.
                unsafe {
                    far_tile::<PARTS>(blocks, a, b, sums.wrapping_add(row * WIDTH), ahead, pending.tile(row))
                };
                ahead = ahead.wrapping_add(blocks * PREFETCHED_WORDS * products(PARTS));
            }
            let columns = WIDTH.min(n - j);
            pending = Pending { sums, c: c.at(i, j), rows, columns, streamed: streams && columns == WIDTH };
        }
        // SAFETY: these rows and columns of C, by the contract.
        unsafe { store(pending) };
    }
    // What was streamed is there for whoever is told that this is done.
    _mm_sfence();
}

/// Products of parts that are formed.
const fn products(parts: usize) -> usize {
    parts * (parts + 1) / 2
}

/// Writes or adds sums.
///
/// # Safety
/// The sums must be there, and C must address these rows and columns for exclusive use.
#[target_feature(enable = "avx512f")]
unsafe fn store(Pending { sums, c, rows, columns, .. }: Pending) {
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
            "tileloadd tmm6, [{b} + 2*{row} + ",
            $at,
            "]\ntileloadd tmm7, [{b} + 2*{row} + ",
            $at,
            " + 64]"
        )
    };
}

/// Words of B that are asked for with each product of four tiles: two cache lines.
const PREFETCHED_WORDS: usize = 32;

/// Adds the products of what is loaded.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\n\
         tdpbf16ps tmm1, tmm4, tmm7\n\
         tdpbf16ps tmm2, tmm5, tmm6\n\
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// The same, and asks for two cache lines.
macro_rules! multiply_ahead {
    () => {
        "prefetcht1 [{ahead}]\n\
         tdpbf16ps tmm0, tmm4, tmm6\n\
         tdpbf16ps tmm1, tmm4, tmm7\n\
         prefetcht1 [{ahead} + 64]\n\
         tdpbf16ps tmm2, tmm5, tmm6\n\
         tdpbf16ps tmm3, tmm5, tmm7\n\
         add {ahead}, 128"
    };
}

/// A loop over blocks of so many parts. Of three, the six largest products are formed, two tiles changed at a time.
macro_rules! blocks_of {
    ($parts:expr, $tile_loop:ident, $multiply:ident) => {
        if $parts == 1 {
            $tile_loop!(load_a!("0"), load_b!("0"), $multiply!())
        } else {
            $tile_loop!(
                load_a!("0"),
                load_b!("0"),
                $multiply!(),
                load_b!("2048"),
                $multiply!(),
                load_a!("2048"),
                $multiply!(),
                load_b!("4096"),
                $multiply!(),
                load_a!("4096"),
                $multiply!(),
                load_a!("0"),
                $multiply!(),
            )
        }
    };
}

/// One register tile of so many blocks, written to 32 rows of 32 sums. With each product cache lines are asked for from
/// `ahead` on; with each block some rows of what is pending are written, all by the end.
///
/// With each block a cache line of whatever is stored from a tile as well: on Granite Rapids a `tilestored` that comes more
/// than some 100 products after the one before costs a quarter of a microsecond (measured; why is not documented), as
/// much as 60 products.
///
/// # Safety
/// The panels must hold the blocks, `sums` a tile for exclusive use, the tiles must be configured, and what is pending as
/// for [`store`].
#[target_feature(enable = "avx512f")]
unsafe fn far_tile<const PARTS: usize>(
    blocks: usize,
    a: *const f32,
    b: *const f32,
    sums: *mut f32,
    ahead: *const f32,
    pending: Pending,
) {
    let masks = [mask16(pending.columns), mask16(pending.columns.saturating_sub(TILE))];
    // Tiles 0 to 3 are the sums: top left, top right, bottom left, bottom right; 4 and 5 upper and lower rows of A, 6 and
    // 7 left and right columns of B.
    macro_rules! tile_loop {
        ($($body:expr),* $(,)?) => {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {blocks}, {blocks}",
                "jz 8f",
                "2:",
                $($body,)*
                "tilestored [{sums}], tmm7",
                "mov {left}, {rows_each}",
                "3:",
                "test {rows}, {rows}",
                "jz 7f",
                "vmovups {low}, [{done}]",
                "vmovups {high}, [{done} + 64]",
                "kortestw {streamed}, {streamed}",
                "jz 4f",
                "vmovntps [{c}], {low}",
                "vmovntps [{c} + 64], {high}",
                "jmp 6f",
                "4:",
                // A load whose mask is empty would wait for its cache line all the same.
                "kortestw {added}, {added}",
                "jz 5f",
                // The next panel's columns.
                "prefetchw [{c} + 128]",
                "prefetchw [{c} + 192]",


                "vaddps {low} {{{mask_low}}}, {low}, [{c}]",
                "vaddps {high} {{{mask_high}}}, {high}, [{c} + 64]",
                "5:",
                "vmovups [{c}] {{{mask_low}}}, {low}",
                "vmovups [{c} + 64] {{{mask_high}}}, {high}",
                "6:",
                "add {done}, 128",
                "add {c}, {stride}",
                "dec {rows}",
                "dec {left}",
                "jnz 3b",
                "7:",
                "add {a}, {block_bytes}",
                "add {b}, {block_bytes}",
                "dec {blocks}",
                "jnz 2b",
                "8:",
                "tilestored [{sums} + 2*{row}], tmm0",
                "tilestored [{sums} + 2*{row} + 64], tmm1",
                "tilestored [{sums} + 2*{row} + 2048], tmm2",
                "tilestored [{sums} + 2*{row} + 2112], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                blocks = inout(reg) blocks => _,
                ahead = inout(reg) ahead => _,
                sums = in(reg) sums,
                // Bytes from one row of A to the next; of B and the sums twice as many.
                row = in(reg) 64usize,
                done = inout(reg) pending.sums => _,
                c = inout(reg) pending.c.pointer => _,
                stride = in(reg) 4 * pending.c.stride,
                rows = inout(reg) pending.rows => _,
                rows_each = in(reg) WIDTH.div_ceil(blocks.max(1)),
                left = out(reg) _,
                low = out(zmm_reg) _,
                high = out(zmm_reg) _,
                mask_low = in(kreg) masks[0],
                mask_high = in(kreg) masks[1],
                added = in(kreg) u16::from(pending.c.accumulate),
                streamed = in(kreg) u16::from(pending.streamed),
                block_bytes = const 4 * BLOCK_WORDS * PARTS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: by the contract: the blocks are read, the sums written, what is pending written to C; what is asked for may
    // lie anywhere.
    unsafe { blocks_of!(PARTS, tile_loop, multiply_ahead) }
}

/// One register tile of so many blocks, written to C or added to it. With each block one of C's cache lines is stored as in
/// [`far_tile`]: what was in it is in the tiles by then, and it is written once more at the end.
///
/// # Safety
/// The panels must hold the blocks, C address 32 rows and columns for exclusive use, and the tiles be configured.
unsafe fn near_tile<const PARTS: usize>(blocks: usize, a: *const f32, b: *const f32, c: Target) {
    // The tiles as in `far_tile`.
    macro_rules! tile_loop {
        ($($body:expr),* $(,)?) => {
            asm!(
                "test {accumulate:e}, {accumulate:e}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {stride}]",
                "tileloadd tmm1, [{c} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "test {blocks}, {blocks}",
                "jz 5f",
                "4:",
                $($body,)*
                "tilestored [{c}], tmm7",
                "add {a}, {block_bytes}",
                "add {b}, {block_bytes}",
                "dec {blocks}",
                "jnz 4b",
                "5:",
                "tilestored [{c} + {stride}], tmm0",
                "tilestored [{c} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                blocks = inout(reg) blocks => _,
                c = in(reg) c.pointer,
                lower = in(reg) c.at(TILE, 0).pointer,
                stride = in(reg) 4 * c.stride,
                accumulate = in(reg) u32::from(c.accumulate),
                row = in(reg) 64usize,
                block_bytes = const 4 * BLOCK_WORDS * PARTS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: by the contract: the blocks are read, C is read and written.
    unsafe { blocks_of!(PARTS, tile_loop, multiply) }
}
