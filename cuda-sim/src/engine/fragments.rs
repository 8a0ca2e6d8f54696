//! `ldmatrix` and `stmatrix`: 8 x 8 matrices between shared memory and the fragments of a warp.

use super::access::{load, store};
use super::checks::{Kind, Touch};
use super::error::FindingKind;
use super::execute::{Executor, Fault};
use super::ir::{Element, MatrixAccess, Order, Scope};
use super::registers::LANES;
use super::types::Space;

impl Executor<'_, '_> {
    /// `ldmatrix` and `stmatrix`: lanes 8i to 8i+7 give the rows of matrix i, 16 bytes each (ISA 9.7.14.5.15).
    pub(super) fn matrix(&mut self, matrix: &MatrixAccess) -> Result<(), Fault> {
        let given = self.addresses(&matrix.address);
        let count = matrix.registers.len();
        let mask = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let stores = matches!(matrix.registers[0], Element::Store(_));
        let kind = if stores { Kind::Write } else { Kind::Read };
        let touch = Touch { kind, order: Order::Weak, scope: Scope::Block };
        self.by_space(matrix.space, mask, given, |this, space, mask, addresses| {
            if !matches!(space, Space::Shared | Space::SharedCluster) {
                let lane = mask.trailing_zeros() as usize;
                return Err(Fault::new(
                    FindingKind::InvalidOperand,
                    lane,
                    "the address is not in shared memory",
                ));
            }
            let places = this.resolve(space, mask, addresses, 16, stores)?;
            this.count(space, mask, addresses, 16, kind);
            this.check(space, mask, &places, 16, touch, &[]);
            for (index, register) in matrix.registers.iter().enumerate() {
                // Element (row, column) is the 16-bit value `column` of the row that lane 8 * index + row points to.
                let pointer = |row: usize, column: usize| {
                    // SAFETY: the row has 16 bytes, the column is below 8.
                    unsafe { places.pointers[8 * index + row].add(2 * column) }
                };
                let place = |lane: usize, part: usize| {
                    let (row, column) = (lane / 4, lane % 4 * 2 + part);
                    if matrix.transposed { (column, row) } else { (row, column) }
                };
                match *register {
                    Element::Load(target) => {
                        let row: [u32; LANES] = std::array::from_fn(|lane| {
                            let half = |part| {
                                let (row, column) = place(lane, part);
                                // SAFETY: `resolve` checked the rows.
                                unsafe { load(pointer(row, column), 2) as u32 }
                            };
                            half(0) | half(1) << 16
                        });
                        this.warp.registers.write(target, &row, u32::MAX);
                    }
                    Element::Store(source) => {
                        let values = this.warp.registers.read::<u32>(source);
                        for (lane, value) in values.iter().enumerate() {
                            for part in 0..2 {
                                let (row, column) = place(lane, part);
                                // SAFETY: `resolve` checked the rows.
                                unsafe { store(pointer(row, column), 2, u64::from(value >> (16 * part))) };
                            }
                        }
                    }
                    Element::LoadPair(_) | Element::StorePair(_) => {}
                }
            }
            if stores {
                this.mark(space, mask, &places, 16);
            }
            Ok(())
        })
    }
}
