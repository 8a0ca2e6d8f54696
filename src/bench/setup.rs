//! From a workload to a trainer with random weights, by the way that `asft train` takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::{BenchError, Shape, Workload, weights};
use crate::backend::Backend;
use crate::config::{
    DataArguments, DeviceArguments, ModelArguments, ObjectiveArguments, OptimizerArguments, RunArguments,
    ScheduleArguments, TrainArguments, TrainConfig,
};
use crate::data::Loader;
use crate::eval::{Scorer, Silent};
use crate::objective::{self, Parameters};
use crate::train::{InferenceLayout, Prepared, Target, Trainer};

/// Learning rate of all measured steps; it decides no time.
const LEARNING_RATE: f64 = 1e-6;
/// Of weights and tokens.
const SEED: u64 = 20_241;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub shape: Shape,
    /// The objective's name, with its default parameters.
    pub objective: String,
    /// The pairs of every step.
    pub workload: Workload,
    /// Device, formats, recompute level and bounds, as for `asft train`.
    pub device: DeviceArguments,
    /// Optimizer steps that will be taken.
    pub steps: usize,
}

/// Everything up to the first step.
pub struct Setup<B: Backend> {
    /// What was planned.
    pub prepared: Prepared,
    /// With weights on the device.
    pub trainer: Trainer<B>,
    /// Seconds of the pass that scored the reference log-probs, where the objective needs them.
    pub reference_seconds: Option<f64>,
    /// Bytes free on the device before anything was taken.
    pub free_before: Option<u64>,
    /// The learning rate of the steps.
    pub learning_rate: f64,
}

impl Request {
    /// The settings of the run that is measured, as `asft train` would have resolved them.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn config(&self, folder: &Path) -> Result<TrainConfig, BenchError> {
        let integer = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let arguments = TrainArguments {
            model: ModelArguments { init: Some(folder.join("config.json")), ..ModelArguments::default() },
            data: DataArguments {
                data: Some(vec![folder.join("pairs.jsonl")]),
                max_length: Some(integer(self.workload.longest().max(2))),
                no_cache: Some(true),
                no_shuffle: Some(true),
                ..DataArguments::default()
            },
            objective: ObjectiveArguments {
                objective: Some(self.objective.clone()),
                parameters: Parameters::default(),
                reference: None,
                reference_mode: None,
                reference_cache: Some(folder.join("reference")),
            },
            optimizer: OptimizerArguments {
                batch_size: Some(integer(self.workload.lengths.len())),
                learning_rate: Some(LEARNING_RATE),
                ..OptimizerArguments::default()
            },
            schedule: ScheduleArguments {
                max_steps: Some(integer(self.steps)),
                ..ScheduleArguments::default()
            },
            run: RunArguments { output: Some(folder.join("run")), ..RunArguments::default() },
            device: self.device.clone(),
            ..TrainArguments::default()
        };
        Ok(arguments.resolve(|_| Some(LEARNING_RATE))?)
    }

    /// Plans and allocates the run on a backend and gives it weights.
    ///
    /// # Errors
    /// What would keep `asft train` from starting: settings, memory, the device.
    pub fn set_up<B: Backend>(&self, mut backend: B) -> Result<Setup<B>, BenchError> {
        let folder = TempDir::new()?;
        let config = Value::Object(self.shape.config_json(self.workload.longest()));
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        let pairs = self.workload.to_jsonl(self.shape.vocabulary, SEED);
        std::fs::write(folder.path().join("pairs.jsonl"), pairs)?;
        let config = self.config(folder.path())?;
        let free_before = backend.available_memory();
        let mut prepared = Prepared::new(&config, Target::of(&backend), &mut Silent)?;
        let reference_seconds = if prepared.objective.needs_reference() {
            Some(score_reference(&mut prepared, &mut backend)?)
        } else {
            None
        };
        let objective = objective::build(&config.objective.name, &config.objective.parameters)
            .map_err(crate::train::TrainError::from)?;
        let mut trainer = prepared.layout.trainer(backend, objective, config.optimizer.max_grad_norm)?;
        weights::fill(&trainer.model, &mut trainer.backend, SEED);
        Ok(Setup { prepared, trainer, reference_seconds, free_before, learning_rate: LEARNING_RATE })
    }
}

/// Fills in the reference log-probs under the same weights, as [`crate::train::reference`] does, and says how long the pass
/// took. It is taken twice: the first time pays for what is set up once.
fn score_reference<B: Backend>(prepared: &mut Prepared, backend: &mut B) -> Result<f64, BenchError> {
    let (budget, workspace) = (prepared.layout.activations.budget, prepared.target.workspace());
    let layout = InferenceLayout::new(&prepared.model, budget, prepared.precision, workspace);
    layout.allocate(backend)?;
    weights::fill(&layout.model, backend, SEED);
    let (model, activations) = (&layout.model, &layout.activations);
    let need = prepared.objective.reference();
    let data = Arc::make_mut(&mut prepared.train);
    let mut scorer = Scorer { backend, model, activations, progress: &mut Silent };
    scorer.references("warm-up", &data.groups, need)?;
    let start = Instant::now();
    scorer.add_references("reference log-probs", &mut data.groups, need)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(seconds)
}

impl<B: Backend> Setup<B> {
    /// The steps of the run, packed ahead on a thread as in training.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn loader(&self) -> Result<Loader, BenchError> {
        let prepared = &self.prepared;
        Ok(Loader::new(prepared.train.clone(), prepared.loader.clone(), 1, prepared.steps)?)
    }
}
