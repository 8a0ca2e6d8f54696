//! AdamW over the flat arenas: which runs of parameters decay, the moments beside them, and the moments in and out of a
//! checkpoint, where they are f32 whatever the device keeps.

use std::ops::Range;

use half::bf16;

use super::codes::{Codes, Sign};
use crate::backend::{Adamw, Backend, BackendError, Element, MOMENT_BLOCK, View};
use crate::model::{Llama, OptimizerState, Parameter, ParameterTable, Precision, Run};
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

/// One of the two running means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Of the gradient.
    First,
    /// Of its square.
    Second,
}

/// The optimizer: settings, and views of its state.
#[derive(Clone, Debug)]
pub struct AdamwOptimizer {
    settings: AdamwSettings,
    runs: Vec<Run>,
    /// Weights that are not updated whatever the runs.
    left_out: Option<Range<usize>>,
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
        Self {
            settings,
            runs: table.runs(|_, _| Some(0)),
            left_out: None,
            first_moments,
            second_moments,
            scales,
        }
    }

    /// Updates these runs of parameters from now on, but for what is [left out](Self::leave_out).
    pub fn learn(&mut self, runs: Vec<Run>) {
        let Some(out) = self.left_out.clone() else {
            self.runs = runs;
            return;
        };
        let around = |run: Run| {
            let Range { start, end } = run.range.clone();
            let rest = [start..end.min(out.start), start.max(out.end)..end];
            rest.map(|range| Run { range, ..run.clone() })
        };
        self.runs = runs.into_iter().flat_map(around).filter(|run| !run.range.is_empty()).collect();
    }

    /// Leaves these weights as they are, without decay either: a whole parameter that no gradient reaches.
    pub fn leave_out(&mut self, weights: View) {
        self.left_out = Some(weights.offset..weights.offset + weights.len);
        self.learn(self.runs.clone());
    }

    /// Update number `step` (from 1) of all parameters that are learnt, with the clip factor in `state`. A parameter that was
    /// frozen for a while counts its own updates, as PyTorch's does without a gradient: its moments are those it had, and its bias
    /// corrections are those of as many updates as it has seen.
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
        for Run { range, decay, missed } in &self.runs {
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
                step: step - missed,
                seed: self.settings.seed,
            });
        }
    }

    /// Fills `out` with a moment's elements from `start` on, counted in the flat arena. What the device keeps in fewer bits
    /// is given exactly.
    pub fn read_moment<B: Backend>(
        &self,
        backend: &mut B,
        moment: Moment,
        start: usize,
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        let range = start..start + out.len();
        let view = self.view(moment).slice(range.clone());
        match view.element {
            Element::Bf16 => {
                let mut values = vec![bf16::ZERO; out.len()];
                backend.read(view, &mut values)?;
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_f32());
            }
            Element::U8 => {
                let mut codes = vec![0u8; out.len()];
                backend.read(view, &mut codes)?;
                let first_block = start / MOMENT_BLOCK;
                let mut scales = vec![0.0f32; range.end.div_ceil(MOMENT_BLOCK) - first_block];
                backend
                    .read(self.scales(moment).slice(first_block..first_block + scales.len()), &mut scales)?;
                let map = Codes::new(moment.sign());
                for ((out, code), index) in out.iter_mut().zip(codes).zip(range) {
                    *out = map.dequantise(code, scales[index / MOMENT_BLOCK - first_block]);
                }
            }
            _ => backend.read(view, out)?,
        }
        Ok(())
    }

    /// Sets a moment of all parameters, which `read` fills in one after the other in the order of the table. What came from
    /// [`AdamwOptimizer::read_moment`] of the same format becomes the same bits again; other values are rounded to nearest.
    ///
    /// Parameters that lie side by side share blocks of 8-bit moments, so what is written is whole blocks, and a parameter's
    /// end waits for the next one.
    pub fn write_moment<B: Backend, E>(
        &self,
        backend: &mut B,
        table: &ParameterTable,
        moment: Moment,
        mut read: impl FnMut(&Parameter, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Read but not yet written: elements `start..start + values.len()`.
        let (mut start, mut values) = (0, Vec::new());
        for parameter in table.iter() {
            // What lies between two parameters is zero.
            values.resize(parameter.offset - start, 0.0f32);
            let own = values.len();
            values.resize(own + parameter.elements(), 0.0);
            read(parameter, &mut values[own..])?;
            let whole = values.len() / MOMENT_BLOCK * MOMENT_BLOCK;
            self.write_blocks(backend, moment, start, &values[..whole]);
            values.drain(..whole);
            start += whole;
        }
        self.write_blocks(backend, moment, start, &values);
        Ok(())
    }

    /// Writes a moment's elements from `start` on, the start of a block; the last block may end early.
    fn write_blocks<B: Backend>(&self, backend: &mut B, moment: Moment, start: usize, values: &[f32]) {
        let view = self.view(moment).slice(start..start + values.len());
        match view.element {
            Element::Bf16 => {
                backend.write(view, &values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>());
            }
            Element::U8 => {
                let map = Codes::new(moment.sign());
                let mut codes = vec![0u8; values.len()];
                let blocks = values.chunks(MOMENT_BLOCK).zip(codes.chunks_mut(MOMENT_BLOCK));
                let scales: Vec<f32> = blocks.map(|(values, codes)| map.quantise(values, codes)).collect();
                backend.write(view, &codes);
                let first_block = start / MOMENT_BLOCK;
                backend.write(self.scales(moment).slice(first_block..first_block + scales.len()), &scales);
            }
            _ => backend.write(view, values),
        }
    }

    fn view(&self, moment: Moment) -> View {
        match moment {
            Moment::First => self.first_moments,
            Moment::Second => self.second_moments,
        }
    }

    fn scales(&self, moment: Moment) -> View {
        let scales = self.scales.expect("planned together with u8 moments");
        scales[moment as usize]
    }
}

impl Moment {
    fn sign(self) -> Sign {
        match self {
            Moment::First => Sign::Signed,
            Moment::Second => Sign::Unsigned,
        }
    }
}
