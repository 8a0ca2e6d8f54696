//! The registers of one warp, and the loops that apply a scalar function to its 32 lanes.
//!
//! A virtual register is a row of 32 values. Rows of 32-bit values also hold the narrower types (reads truncate by type),
//! predicates are one bit per lane. All lanes are computed and the active ones are kept, which is what lets the compiler
//! vectorise the loops; so the scalar functions must be total: no division by zero, no overflow that panics.

use half::{bf16, f16};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// The rows of special registers, in the order of [`Registers::special`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    WarpId,
    NWarpId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    ClusterIdX,
    ClusterIdY,
    ClusterIdZ,
    NClusterIdX,
    NClusterIdY,
    NClusterIdZ,
    ClusterCtaidX,
    ClusterCtaidY,
    ClusterCtaidZ,
    ClusterNctaidX,
    ClusterNctaidY,
    ClusterNctaidZ,
    ClusterCtaRank,
    ClusterNctaRank,
    SmId,
    NSmId,
    GridId,
    DynamicSharedBytes,
    TotalSharedBytes,
    Zero,
}

/// How many special registers there are.
pub(crate) const SPECIALS: usize = Special::Zero as usize + 1;

/// Where an instruction reads from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Narrow(u32),
    Wide(u32),
    Immediate(u64),
    Special(Special),
    /// An offset from the frame's local memory.
    Frame(u32),
}

/// Where an instruction writes to. A 128-bit register is two wide rows, low half first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Narrow(u32),
    Wide(u32),
    Nowhere,
}

/// The register file of one warp, with the window of the current frame.
#[derive(Debug)]
pub(crate) struct Registers {
    pub narrow: Vec<[u32; LANES]>,
    pub wide: Vec<[u64; LANES]>,
    pub predicates: Vec<u32>,
    /// First rows of the current frame.
    pub narrow_base: usize,
    pub wide_base: usize,
    pub predicate_base: usize,
    /// First byte of the current frame's local memory.
    pub local_base: u32,
    /// The condition-code register: the carry of each lane.
    pub carry: u32,
    /// Advances with every read, so that time never stands still.
    pub clock: u64,
    pub special: Box<[[u32; LANES]; SPECIALS]>,
}

/// A scalar type that lives in a register.
pub(crate) trait Lane: Copy + Default + Send + Sync + 'static {
    /// From the low bits of a register.
    fn from_bits(bits: u64) -> Self;
    /// Extended to 64 bits by the type's sign.
    fn bits(self) -> u64;
}

macro_rules! integer_lane {
    ($($ty:ty => $wide:ty),*) => {$(
        impl Lane for $ty {
            #[inline(always)]
            fn from_bits(bits: u64) -> Self { bits as $ty }
            #[inline(always)]
            fn bits(self) -> u64 { self as $wide as u64 }
        }
    )*};
}
integer_lane!(u8 => u64, u16 => u64, u32 => u64, u64 => u64, i8 => i64, i16 => i64, i32 => i64, i64 => i64);

macro_rules! float_lane {
    ($($ty:ty => $bits:ty),*) => {$(
        impl Lane for $ty {
            #[inline(always)]
            fn from_bits(bits: u64) -> Self { <$ty>::from_bits(bits as $bits) }
            #[inline(always)]
            fn bits(self) -> u64 { u64::from(self.to_bits()) }
        }
    )*};
}
float_lane!(f32 => u32, f64 => u64, f16 => u16, bf16 => u16);

/// Two values of a 16-bit type in one 32-bit register, low half first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Packed<T>(pub T, pub T);

impl<T: Lane> Lane for Packed<T> {
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Packed(T::from_bits(bits & 0xffff), T::from_bits(bits >> 16 & 0xffff))
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        (self.0.bits() & 0xffff) | (self.1.bits() & 0xffff) << 16
    }
}

impl Registers {
    pub fn new(narrow: usize, wide: usize, predicates: usize) -> Registers {
        Registers {
            narrow: vec![[0; LANES]; narrow],
            wide: vec![[0; LANES]; wide],
            predicates: vec![0; predicates],
            narrow_base: 0,
            wide_base: 0,
            predicate_base: 0,
            local_base: 0,
            carry: 0,
            clock: 0,
            special: Box::new([[0; LANES]; SPECIALS]),
        }
    }

    /// A whole row.
    #[inline(always)]
    pub fn read<T: Lane>(&self, source: Source) -> [T; LANES] {
        match source {
            Source::Narrow(index) => {
                let row = &self.narrow[self.narrow_base + index as usize];
                std::array::from_fn(|lane| T::from_bits(u64::from(row[lane])))
            }
            Source::Wide(index) => {
                let row = &self.wide[self.wide_base + index as usize];
                std::array::from_fn(|lane| T::from_bits(row[lane]))
            }
            Source::Immediate(bits) => [T::from_bits(bits); LANES],
            Source::Special(special) => {
                let row = &self.special[special as usize];
                std::array::from_fn(|lane| T::from_bits(u64::from(row[lane])))
            }
            Source::Frame(offset) => [T::from_bits(u64::from(self.local_base + offset)); LANES],
        }
    }

    /// One lane's value.
    pub fn read_lane<T: Lane>(&self, source: Source, lane: usize) -> T {
        T::from_bits(match source {
            Source::Narrow(index) => u64::from(self.narrow[self.narrow_base + index as usize][lane]),
            Source::Wide(index) => self.wide[self.wide_base + index as usize][lane],
            Source::Immediate(bits) => bits,
            Source::Special(special) => u64::from(self.special[special as usize][lane]),
            Source::Frame(offset) => u64::from(self.local_base + offset),
        })
    }

    /// Writes the active lanes of a row.
    #[inline(always)]
    pub fn write<T: Lane>(&mut self, target: Target, values: &[T; LANES], mask: u32) {
        match target {
            Target::Narrow(index) => {
                let row = &mut self.narrow[self.narrow_base + index as usize];
                for lane in 0..LANES {
                    row[lane] = if mask >> lane & 1 != 0 { values[lane].bits() as u32 } else { row[lane] };
                }
            }
            Target::Wide(index) => {
                let row = &mut self.wide[self.wide_base + index as usize];
                for lane in 0..LANES {
                    row[lane] = if mask >> lane & 1 != 0 { values[lane].bits() } else { row[lane] };
                }
            }
            Target::Nowhere => {}
        }
    }

    /// Writes one lane.
    #[inline(always)]
    pub fn write_lane<T: Lane>(&mut self, target: Target, lane: usize, value: T) {
        match target {
            Target::Narrow(index) => {
                self.narrow[self.narrow_base + index as usize][lane] = value.bits() as u32
            }
            Target::Wide(index) => self.wide[self.wide_base + index as usize][lane] = value.bits(),
            Target::Nowhere => {}
        }
    }

    /// The lanes in which a predicate holds.
    #[inline(always)]
    pub fn predicate(&self, index: u32) -> u32 {
        self.predicates[self.predicate_base + index as usize]
    }

    /// Sets a predicate in the active lanes.
    #[inline(always)]
    pub fn set_predicate(&mut self, index: u32, value: u32, mask: u32) {
        let predicate = &mut self.predicates[self.predicate_base + index as usize];
        *predicate = (*predicate & !mask) | (value & mask);
    }
}

/// What a decoded arithmetic instruction does to the registers, for the lanes in the mask.
pub(crate) type Action = Box<dyn Fn(&mut Registers, u32) + Send + Sync>;

/// Whether the host has AVX2 and FMA. With them the same loops are compiled a second time: twice the lanes per step, and
/// `mul_add` is one instruction instead of a call.
fn has_wide_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    let wide = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let wide = false;
    wide
}

/// Runs `body` compiled for AVX2 and FMA; everything in it is inlined into this function.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn with_wide_vectors(body: impl FnOnce()) {
    body();
}

/// An action out of a loop over the lanes, in the best form for the host.
#[inline(always)]
fn action(body: impl Fn(&mut Registers, u32) + Copy + Send + Sync + 'static) -> Action {
    if has_wide_vectors() {
        Box::new(move |registers, mask| {
            #[allow(unused_unsafe)]
            // SAFETY: the host has the features; they were asked for when this action was made.
            unsafe {
                with_wide_vectors(
                    #[inline(always)]
                    || body(registers, mask),
                );
            }
        })
    } else {
        Box::new(body)
    }
}

/// `d = f(a)` in every active lane.
pub(crate) fn unary<A: Lane, D: Lane>(
    target: Target,
    a: Source,
    f: impl Fn(A) -> D + Copy + Send + Sync + 'static,
) -> Action {
    action(
        #[inline(always)]
        move |registers, mask| {
            let a = registers.read::<A>(a);
            let mut result = [D::default(); LANES];
            for lane in 0..LANES {
                result[lane] = f(a[lane]);
            }
            registers.write(target, &result, mask);
        },
    )
}

/// `d = f(a, b)` in every active lane.
pub(crate) fn binary<A: Lane, B: Lane, D: Lane>(
    target: Target,
    [a, b]: [Source; 2],
    f: impl Fn(A, B) -> D + Copy + Send + Sync + 'static,
) -> Action {
    action(
        #[inline(always)]
        move |registers, mask| {
            let (a, b) = (registers.read::<A>(a), registers.read::<B>(b));
            let mut result = [D::default(); LANES];
            for lane in 0..LANES {
                result[lane] = f(a[lane], b[lane]);
            }
            registers.write(target, &result, mask);
        },
    )
}

/// `d = f(a, b, c)` in every active lane.
pub(crate) fn ternary<A: Lane, B: Lane, C: Lane, D: Lane>(
    target: Target,
    [a, b, c]: [Source; 3],
    f: impl Fn(A, B, C) -> D + Copy + Send + Sync + 'static,
) -> Action {
    action(
        #[inline(always)]
        move |registers, mask| {
            let (a, b, c) = (registers.read::<A>(a), registers.read::<B>(b), registers.read::<C>(c));
            let mut result = [D::default(); LANES];
            for lane in 0..LANES {
                result[lane] = f(a[lane], b[lane], c[lane]);
            }
            registers.write(target, &result, mask);
        },
    )
}

/// A predicate or its complement, or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Predicate { index: u32, negated: bool },
    Constant(bool),
}

impl Condition {
    #[inline(always)]
    pub fn lanes(self, registers: &Registers) -> u32 {
        match self {
            Condition::Predicate { index, negated } => {
                let lanes = registers.predicate(index);
                if negated { !lanes } else { lanes }
            }
            Condition::Constant(value) => u32::from(value).wrapping_neg(),
        }
    }
}

/// One bit per lane of a test on two rows.
#[inline(always)]
pub(crate) fn test_lanes<A: Lane>(a: &[A; LANES], b: &[A; LANES], f: impl Fn(A, A) -> bool) -> u32 {
    let mut lanes = 0;
    for lane in 0..LANES {
        lanes |= u32::from(f(a[lane], b[lane])) << lane;
    }
    lanes
}
