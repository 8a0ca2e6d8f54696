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
//! `[part][32 rows][16 pairs]`, B's `[part, the last first][16 pairs][32 columns]`, as the instruction reads them; pair i
//! is of the depths i and 16 + i.

mod factors;
mod pack;
mod sums;
mod unit;
mod whole;

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::kernels::{Compute, Kernel};
use super::pack::Format;

/// Rows and columns of a tile.
const TILE: usize = 16;
/// Rows and columns of a register tile: two by two tiles of sums.
const WIDTH: usize = 2 * TILE;
/// Words of a block of a panel, for each part.
const BLOCK_WORDS: usize = WIDTH * TILE;

/// The kernel for operands that are sums of so many bf16: 1 (rounded) or 3 (exact).
pub const fn kernel<const PARTS: usize>() -> Kernel {
    assert!(PARTS == 1 || PARTS == 3);
    Kernel {
        rows: WIDTH,
        columns: WIDTH,
        format: Format::Tiles { parts: PARTS },
        pack_a: pack::pack::<PARTS, true>,
        pack_b: pack::pack::<PARTS, false>,
        compute: Compute::Own { factors: factors::factors::<PARTS>, whole: whole::whole::<PARTS> },
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
