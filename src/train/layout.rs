//! Where everything of a run lies: the memory plan of training, made from configuration and budget alone.

use crate::backend::{Backend, BackendError, Element, NORM_BLOCK, STEP_STATE_LEN, View};
use crate::generate::Cache;
use crate::model::{Activations, Budget, Llama, LlamaConfig, Purpose};
use crate::objective::Objective;
use crate::optim::{AdamwOptimizer, AdamwSettings};
use crate::plan::{Arena, MemoryPlan};
use crate::train::Trainer;

/// Sequences that are answered side by side, and how long they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
}

/// The plan and the views that came from it.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Every tensor.
    pub plan: MemoryPlan,
    /// Weights, gradients, constants.
    pub model: Llama,
    /// What a micro-batch touches.
    pub activations: Activations,
    /// AdamW's moments.
    pub optimizer: AdamwOptimizer,
    /// The step's state.
    pub state: View,
    /// Room for the gradient norm's partial sums.
    pub norm_partial: View,
    /// Keys and values for sampled answers, if any are wanted.
    pub cache: Option<Cache>,
}

impl Layout {
    /// The layout of a training run.
    pub fn new(
        config: &LlamaConfig,
        budget: Budget,
        optimizer: AdamwSettings,
        cache: Option<CacheSize>,
    ) -> Self {
        let mut plan = MemoryPlan::default();
        let model = Llama::plan(&mut plan, config, budget.positions, true);
        let optimizer = AdamwOptimizer::plan(&mut plan, &model.table, optimizer);
        let state = plan.add(Arena::Constants, "step state", Element::F64, &[STEP_STATE_LEN]);
        let blocks = model.table.arena_elements().div_ceil(NORM_BLOCK);
        let norm_partial =
            plan.add(Arena::Constants, "gradient norm's partial sums", Element::F64, &[blocks]);
        let activations = Activations::plan(&mut plan, config, budget, Purpose::Training);
        let cache =
            cache.map(|size| Cache::plan(&mut plan, config, size.sequences, size.length, budget.tokens));
        Self { plan, model, activations, optimizer, state, norm_partial, cache }
    }

    /// Takes the memory and writes the constants; the weights are whatever the caller loads.
    pub fn trainer<B: Backend>(
        &self,
        mut backend: B,
        objective: Box<dyn Objective>,
        max_grad_norm: Option<f64>,
    ) -> Result<Trainer<B>, BackendError> {
        self.plan.allocate(&mut backend)?;
        self.model.write_constants(&mut backend);
        Ok(Trainer {
            backend,
            model: self.model.clone(),
            activations: self.activations.clone(),
            optimizer: self.optimizer.clone(),
            objective,
            max_grad_norm,
            state: self.state,
            norm_partial: self.norm_partial,
        })
    }
}

/// The plan and the views of a model that only scores.
#[derive(Clone, Debug)]
pub struct InferenceLayout {
    /// Every tensor.
    pub plan: MemoryPlan,
    /// Weights and constants.
    pub model: Llama,
    /// What a batch touches.
    pub activations: Activations,
}

impl InferenceLayout {
    /// The layout of a forward-only run.
    pub fn new(config: &LlamaConfig, budget: Budget) -> Self {
        let mut plan = MemoryPlan::default();
        let model = Llama::plan(&mut plan, config, budget.positions, false);
        let activations = Activations::plan(&mut plan, config, budget, Purpose::Inference);
        Self { plan, model, activations }
    }

    /// Takes the memory and writes the constants.
    pub fn allocate<B: Backend>(&self, backend: &mut B) -> Result<(), BackendError> {
        self.plan.allocate(backend)?;
        self.model.write_constants(backend);
        Ok(())
    }
}
