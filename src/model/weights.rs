//! Weights in and out of a planned model: from a Hugging Face folder, from a seed, and to whoever saves them.

use half::bf16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::master::{join, split};
use super::{Llama, Parameter};
use crate::backend::{Backend, BackendError, Element, View};
use crate::checkpoint::{CheckpointError, ModelFolder};

impl Llama {
    /// The place of a parameter in an arena of the table's layout (weights, moments).
    ///
    /// # Panics
    /// If the model has no parameter of that name.
    pub fn place(&self, arena: View, name: &str) -> View {
        arena.slice(self.table.span(&[name.to_owned()]))
    }

    /// Reads every parameter from a folder of this configuration, one tensor in memory at a time.
    pub fn load<B: Backend>(&self, backend: &mut B, folder: &ModelFolder) -> Result<(), CheckpointError> {
        let mut values = Vec::new();
        for parameter in self.table.forward_order() {
            values.resize(parameter.elements(), 0.0f32);
            folder.read(&parameter.name, &mut values)?;
            self.write_weight(backend, parameter, &values);
        }
        Ok(())
    }

    /// Sets a parameter's master weights: the stored ones, and the remainders where there are any. Without remainders, stored
    /// bf16 weights are the values rounded to nearest.
    pub fn write_weight<B: Backend>(&self, backend: &mut B, parameter: &Parameter, values: &[f32]) {
        let stored = self.weights().slice(parameter.range());
        if stored.element == Element::F32 {
            return backend.write(stored, values);
        }
        match self.remainders {
            None => {
                backend.write(stored, &values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>())
            }
            Some(remainders) => {
                let (high, low): (Vec<bf16>, Vec<u16>) = values.iter().map(|&value| split(value)).unzip();
                backend.write(stored, &high);
                backend.write(remainders.slice(parameter.range()), &low);
            }
        }
    }

    /// Fills `out` with elements `start..` of a parameter's master weights.
    pub fn read_weight<B: Backend>(
        &self,
        backend: &mut B,
        name: &str,
        start: usize,
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        let range = start..start + out.len();
        let stored = self.place(self.weights(), name).slice(range.clone());
        if stored.element == Element::F32 {
            return backend.read(stored, out);
        }
        let mut high = vec![bf16::ZERO; out.len()];
        backend.read(stored, &mut high)?;
        let mut low = vec![0u16; out.len()];
        if let Some(remainders) = self.remainders {
            backend.read(self.place(remainders, name).slice(range), &mut low)?;
        }
        for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
            *out = join(high, low);
        }
        Ok(())
    }

    /// Random weights: matrices normal with the configuration's `initializer_range`, norms 1, as Hugging Face's
    /// `_init_weights`. Each tensor draws from a stream of its own, so they do not depend on each other's sizes.
    pub fn initialise<B: Backend>(&self, backend: &mut B, seed: u64) {
        let deviation = self.config.initializer_range as f32;
        for (stream, parameter) in self.table.forward_order().enumerate() {
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            generator.set_stream(stream as u64);
            let normal = Normal::new(0.0, deviation)
                .unwrap_or_else(|_| unreachable!("checked: finite and not negative"));
            let values: Vec<f32> = (0..parameter.elements())
                .map(|_| if parameter.shape.len() > 1 { normal.sample(&mut generator) } else { 1.0 })
                .collect();
            self.write_weight(backend, parameter, &values);
        }
    }
}
