//! Objectives over the spans of a packed micro-batch.

use super::{GroupCoefficients, GroupLogps, Objective, Scored};
use crate::data::{BatchGroup, Span, StepTotals};

/// The coefficients of some units of a micro-batch: spans address `logp` and `out` alike. Returns whether every unit's loss
/// is finite.
pub fn coefficients_of_units(
    objective: &dyn Objective,
    units: &[BatchGroup],
    totals: &StepTotals,
    logp: &[f32],
    out: &mut [f32],
) -> bool {
    let mut finite = true;
    for unit in units {
        let group = GroupLogps::of(unit, logp);
        let mut rest = (0, &mut *out);
        let mut take = |span: Option<Span>| span.map(|span| cut(&mut rest, span));
        let mut coefficients = GroupCoefficients {
            prompt: take(unit.prompt),
            chosen: take(unit.chosen),
            rejected: take(unit.rejected),
        };
        finite &= objective.coefficients(&group, totals, &mut coefficients).is_finite();
    }
    finite
}

/// Cuts a span off the front of what is left; spans of a unit lie in the order prompt, chosen, rejected.
fn cut<'a>(rest: &mut (usize, &'a mut [f32]), span: Span) -> &'a mut [f32] {
    let (start, len) = (span.start as usize, span.len as usize);
    let (position, slice) = std::mem::take(rest);
    let (_, slice) = slice.split_at_mut(start - position);
    let (cut, left) = slice.split_at_mut(len);
    *rest = (start + len, left);
    cut
}

impl<'a> GroupLogps<'a> {
    /// The log-probs of a unit's spans out of those of a micro-batch.
    pub fn of(unit: &BatchGroup, logp: &'a [f32]) -> Self {
        let scored = |span: Option<Span>, reference: Option<f64>| {
            span.map(|span| Scored { logps: &logp[span.start as usize..][..span.len as usize], reference })
        };
        Self {
            prompt: scored(unit.prompt, None),
            chosen: scored(unit.chosen, unit.reference.map(|reference| reference.chosen)),
            rejected: scored(unit.rejected, unit.reference.map(|reference| reference.rejected)),
        }
    }
}
