//! AdamW over the flat arenas: which runs of parameters decay, and the moments beside them.

use std::ops::Range;

use crate::backend::{Adamw, Backend, Element, MOMENT_BLOCK, View};
use crate::model::{Llama, OptimizerState, ParameterTable, Precision};
use crate::plan::{Arena, MemoryPlan};

/// PyTorch's and Hugging Face's names and meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on tensors of two dimensions only.
    pub weight_decay: f64,
    /// Key of stochastic rounding, where there is any.
    pub seed: u64,
}

/// The optimizer: settings, and views of its state.
#[derive(Clone, Debug)]
pub struct AdamwOptimizer {
    settings: AdamwSettings,
    runs: Vec<(Range<usize>, bool)>,
    /// First moments, at the parameters' offsets.
    pub first_moments: View,
    /// Second moments, at the parameters' offsets.
    pub second_moments: View,
    /// Scales of both, where they are 8-bit codes.
    scales: Option<[View; 2]>,
}

impl AdamwOptimizer {
    /// Adds the moments to a plan.
    pub fn plan(
        plan: &mut MemoryPlan,
        table: &ParameterTable,
        settings: AdamwSettings,
        precision: Precision,
    ) -> Self {
        let element = precision.optimizer.element();
        let first_moments = table.plan(plan, Arena::FirstMoments, element);
        let second_moments = table.plan(plan, Arena::SecondMoments, element);
        let blocks = table.arena_elements().div_ceil(MOMENT_BLOCK);
        let scales = (precision.optimizer == OptimizerState::EightBit).then(|| {
            ["scales of first moments", "scales of second moments"]
                .map(|name| plan.add(Arena::MomentScales, name, Element::F32, &[blocks]))
        });
        Self { settings, runs: table.decay_runs(), first_moments, second_moments, scales }
    }

    /// Update number `step` (from 1) of all parameters, with the clip factor in `state`.
    ///
    /// # Panics
    /// If the model was planned without gradients.
    pub fn update<B: Backend>(
        &self,
        backend: &mut B,
        model: &Llama,
        state: View,
        learning_rate: f64,
        step: u64,
    ) {
        let Some(gradients) = model.gradients() else {
            panic!("planned for inference: no gradients to update from")
        };
        for (range, decay) in &self.runs {
            let blocks = range.start / MOMENT_BLOCK..range.end.div_ceil(MOMENT_BLOCK);
            backend.adamw(Adamw {
                parameters: model.weights().slice(range.clone()),
                remainder: model.remainders.map(|view| view.slice(range.clone())),
                scales: self.scales.map(|views| views.map(|view| view.slice(blocks.clone()))),
                gradients: gradients.slice(range.clone()),
                first_moment: self.first_moments.slice(range.clone()),
                second_moment: self.second_moments.slice(range.clone()),
                state,
                learning_rate,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                epsilon: self.settings.epsilon,
                weight_decay: if *decay { self.settings.weight_decay } else { 0.0 },
                step,
                seed: self.settings.seed,
            });
        }
    }
}
