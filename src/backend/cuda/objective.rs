//! Objectives with the GPU: log-probs to the host, the Rust function, coefficients back. This waits for the device once
//! per chunk of the head.

use super::CudaBackend;
use crate::backend::{BAD, Backend, ObjectiveCoefficients, STEP_STATE_LEN};
use crate::objective::coefficients_of_units;

/// The operation [`ObjectiveCoefficients`].
pub fn coefficients(backend: &mut CudaBackend, a: ObjectiveCoefficients<'_>) {
    let (mut logp, mut coefficients) = (vec![0.0f32; a.logp.len], vec![0.0f32; a.coefficients.len]);
    let mut state = [0.0f64; STEP_STATE_LEN];
    let read = backend.read(a.logp, &mut logp).and_then(|()| backend.read(a.coefficients, &mut coefficients));
    if let Err(error) = read.and_then(|()| backend.read(a.state, &mut state)) {
        backend.error.get_or_insert(error);
        return;
    }
    if !coefficients_of_units(a.objective, a.units, &a.totals, &logp, &mut coefficients) {
        state[BAD] = 1.0;
        backend.write(a.state, &state);
    }
    backend.write(a.coefficients, &coefficients);
}
