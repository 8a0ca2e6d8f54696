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

/// Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [first, second] =
            [0xd251_1f53 * u64::from(counter[0]), 0xcd9e_8d57 * u64::from(counter[2])].map(|product| {
                let [low, high] = [product as u32, (product >> 32) as u32];
                (high, low)
            });
        counter = [second.0 ^ counter[1] ^ key[0], second.1, first.0 ^ counter[3] ^ key[1], first.1];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// Which value of an element random bits are for.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// The parameter.
    Parameter,
    /// The first moment.
    First,
    /// The second moment.
    Second,
}

/// The 16 random bits for element `element` of its arena at a step. Eight elements share a draw: four in a row in each half
/// of a block of 256.
pub fn random_bits(seed: u64, step: u64, element: u64, stream: Stream) -> u32 {
    let (block, within) = (element / 256, element % 256);
    let group = block * 32 + within % 128 / 4;
    let counter =
        [group as u32, (group >> 32) as u32 | (stream as u32) << 24, step as u32, (step >> 32) as u32];
    let word = philox(counter, [seed as u32, (seed >> 32) as u32])[(within % 4) as usize];
    if within < 128 { word & 0xffff } else { word >> 16 }
}

/// The bits of the bf16 that a value becomes with these random bits: of its two neighbours the upper one (in magnitude) in as
/// many of 2^16 cases as the value is 65536ths of their distance above the lower one.
pub fn round_stochastically(value: f32, random: u32) -> u16 {
    let (upper, lower) = ((value.to_bits() >> 16) as u16, value.to_bits() & 0xffff);
    match (value.is_finite(), value.is_nan()) {
        (true, _) => upper + u16::from(lower + random > 0xffff),
        (false, nan) => upper | if nan { 0x40 } else { 0 },
    }
}
