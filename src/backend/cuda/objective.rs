//! Objectives with the GPU. Pointwise ones (`kernels/objective.cu`) stay on the device; for the others log-probs go to the
//! host, to the Rust function, and coefficients come back: one wait per chunk of the head.

use super::CudaBackend;
use super::launch::arguments;
use crate::backend::{BAD, Backend, ObjectiveCoefficients, SPAN_WORDS, View};
use crate::data::BatchGroup;
use crate::objective::{Coupling, PointwiseWeights, Rows, Statistics, coefficients_of_units};

/// Threads for a span.
const THREADS: u32 = 128;

/// The operation [`ObjectiveCoefficients`].
pub fn coefficients(backend: &mut CudaBackend, a: ObjectiveCoefficients<'_>) {
    let pointwise = a.objective.pointwise().filter(|_| a.objective.coupling() == Coupling::Sequence);
    match pointwise {
        Some(pointwise) => on_the_device(backend, a, pointwise.weights(&a.totals)),
        None => on_the_host(backend, a),
    }
}

fn on_the_device(backend: &mut CudaBackend, a: ObjectiveCoefficients<'_>, weights: PointwiseWeights) {
    assert_eq!(a.logp.len, a.coefficients.len);
    let (spans, logp) = (backend.at(a.spans), backend.at(a.logp));
    let (coefficients, state) = (backend.at(a.coefficients), backend.at(a.state));
    let PointwiseWeights { c, token_slope, sequence_weight, align, beta, logit_eps, mixed_slope } = weights;
    // SAFETY: one block per span; spans address rows of the micro-batch, as the loader made them.
    unsafe {
        backend.launch(
            |k| &k.objective_pointwise,
            (a.spans.len / SPAN_WORDS, 1),
            (THREADS, 1),
            arguments![
                spans,
                logp,
                coefficients,
                state,
                c,
                token_slope,
                sequence_weight,
                align,
                beta,
                logit_eps,
                mixed_slope
            ],
        );
    }
}

fn on_the_host(backend: &mut CudaBackend, a: ObjectiveCoefficients<'_>) {
    let spans = || a.units.iter().flat_map(BatchGroup::spans);
    let (Some(first), Some(last)) =
        (spans().map(|span| span.range().start).min(), spans().map(|span| span.range().end).max())
    else {
        return;
    };
    let (mut logp, mut coefficients) = (vec![0.0f32; a.logp.len], vec![0.0f32; a.coefficients.len]);
    if let Err(error) = backend.read(a.logp.slice(first..last), &mut logp[first..last]) {
        backend.error.get_or_insert(error);
        return;
    }
    let mut read = |view: View| {
        let mut values = vec![0.0f32; view.len];
        if let Err(error) = backend.read(view.slice(first..last), &mut values[first..last]) {
            backend.error.get_or_insert(error);
        }
        values
    };
    let statistics =
        a.statistics.map(|views| [views.log_sum_squares, views.entropy, views.mean_logit].map(&mut read));
    let statistics = statistics.as_ref().map(|[log_sum_squares, entropy, mean_logit]| Statistics {
        log_sum_squares,
        entropy,
        mean_logit,
    });
    let rows = Rows { logp: &logp, statistics };
    if !coefficients_of_units(a.objective, a.units, &a.totals, rows, &mut coefficients) {
        backend.write(a.state.slice(BAD..BAD + 1), &[1.0f64]);
    }
    backend.write(a.coefficients.slice(first..last), &coefficients[first..last]);
}
