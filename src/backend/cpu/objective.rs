//! Objectives on the CPU: the Rust function itself, unit by unit.

use super::memory::Memory;
use crate::backend::{BAD, ObjectiveCoefficients};
use crate::data::Span;
use crate::objective::{GroupCoefficients, GroupLogps, Scored};

/// The operation [`ObjectiveCoefficients`].
pub fn coefficients(memory: &mut Memory, arguments: ObjectiveCoefficients<'_>) {
    let mut access = memory.access();
    let logp = access.read::<f32>(arguments.logp);
    let coefficients = access.write::<f32>(arguments.coefficients);
    let state = access.write::<f64>(arguments.state);
    for unit in arguments.units {
        let group = GroupLogps::of(unit, logp);
        let mut rest = (0, &mut *coefficients);
        let mut take = |span: Option<Span>| span.map(|span| cut(&mut rest, span));
        let mut out = GroupCoefficients {
            prompt: take(unit.prompt),
            chosen: take(unit.chosen),
            rejected: take(unit.rejected),
        };
        let loss = arguments.objective.coefficients(&group, &arguments.totals, &mut out);
        if !loss.is_finite() {
            state[BAD] = 1.0;
        }
    }
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
    pub fn of(unit: &crate::data::BatchGroup, logp: &'a [f32]) -> Self {
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
