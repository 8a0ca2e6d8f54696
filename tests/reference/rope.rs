//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's "rotate half" pairing:
//! elements `i` and `i + D/2` of a head turn together by `position * inverse_frequency[i]`.

use std::f64::consts::TAU;

/// How the frequencies are stretched beyond the context the model was first trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Frequencies as they are.
    None,
    /// All divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: short wavelengths kept, long ones divided by `factor`, a blend between.
    Llama3 {
        /// The divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths beyond `original_context / low_frequency_factor` are long.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are short.
        high_frequency_factor: f64,
        /// `original_max_position_embeddings`.
        original_context: f64,
    },
}

/// `[D/2]` angles per position: `theta^(-2i/D)`, scaled.
pub fn inverse_frequencies(head_size: usize, theta: f64, scaling: &Scaling) -> Vec<f64> {
    (0..head_size / 2)
        .map(|i| theta.powf(-2.0 * i as f64 / head_size as f64))
        .map(|frequency| scale(frequency, scaling))
        .collect()
}

fn scale(frequency: f64, scaling: &Scaling) -> f64 {
    match *scaling {
        Scaling::None => frequency,
        Scaling::Linear { factor } => frequency / factor,
        Scaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            let wavelength = TAU / frequency;
            if wavelength < original_context / high_frequency_factor {
                frequency
            } else if wavelength > original_context / low_frequency_factor {
                frequency / factor
            } else {
                let smooth = (original_context / wavelength - low_frequency_factor)
                    / (high_frequency_factor - low_frequency_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Turns `x [T, heads, D]`, row `t` by `positions[t]`.
pub fn forward(x: &[f64], positions: &[u32], heads: usize, inverse_frequencies: &[f64]) -> Vec<f64> {
    rotate(x, positions, heads, inverse_frequencies, 1.0)
}

/// The gradient by `x`: a rotation's adjoint is the rotation back.
pub fn backward(d_out: &[f64], positions: &[u32], heads: usize, inverse_frequencies: &[f64]) -> Vec<f64> {
    rotate(d_out, positions, heads, inverse_frequencies, -1.0)
}

fn rotate(x: &[f64], positions: &[u32], heads: usize, inverse_frequencies: &[f64], sign: f64) -> Vec<f64> {
    let half = inverse_frequencies.len();
    assert_eq!(x.len(), positions.len() * heads * 2 * half);
    let mut out = vec![0.0; x.len()];
    for (t, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let base = (t * heads + head) * 2 * half;
            for i in 0..half {
                let angle = sign * f64::from(position) * inverse_frequencies[i];
                let (first, second) = (x[base + i], x[base + half + i]);
                out[base + i] = first * angle.cos() - second * angle.sin();
                out[base + half + i] = second * angle.cos() + first * angle.sin();
            }
        }
    }
    out
}
