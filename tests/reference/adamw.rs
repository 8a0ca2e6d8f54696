//! AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) as `torch.optim.AdamW` computes it.

/// Hyper-parameters that do not change from step to step, for one group of parameters.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

/// The moments of one tensor.
#[derive(Debug, Clone)]
pub struct Moments {
    /// First.
    pub m: Vec<f64>,
    /// Second.
    pub v: Vec<f64>,
}

impl Moments {
    /// Before the first step.
    pub fn zeros(len: usize) -> Self {
        Self { m: vec![0.0; len], v: vec![0.0; len] }
    }
}

impl AdamW {
    /// One update in place; `step` counts from 1.
    pub fn update(
        &self,
        step: i32,
        learning_rate: f64,
        parameter: &mut [f64],
        gradient: &[f64],
        moments: &mut Moments,
    ) {
        assert_eq!(parameter.len(), gradient.len());
        for i in 0..parameter.len() {
            let (m, v) = (&mut moments.m[i], &mut moments.v[i]);
            *m = self.beta1 * *m + (1.0 - self.beta1) * gradient[i];
            *v = self.beta2 * *v + (1.0 - self.beta2) * gradient[i] * gradient[i];
            let corrected_m = *m / (1.0 - self.beta1.powi(step));
            let corrected_v = *v / (1.0 - self.beta2.powi(step));
            parameter[i] -= learning_rate * self.weight_decay * parameter[i];
            parameter[i] -= learning_rate * corrected_m / (corrected_v.sqrt() + self.epsilon);
        }
    }
}
