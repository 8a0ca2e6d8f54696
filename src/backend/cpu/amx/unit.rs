//! The tile unit's instructions, as the products here use them.
//!
//! Tiles 0 to 3 are the sums of a register tile: top left, top right, bottom left, bottom right. 4 and 5 are the upper and
//! lower rows of A, 6 and 7 the left and right columns of B. The compiler has no tiles of its own: what one of these
//! functions leaves in them the next one finds.

use std::arch::asm;

use super::{BLOCK_WORDS, TILE, WIDTH};

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

/// Makes the tiles ready; all other functions here need that.
///
/// # Safety
/// The machine must have AMX.
pub unsafe fn configure() {
    // SAFETY: a valid configuration; the tiles are nobody else's.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
}

/// Gives the tiles back.
///
/// # Safety
/// The machine must have AMX.
pub unsafe fn release() {
    // SAFETY: the tiles are nobody else's.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Sums of zero.
///
/// # Safety
/// The tiles must be configured.
#[inline(always)]
unsafe fn clear_sums() {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem, preserves_flags),
        );
    }
}

/// Writes the sums, one row after another.
///
/// # Safety
/// The tiles must be configured, and `to` have room for 32 rows and columns.
#[inline(always)]
unsafe fn store_sums(to: *mut f32) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            upper = in(reg) to,
            lower = in(reg) to.wrapping_add(TILE * WIDTH),
            stride = in(reg) 4 * WIDTH,
            options(nostack, preserves_flags),
        );
    }
}

/// What runs on the other units while the tile unit multiplies, after every second product one or the other: a few dozen
/// instructions at a time, or the tile unit waits, because the processor looks no further ahead.
pub trait Meanwhile {
    /// Some of the sums of the register tile before.
    ///
    /// # Safety
    /// The machine must have AMX and AVX-512 with bf16.
    unsafe fn write_sums(&mut self);

    /// Some of anything else.
    ///
    /// # Safety
    /// As above.
    unsafe fn work(&mut self);
}

/// The sums of a register tile, so many blocks deep, written to `sums` one row after another.
///
/// # Safety
/// The tiles must be configured, the panels hold the blocks, `sums` have room, and the machine be as [`Meanwhile`] wants it.
#[inline(always)]
pub unsafe fn multiply_blocks<const PARTS: usize>(
    blocks: usize,
    mut a: *const f32,
    mut b: *const f32,
    sums: *mut f32,
    meanwhile: &mut impl Meanwhile,
) {
    // SAFETY: by the contract.
    unsafe {
        clear_sums();
        for _ in 0..blocks {
            multiply_block::<PARTS>(a, b, sums, meanwhile);
            a = a.wrapping_add(BLOCK_WORDS * PARTS);
            b = b.wrapping_add(BLOCK_WORDS * PARTS);
        }
        store_sums(sums);
    }
}

/// Adds the products of one block of depth to the sums. Of three parts the six largest products are formed, two tiles of
/// operands changed at a time.
///
/// A cache line is stored from a tile as well, to `line`: on Granite Rapids a `tilestored` that comes more than some 100
/// products after the one before costs a quarter of a microsecond (measured; why is not documented), as much as 60 products.
///
/// # Safety
/// The tiles must be configured, the panels hold the block, `line` be writable, and the machine be as [`Meanwhile`] wants it.
#[inline(always)]
unsafe fn multiply_block<const PARTS: usize>(
    a: *const f32,
    b: *const f32,
    line: *mut f32,
    meanwhile: &mut impl Meanwhile,
) {
    // Part i of A is block i, part i of B the i-th from the end.
    let a = |part: usize| a.wrapping_add(part * BLOCK_WORDS);
    let b = |part: usize| b.wrapping_add((PARTS - 1 - part) * BLOCK_WORDS);
    // SAFETY: by the contract.
    unsafe {
        load_a(a(0));
        load_b(b(PARTS - 1));
        multiply(meanwhile);
        if PARTS == 3 {
            load_b(b(1));
            multiply(meanwhile);
            load_a(a(1));
            multiply(meanwhile);
            load_b(b(0));
            multiply(meanwhile);
            load_a(a(2));
            multiply(meanwhile);
            load_a(a(0));
            multiply(meanwhile);
        }
        asm!("tilestored [{}], tmm7", in(reg) line, options(nostack, preserves_flags));
    }
}

/// How often [`multiply_block`] calls for either.
pub const fn steps_of_block(parts: usize) -> usize {
    parts * (parts + 1) / 2
}

/// Both tiles of a part of A.
///
/// # Safety
/// As [`multiply_block`].
#[inline(always)]
unsafe fn load_a(a: *const f32) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm5, [{a} + {row} + 1024]",
            a = in(reg) a,
            row = in(reg) 64usize,
            out("tmm4") _, out("tmm5") _,
            options(nostack, readonly, preserves_flags),
        );
    }
}

/// Both tiles of a part of B.
///
/// # Safety
/// As [`multiply_block`].
#[inline(always)]
unsafe fn load_b(b: *const f32) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm7, [{b} + {row} + 64]",
            b = in(reg) b,
            row = in(reg) 128usize,
            out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags),
        );
    }
}

/// Adds the products of what is loaded.
///
/// # Safety
/// The tiles must be configured.
#[inline(always)]
unsafe fn multiply(meanwhile: &mut impl Meanwhile) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            out("tmm0") _, out("tmm1") _,
            options(nostack, nomem, preserves_flags),
        );
        meanwhile.write_sums();
        asm!(
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            out("tmm2") _, out("tmm3") _,
            options(nostack, nomem, preserves_flags),
        );
        meanwhile.work();
    }
}

/// Asks for a cache line to be written. (The intrinsic becomes a plain `prefetcht0` where the compiler is not told that the
/// machine has `prefetchw`; all with AMX do.)
///
/// # Safety
/// The machine must have AMX.
#[inline(always)]
pub unsafe fn ask_for_writing(line: *const f32) {
    // SAFETY: a hint, which faults nowhere.
    unsafe { asm!("prefetchw [{}]", in(reg) line, options(nostack, readonly, preserves_flags)) };
}
