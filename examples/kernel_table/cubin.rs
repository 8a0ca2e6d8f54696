//! What a cubin says of its kernels: the resources they take and the instructions they hold.
//!
//! A cubin is an ELF file. NVIDIA documents neither its attributes nor its instruction encoding; the numbers below are
//! those that `nvdisasm` prints for the same bytes, compared on this project's kernels and on Triton's (docs/kernels.md).

use anyhow::{Context, bail};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, elf};

/// Attributes of `.nv.info`.
const REGISTER_COUNT: u8 = 0x2f;
const FRAME_SIZE: u8 = 0x11;
const LEAST_STACK: u8 = 0x12;
/// Attributes of `.nv.info.KERNEL`: threads of a block, at most (`__launch_bounds__`) or exactly (`.reqntid`).
const MOST_THREADS: u8 = 0x05;
const EXACT_THREADS: u8 = 0x10;
/// An attribute's format whose value lies behind it.
const SIZED: u8 = 0x04;
/// On compute capability 9.0 the sizes include what the system reserves in every block that has shared memory; a section of
/// this name is in such a cubin.
const RESERVED: (&str, u64) = (".nv.shared.reserved.0", 1024);
/// `st_other` of a kernel's symbol, as opposed to a function that kernels call.
const ENTRY: u8 = 0x10;

/// One kernel of a cubin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The entry point.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u64,
    /// Bytes of local memory of a thread: spilled registers and arrays that are indexed at run time.
    pub local: u32,
    /// Threads of a block at most, where the kernel promises it.
    pub threads: Option<u32>,
    /// What the instructions are.
    pub instructions: Instructions,
}

/// Instructions by kind, counted as they stand in the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instructions {
    /// Loads from global memory, asynchronous copies to shared memory included.
    pub global_loads: usize,
    /// Those of 16 bytes per thread.
    pub wide_loads: usize,
    /// Stores to global memory.
    pub global_stores: usize,
    /// Those of 16 bytes per thread.
    pub wide_stores: usize,
    /// Loads from and stores to local memory.
    pub local: usize,
    /// `mma.sync` and `wgmma` on floating-point numbers.
    pub tensor: usize,
    /// `ldmatrix`.
    pub matrix_loads: usize,
    /// Barriers of the block.
    pub barriers: usize,
}

/// The kernels of a cubin, in the order of its symbols.
pub fn kernels(cubin: &[u8]) -> anyhow::Result<Vec<Kernel>> {
    let header = elf::FileHeader64::<Endianness>::parse(cubin).context("no ELF file")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, cubin)?;
    let find = |name: &str| sections.section_by_name(endian, name.as_bytes());
    let symbols = sections.symbols(endian, cubin, elf::SHT_SYMTAB)?;
    let (_, info) = find(".nv.info").context("no .nv.info")?;
    let info = attributes(info.data(endian, cubin)?)?;
    let of_kernel = |attribute: u8, symbol: usize| {
        let mut values = info.iter().filter(|(kind, _)| *kind == attribute);
        values.find_map(|(_, value)| (word(value, 0)? as usize == symbol).then(|| word(value, 1))?)
    };
    let reserved = if find(RESERVED.0).is_some() { RESERVED.1 } else { 0 };
    let mut all = Vec::new();
    for (index, symbol) in symbols.iter().enumerate() {
        if symbol.st_type() != elf::STT_FUNC || symbol.st_other().0 & ENTRY == 0 {
            continue;
        }
        let name = std::str::from_utf8(symbol.name(endian, symbols.strings())?)?.to_owned();
        let (_, text) = find(&format!(".text.{name}")).with_context(|| format!("no code of {name}"))?;
        let shared = find(&format!(".nv.shared.{name}"));
        let own = match find(&format!(".nv.info.{name}")) {
            Some((_, section)) => attributes(section.data(endian, cubin)?)?,
            None => Vec::new(),
        };
        let threads = own.iter().find(|(kind, _)| [MOST_THREADS, EXACT_THREADS].contains(kind));
        let product = |value: &[u8]| Some(word(value, 0)? * word(value, 1)? * word(value, 2)?);
        let stack = [FRAME_SIZE, LEAST_STACK].map(|kind| of_kernel(kind, index).unwrap_or(0));
        all.push(Kernel {
            registers: of_kernel(REGISTER_COUNT, index).with_context(|| format!("no registers of {name}"))?,
            shared: shared.map_or(0, |(_, section)| section.sh_size(endian).saturating_sub(reserved)),
            local: stack[0].max(stack[1]),
            threads: threads.and_then(|(_, value)| product(value)),
            instructions: Instructions::of(text.data(endian, cubin)?),
            name,
        });
    }
    Ok(all)
}

/// (attribute, value) pairs: one byte of format, one of the attribute, two of the value or of its length.
fn attributes(mut bytes: &[u8]) -> anyhow::Result<Vec<(u8, &[u8])>> {
    let mut all = Vec::new();
    while let [format, attribute, low, high, rest @ ..] = bytes {
        let length = if *format == SIZED { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        let Some((value, rest)) = rest.split_at_checked(length) else {
            bail!("attribute {attribute:#x} ends beyond its section")
        };
        all.push((*attribute, value));
        bytes = rest;
    }
    Ok(all)
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let word = bytes.get(4 * index..4 * index + 4)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

// The operation is the lowest 9 bits of an instruction; the next 3 say what kind its operands are.
const LD: u16 = 0x180;
const LDG: u16 = 0x181;
const LDL: u16 = 0x183;
const ST: u16 = 0x185;
const STG: u16 = 0x186;
const STL: u16 = 0x187;
const LDGSTS: u16 = 0x1ae;
const LDSM: u16 = 0x03b;
const HMMA: u16 = 0x03c;
const HGMMA: u16 = 0x1f0;
const BAR: u16 = 0x11d;
/// Bits 73 to 75 of a load or store of 16 bytes.
const WIDE: u64 = 6;

impl Instructions {
    /// Of code for compute capability 7.0 to 9.0: instructions of 16 bytes.
    fn of(code: &[u8]) -> Self {
        let mut counts = Self::default();
        for instruction in code.chunks_exact(16) {
            let half =
                |at: usize| instruction[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            let wide = usize::from(half(8) >> 9 & 7 == WIDE);
            match (half(0) & 0x1ff) as u16 {
                LD | LDG | LDGSTS => {
                    counts.global_loads += 1;
                    counts.wide_loads += wide;
                }
                ST | STG => {
                    counts.global_stores += 1;
                    counts.wide_stores += wide;
                }
                LDL | STL => counts.local += 1,
                HMMA | HGMMA => counts.tensor += 1,
                LDSM => counts.matrix_loads += 1,
                BAR => counts.barriers += 1,
                _ => {}
            }
        }
        counts
    }
}
