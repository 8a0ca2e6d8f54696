//! Objectives on the CPU: the Rust function itself, unit by unit.

use super::memory::Memory;
use crate::backend::{BAD, ObjectiveCoefficients};
use crate::objective::{Rows, Statistics, coefficients_of_units};

/// The operation [`ObjectiveCoefficients`].
pub fn coefficients(memory: &mut Memory, arguments: ObjectiveCoefficients<'_>) {
    let ObjectiveCoefficients { objective, units, totals, .. } = arguments;
    let mut access = memory.access();
    let logp = access.read::<f32>(arguments.logp);
    let statistics = arguments.statistics.map(|views| Statistics {
        log_sum_squares: access.read(views.log_sum_squares),
        entropy: access.read(views.entropy),
        mean_logit: access.read(views.mean_logit),
    });
    let coefficients = access.write::<f32>(arguments.coefficients);
    let state = access.write::<f64>(arguments.state);
    if !coefficients_of_units(objective, units, &totals, Rows { logp, statistics }, coefficients) {
        state[BAD] = 1.0;
    }
}
