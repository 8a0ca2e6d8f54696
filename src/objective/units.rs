//! Objectives over the units of a packed micro-batch.

use super::{GroupLogps, Objective, Rows};
use crate::data::{BatchGroup, StepTotals};

/// The coefficients of some units of a micro-batch: spans address `rows` and `out` alike. Returns whether every unit's loss
/// is finite.
pub fn coefficients_of_units(
    objective: &dyn Objective,
    units: &[BatchGroup],
    totals: &StepTotals,
    rows: Rows,
    out: &mut [f32],
) -> bool {
    let groups: Vec<GroupLogps> = units.iter().map(|unit| GroupLogps::of(unit, rows)).collect();
    let losses = objective.evaluate(&groups, totals);
    for (unit, loss) in units.iter().zip(&losses) {
        loss.write(unit, out);
    }
    losses.iter().all(|loss| loss.value.is_finite())
}
