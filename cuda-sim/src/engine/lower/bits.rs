//! Bit counting and bit fields, byte permutation, arbitrary logic of three inputs, packed dot products.

use super::integer::alu;
use super::{Decoded, Decoder};
use crate::engine::ast::Operand;
use crate::engine::registers::{LANES, Source, binary, ternary, unary};
use crate::engine::types::Type;

impl Decoder<'_, '_> {
    pub(super) fn count_bits(&mut self) -> Decoded {
        self.expect_operands(2..=2)?;
        let mnemonic = self.instruction.mnemonic;
        let shift_amount = self.modifiers.take("shiftamt");
        let ty = self.one_type()?;
        let result = if mnemonic == "brev" { ty } else { Type::U32 };
        let (target, source) = (self.target(0, result)?, self.source(1, ty)?);
        fn find(value: u64, top: u32, shift_amount: bool) -> u32 {
            if value == 0 {
                return u32::MAX;
            }
            let position = 63 - value.leading_zeros();
            if shift_amount { top - position } else { position }
        }
        alu(match (mnemonic, ty) {
            ("popc", Type::B32) => unary(target, source, u32::count_ones),
            ("popc", Type::B64) => unary(target, source, u64::count_ones),
            ("clz", Type::B32) => unary(target, source, u32::leading_zeros),
            ("clz", Type::B64) => unary(target, source, u64::leading_zeros),
            ("brev", Type::B32) => unary(target, source, u32::reverse_bits),
            ("brev", Type::B64) => unary(target, source, u64::reverse_bits),
            ("bfind", Type::U32) => unary(target, source, move |a: u32| find(u64::from(a), 31, shift_amount)),
            ("bfind", Type::U64) => unary(target, source, move |a: u64| find(a, 63, shift_amount)),
            ("bfind", Type::S32) => {
                unary(target, source, move |a: i32| find(u64::from((a ^ a >> 31) as u32), 31, shift_amount))
            }
            ("bfind", Type::S64) => {
                unary(target, source, move |a: i64| find((a ^ a >> 63) as u64, 63, shift_amount))
            }
            _ => return Err(self.semantic("this type is not allowed here")),
        })
    }

    pub(super) fn bit_field(&mut self) -> Decoded {
        let mnemonic = self.instruction.mnemonic;
        let wrap = matches!(mnemonic, "bmsk" | "szext") && self.modifiers.take("wrap");
        if matches!(mnemonic, "bmsk" | "szext") && !wrap && !self.modifiers.take("clamp") {
            return Err(self.semantic("`.wrap` or `.clamp` is missing"));
        }
        let ty = self.one_type()?;
        let count = match mnemonic {
            "bmsk" | "szext" => 3,
            "bfi" => 5,
            _ => 4,
        };
        self.expect_operands(count..=count)?;
        let target = self.target(0, ty)?;
        let a = self.source(1, ty)?;
        match mnemonic {
            "bfe" => {
                let sources = [a, self.source(2, Type::U32)?, self.source(3, Type::U32)?];
                alu(match ty {
                    Type::U32 => {
                        ternary(target, sources, |a: u32, p, n| extract(u64::from(a), p, n, 32, false) as u32)
                    }
                    Type::S32 => {
                        ternary(target, sources, |a: u32, p, n| extract(u64::from(a), p, n, 32, true) as u32)
                    }
                    Type::U64 => ternary(target, sources, |a: u64, p, n| extract(a, p, n, 64, false)),
                    Type::S64 => ternary(target, sources, |a: u64, p, n| extract(a, p, n, 64, true)),
                    _ => return Err(self.semantic("this type is not allowed here")),
                })
            }
            "bfi" => {
                let b = self.source(2, ty)?;
                let (position, length) = (self.source(3, Type::U32)?, self.source(4, Type::U32)?);
                let width = ty.bytes() as u32 * 8;
                alu(Box::new(move |registers, mask| {
                    let (a, b) = (registers.read::<u64>(a), registers.read::<u64>(b));
                    let (position, length) = (registers.read::<u32>(position), registers.read::<u32>(length));
                    let result: [u64; LANES] = std::array::from_fn(|lane| {
                        insert(a[lane], b[lane], position[lane], length[lane], width)
                    });
                    registers.write(target, &result, mask);
                }))
            }
            "bmsk" => alu(binary(target, [a, self.source(2, Type::U32)?], move |a: u32, b: u32| {
                let (start, width) = if wrap { (a & 31, b & 31) } else { (a, b) };
                let ones = if width >= 32 { u32::MAX } else { (1 << width) - 1 };
                if start >= 32 { 0 } else { ones << start }
            })),
            "szext" => {
                let signed = ty == Type::S32;
                alu(binary(target, [a, self.source(2, Type::U32)?], move |a: u32, b: u32| {
                    let bits = if wrap { b & 31 } else { b };
                    match bits {
                        0 => 0,
                        1..=31 if signed => ((a << (32 - bits)) as i32 >> (32 - bits)) as u32,
                        1..=31 => a & ((1 << bits) - 1),
                        _ => a,
                    }
                }))
            }
            _ => {
                let sources = [a, self.source(2, Type::U32)?, self.source(3, Type::S32)?];
                alu(ternary(target, sources, find_nth_set))
            }
        }
    }

    pub(super) fn dot_product(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let two = self.instruction.mnemonic == "dp2a";
        let high = two && self.modifiers.take("hi");
        if two && !high && !self.modifiers.take("lo") {
            return Err(self.semantic("`.lo` or `.hi` is missing"));
        }
        let (a_type, b_type) = (self.one_type()?, self.one_type()?);
        let (target, sources) = (self.target(0, Type::B32)?, self.sources::<3>(1, Type::B32)?);
        let (a_signed, b_signed) = (a_type.is_signed(), b_type.is_signed());
        alu(ternary(target, sources, move |a: u32, b: u32, c: u32| {
            let byte = |x: u32, n: u32, signed: bool| {
                let byte = (x >> (8 * n)) as u8;
                if signed { i64::from(byte as i8) } else { i64::from(byte) }
            };
            let half = |x: u32, n: u32| {
                let half = (x >> (16 * n)) as u16;
                if a_signed { i64::from(half as i16) } else { i64::from(half) }
            };
            let sum: i64 = if two {
                let first = if high { 2 } else { 0 };
                (0..2).map(|n| half(a, n) * byte(b, first + n, b_signed)).sum()
            } else {
                (0..4).map(|n| byte(a, n, a_signed) * byte(b, n, b_signed)).sum()
            };
            c.wrapping_add(sum as u32)
        }))
    }

    /// `vabsdiff4`: four byte-wise differences; with `.add` their sum is added to the third operand (ISA 9.7.18).
    pub(super) fn absolute_differences(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let accumulate = self.modifiers.take("add");
        let types = [self.one_type()?, self.one_type()?, self.one_type()?];
        if types != [Type::U32; 3] {
            return Err(self.unsupported("only the unsigned form is executed"));
        }
        let (target, sources) = (self.target(0, Type::U32)?, self.sources::<3>(1, Type::U32)?);
        alu(ternary(target, sources, move |a: u32, b: u32, c: u32| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            let bytes: [u8; 4] = std::array::from_fn(|at| a[at].abs_diff(b[at]));
            if accumulate {
                c.wrapping_add(bytes.iter().map(|byte| u32::from(*byte)).sum())
            } else {
                u32::from_le_bytes(bytes)
            }
        }))
    }

    pub(super) fn permute(&mut self) -> Decoded {
        self.expect_operands(4..=4)?;
        let ty = self.one_type()?;
        let mode = self.modifiers.take_map(|name| match name {
            "f4e" => Some(Permutation::Forward4),
            "b4e" => Some(Permutation::Backward4),
            "rc8" => Some(Permutation::Replicate8),
            "ecl" => Some(Permutation::EdgeLeft),
            "ecr" => Some(Permutation::EdgeRight),
            "rc16" => Some(Permutation::Replicate16),
            _ => None,
        });
        let (target, sources) = (self.target(0, ty)?, self.sources::<3>(1, ty)?);
        alu(ternary(target, sources, move |a, b, c| permute(a, b, c, mode)))
    }

    pub(super) fn lop3(&mut self) -> Decoded {
        let combine = self.modifiers.take_map(|name| match name {
            "or" => Some(true),
            "and" => Some(false),
            _ => None,
        });
        self.one_type()?;
        let count = if combine.is_some() { 6 } else { 5 };
        self.expect_operands(count..=count)?;
        let (target, predicate) = match self.operand(0)? {
            Operand::Pair(d, p) => (self.target_of(d, Type::B32, false)?, self.predicate_target(p)?),
            d => (self.target_of(d, Type::B32, false)?, None),
        };
        let [a, b, c] = self.sources(1, Type::B32)?;
        let Source::Immediate(table) = self.source(4, Type::U32)? else {
            return Err(self.semantic("the table must be a constant"));
        };
        let q = match combine {
            Some(or) => Some((or, self.condition(5)?)),
            None => None,
        };
        let row = move |bit: u32| if table >> bit & 1 != 0 { u32::MAX } else { 0 };
        let rows: [u32; 8] = std::array::from_fn(|bit| row(bit as u32));
        alu(Box::new(move |registers, mask| {
            let (x, y, z) = (registers.read::<u32>(a), registers.read::<u32>(b), registers.read::<u32>(c));
            let result: [u32; LANES] = std::array::from_fn(|lane| {
                let (x, y, z) = (x[lane], y[lane], z[lane]);
                let low = (!y & ((!z & rows[0]) | (z & rows[1]))) | (y & ((!z & rows[2]) | (z & rows[3])));
                let high = (!y & ((!z & rows[4]) | (z & rows[5]))) | (y & ((!z & rows[6]) | (z & rows[7])));
                (!x & low) | (x & high)
            });
            registers.write(target, &result, mask);
            if let (Some((or, q)), Some(predicate)) = (q, predicate) {
                let nonzero = (0..LANES).fold(0, |bits, lane| bits | u32::from(result[lane] != 0) << lane);
                let q = q.lanes(registers);
                registers.set_predicate(predicate, if or { nonzero | q } else { nonzero & q }, mask);
            }
        }))
    }
}

/// `bfe` by the ISA's pseudocode: bits beyond the value take its sign, or zero.
fn extract(value: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let top = width - 1;
    let sign_bit = if signed && length > 0 { value >> (position + length - 1).min(top) & 1 } else { 0 };
    let kept = length.min(width.saturating_sub(position)).min(width);
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    let field = if position < width { (value >> position) & mask } else { 0 };
    let fill = if sign_bit != 0 { !mask } else { 0 };
    field | fill
}

/// `bfi`: the low bits of `field` into `base`.
fn insert(field: u64, base: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= width {
        return base;
    }
    let kept = length.min(width - position);
    let mask = if kept >= 64 { u64::MAX } else { ((1u64 << kept) - 1) << position };
    (base & !mask) | (field << position & mask)
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let step = if offset < 0 { -1i64 } else { 1 };
    let mut position = i64::from(base);
    if offset == 0 {
        return if base < 32 && mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    while (0..32).contains(&position) {
        if mask >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += step;
    }
    u32::MAX
}

#[derive(Clone, Copy, Debug)]
enum Permutation {
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

fn permute(a: u32, b: u32, c: u32, mode: Option<Permutation>) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let first = c & 3;
    let select = |byte: u32| -> u32 {
        match mode {
            None => c >> (4 * byte) & 0xf,
            Some(Permutation::Forward4) => (first + byte) & 7,
            Some(Permutation::Backward4) => first.wrapping_sub(byte) & 7,
            Some(Permutation::Replicate8) => first,
            Some(Permutation::EdgeLeft) => byte.max(first),
            Some(Permutation::EdgeRight) => byte.min(first),
            Some(Permutation::Replicate16) => (first & 1) * 2 + (byte & 1),
        }
    };
    let mut result = 0;
    for byte in 0..4 {
        let selector = select(byte);
        let mut value = bytes[(selector & 7) as usize];
        if mode.is_none() && selector & 8 != 0 {
            value = ((value as i8) >> 7) as u8;
        }
        result |= u32::from(value) << (8 * byte);
    }
    result
}
