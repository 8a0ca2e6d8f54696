//! Weights in and out of a planned model: from a Hugging Face folder, from a seed, and to whoever saves them.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::Llama;
use crate::backend::{Backend, View};
use crate::checkpoint::{CheckpointError, ModelFolder, SourceError};

impl Llama {
    /// The place of a parameter in an arena of the table's layout (weights, moments).
    ///
    /// # Panics
    /// If the model has no parameter of that name.
    pub fn place(&self, arena: View, name: &str) -> View {
        arena.slice(self.table.span(&[name.to_owned()]))
    }

    /// Reads every parameter from a folder of this configuration, widened to f32, one tensor in memory at a time.
    pub fn load<B: Backend>(&self, backend: &mut B, folder: &ModelFolder) -> Result<(), CheckpointError> {
        let mut values = Vec::new();
        for parameter in self.table.forward_order() {
            values.resize(parameter.elements(), 0.0f32);
            folder.read(&parameter.name, &mut values)?;
            backend.write(self.weights().slice(parameter.range()), &values);
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
            backend.write(self.weights().slice(parameter.range()), &values);
        }
    }

    /// Fills `out` with elements `start..` of a parameter's values in `arena`: what a checkpoint asks for.
    pub fn read_parameter<B: Backend>(
        &self,
        backend: &mut B,
        arena: View,
        name: &str,
        start: usize,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        let view = self.place(arena, name).slice(start..start + out.len());
        Ok(backend.read(view, out)?)
    }
}
