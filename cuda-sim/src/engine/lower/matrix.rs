//! Tensor-core instructions: `mma.sync` (ISA section 9.7.14.5), `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! Products are exact and summed in f64 with one rounding to the accumulator's type at the end, which is at least the
//! precision that the ISA asks for; the order of summation is not specified by it.

use super::{Decoded, Decoder};
use crate::engine::error::PtxError;
use crate::engine::float::{Exact, Float, Rounding};
use crate::engine::ir::{Class, Element, MatrixAccess, Operation, WarpAction};
use crate::engine::registers::{LANES, Source, Target};
use crate::engine::types::Type;
use half::f16;

/// Rows of A and of the result.
const M: usize = 16;
/// Columns of B and of the result.
const N: usize = 8;

/// What one register of a fragment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OperandType {
    F16,
    Bf16,
    Tf32,
}

impl OperandType {
    fn per_register(self) -> usize {
        if self == OperandType::Tf32 { 1 } else { 2 }
    }
}

/// Row and column of element `index` of lane `lane`'s fragment of A.
fn a_place(ty: OperandType, lane: usize, index: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    match ty {
        OperandType::Tf32 => (group + 8 * (index % 2), thread + 4 * (index / 2)),
        _ => (group + 8 * (index / 2 % 2), thread * 2 + index % 2 + 8 * (index / 4)),
    }
}

/// Row and column of element `index` of lane `lane`'s fragment of B.
fn b_place(ty: OperandType, lane: usize, index: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    match ty {
        OperandType::Tf32 => (thread + 4 * index, group),
        _ => (thread * 2 + index % 2 + 8 * (index / 2), group),
    }
}

/// Row and column of element `index` of lane `lane`'s fragment of C and D.
fn c_place(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + 8 * (index / 2), lane % 4 * 2 + index % 2)
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn mma(&mut self) -> Decoded {
        if !self.modifiers.take("sync") || !self.modifiers.take("aligned") {
            return Err(self.semantic("`.sync.aligned` is missing"));
        }
        let shape = self.modifiers.take_first().unwrap_or("");
        if !self.modifiers.take("row") || !self.modifiers.take("col") {
            return Err(self.unsupported("only `.row.col` is executed"));
        }
        let types: Vec<Type> = std::iter::from_fn(|| self.modifiers.next_type()).collect();
        let &[d_type, a_type, b_type, c_type] = types.as_slice() else {
            return Err(self.semantic("four types are expected"));
        };
        let operand_type = match (a_type, b_type) {
            (Type::F16, Type::F16) => OperandType::F16,
            (Type::Bf16, Type::Bf16) => OperandType::Bf16,
            (Type::Tf32, Type::Tf32) => OperandType::Tf32,
            _ => return Err(self.unsupported("these operand types are not executed by this engine")),
        };
        let k = match (shape, operand_type) {
            ("m16n8k4", OperandType::Tf32) => 4,
            ("m16n8k8", _) => 8,
            ("m16n8k16", OperandType::F16 | OperandType::Bf16) => 16,
            _ => return Err(self.unsupported("this shape is not executed by this engine")),
        };
        for ty in [d_type, c_type] {
            if !(ty == Type::F32 || ty == Type::F16 && operand_type == OperandType::F16) {
                return Err(self.unsupported("this accumulator type is not executed by this engine"));
            }
        }
        self.expect_operands(4..=4)?;
        let a_count = M * k / LANES / operand_type.per_register();
        let b_count = k * N / LANES / operand_type.per_register();
        let half_registers = |ty| if ty == Type::F16 { 2 } else { 4 };
        let a = self.fragment(1, a_count, Type::B32)?;
        let b = self.fragment(2, b_count, Type::B32)?;
        let c = self.fragment(
            3,
            half_registers(c_type),
            if c_type == Type::F16 { Type::B32 } else { Type::F32 },
        )?;
        let d = self.fragment_targets(0, half_registers(d_type))?;
        let product = Product {
            operand_type,
            k,
            a: with_places(operand_type, a, 16, a_place),
            b: with_places(operand_type, b, N, b_place),
            c,
            d,
            c_half: c_type == Type::F16,
            d_half: d_type == Type::F16,
        };
        let action: WarpAction = Box::new(move |registers| product.run(registers));
        let operations = 2 * (M * N * k) as u64;
        Ok((Class::Tensor, Operation::Mma { action, operations }))
    }

    fn fragment(&self, index: usize, count: usize, ty: Type) -> Result<Vec<Source>, PtxError> {
        let operands = self.elements(self.operand(index)?);
        if operands.len() != count {
            return Err(self.semantic(&format!("operand {} must be a vector of {count}", index + 1)));
        }
        operands.iter().map(|operand| self.source_of(operand, ty, false)).collect()
    }

    fn fragment_targets(&self, index: usize, count: usize) -> Result<Vec<Target>, PtxError> {
        let operands = self.elements(self.operand(index)?);
        if operands.len() != count {
            return Err(self.semantic(&format!("operand {} must be a vector of {count}", index + 1)));
        }
        operands.iter().map(|operand| self.target_of(operand, Type::B32, false)).collect()
    }

    pub(super) fn matrix_access(&mut self) -> Decoded {
        let mnemonic = self.instruction.mnemonic;
        if !self.modifiers.take("sync") || !self.modifiers.take("aligned") || !self.modifiers.take("m8n8") {
            return Err(self.unsupported("only `.sync.aligned.m8n8` is executed"));
        }
        let transposed = self.modifiers.take("trans");
        if mnemonic == "movmatrix" {
            return self.move_matrix(transposed);
        }
        let count = self.modifiers.take_map(|name| match name {
            "x1" => Some(1),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        let count = count.ok_or_else(|| self.semantic("`.x1`, `.x2` or `.x4` is missing"))?;
        if self.one_type()? != Type::B16 {
            return Err(self.unsupported("only `.b16` elements are executed"));
        }
        self.expect_operands(2..=2)?;
        let loads = mnemonic == "ldmatrix";
        let (space, address) = self.located(usize::from(loads))?;
        let operands = self.elements(self.operand(usize::from(!loads))?);
        if operands.len() != count {
            return Err(self.semantic(&format!("a vector of {count} is expected")));
        }
        let mut registers = Vec::new();
        for operand in operands {
            registers.push(match loads {
                true => Element::Load(self.target_of(operand, Type::B32, false)?),
                false => Element::Store(self.source_of(operand, Type::B32, false)?),
            });
        }
        let access = MatrixAccess { space, address, registers, transposed };
        Ok((Class::Memory, Operation::Matrix(Box::new(access))))
    }

    /// `movmatrix`: a transposition inside the registers.
    fn move_matrix(&mut self, transposed: bool) -> Decoded {
        if !transposed || self.one_type()? != Type::B16 {
            return Err(self.semantic("`.trans.b16` is missing"));
        }
        self.expect_operands(2..=2)?;
        let (target, source) = (self.target(0, Type::B32)?, self.source(1, Type::B32)?);
        let action: WarpAction = Box::new(move |registers| {
            let value = registers.read::<u32>(source);
            let element =
                |row: usize, column: usize| value[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
            let result: [u32; LANES] = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                element(column, row) | element(column + 1, row) << 16
            });
            registers.write(target, &result, u32::MAX);
        });
        Ok((Class::Communication, Operation::Mma { action, operations: 0 }))
    }
}

/// Where every lane's part of a register goes in a matrix of up to 256 elements: row times columns plus column.
type Places = [u8; LANES];

/// One decoded `mma`.
struct Product {
    operand_type: OperandType,
    k: usize,
    /// Registers of A, with one set of places per part of a register: in 16 rows of 16.
    a: Vec<(Source, Vec<Places>)>,
    /// Registers of B: in 16 rows of 8.
    b: Vec<(Source, Vec<Places>)>,
    c: Vec<Source>,
    d: Vec<Target>,
    c_half: bool,
    d_half: bool,
}

/// The registers of a fragment with their places in a matrix of `columns` columns.
fn with_places(
    ty: OperandType,
    sources: Vec<Source>,
    columns: usize,
    place: fn(OperandType, usize, usize) -> (usize, usize),
) -> Vec<(Source, Vec<Places>)> {
    let parts = ty.per_register();
    let places = |index: usize| -> Places {
        std::array::from_fn(|lane| {
            let (row, column) = place(ty, lane, index);
            (row * columns + column) as u8
        })
    };
    let register = |(index, source)| (source, (0..parts).map(|part| places(index * parts + part)).collect());
    sources.into_iter().enumerate().map(register).collect()
}

impl Product {
    fn run(&self, registers: &mut crate::engine::registers::Registers) {
        match self.operand_type {
            OperandType::F16 => {
                self.multiply(registers, |bits, part| f16::from_bits((bits >> (16 * part)) as u16).to_f32());
            }
            OperandType::Bf16 => {
                self.multiply(registers, |bits, part| f32::from_bits(bits >> (16 * part) << 16));
            }
            // The low bits of a tf32 register are ignored.
            OperandType::Tf32 => self.multiply(registers, |bits, _| f32::from_bits(bits & 0xffff_e000)),
        }
    }

    #[inline(always)]
    fn multiply(
        &self,
        registers: &mut crate::engine::registers::Registers,
        decode: impl Fn(u32, usize) -> f32,
    ) {
        let mut a = [0f64; 256];
        let mut b = [0f64; 256];
        for (fragment, matrix) in [(&self.a, &mut a), (&self.b, &mut b)] {
            for (source, parts) in fragment {
                let row = registers.read::<u32>(*source);
                for (part, places) in parts.iter().enumerate() {
                    for lane in 0..LANES {
                        matrix[usize::from(places[lane])] = f64::from(decode(row[lane], part));
                    }
                }
            }
        }
        let mut sum = self.accumulator(registers);
        for (a_row, sum_row) in a.as_chunks::<16>().0.iter().zip(&mut sum) {
            // A copy, so that the row stays in registers.
            let mut totals = *sum_row;
            for (a_value, b_row) in a_row.iter().zip(b.as_chunks::<N>().0).take(self.k) {
                for (total, b_value) in totals.iter_mut().zip(b_row) {
                    *total += a_value * b_value;
                }
            }
            *sum_row = totals;
        }
        self.write(registers, &sum);
    }

    fn accumulator(&self, registers: &crate::engine::registers::Registers) -> [[f64; N]; M] {
        let mut sum = [[0f64; N]; M];
        for (index, source) in self.c.iter().enumerate() {
            let row = registers.read::<u32>(*source);
            for (lane, bits) in row.iter().enumerate() {
                if self.c_half {
                    for part in 0..2 {
                        let (i, j) = c_place(lane, index * 2 + part);
                        sum[i][j] = f16::from_bits((bits >> (16 * part)) as u16).to_f64();
                    }
                } else {
                    let (i, j) = c_place(lane, index);
                    sum[i][j] = f64::from(f32::from_bits(*bits));
                }
            }
        }
        sum
    }

    fn write(&self, registers: &mut crate::engine::registers::Registers, sum: &[[f64; N]; M]) {
        for (index, target) in self.d.iter().enumerate() {
            let row: [u32; LANES] = std::array::from_fn(|lane| {
                if self.d_half {
                    let half = |part: usize| {
                        let (i, j) = c_place(lane, index * 2 + part);
                        let exact = Exact { value: sum[i][j], rest: 0.0 };
                        u32::from(f16::from_exact(exact, Rounding::NearestEven).to_bits())
                    };
                    half(0) | half(1) << 16
                } else {
                    let (i, j) = c_place(lane, index);
                    (sum[i][j] as f32).canonical().to_bits()
                }
            });
            registers.write(*target, &row, u32::MAX);
        }
    }
}
