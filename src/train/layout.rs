//! Where everything of a run lies: the memory plan of training, made from configuration and budget alone.

use crate::backend::{Backend, BackendError, Element, NORM_BLOCK, STEP_STATE_LEN, View};
use crate::generate::{Cache, CacheSize};
use crate::model::{
    Activations, Budget, Llama, LlamaConfig, MixedInputs, Precision, Purpose, Recompute, Use,
};
use crate::objective::{Inputs, Objective};
use crate::optim::{AdamwOptimizer, AdamwSettings};
use crate::plan::{Arena, MemoryPlan, allocate, total_bytes};
use crate::train::Trainer;

/// What decides a layout beside the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayoutSettings {
    /// The largest micro-batch.
    pub budget: Budget,
    /// AdamW's.
    pub optimizer: AdamwSettings,
    /// Number formats.
    pub precision: Precision,
    /// What is not kept for the backward pass.
    pub recompute: Recompute,
    /// Room for sampled answers, if any are wanted.
    pub cache: Option<CacheSize>,
    /// Bytes for matrix products to work in.
    pub workspace: usize,
    /// What the objective gives the model for the tokens.
    pub inputs: Inputs,
}

impl LayoutSettings {
    /// Everything in f32, all activations kept, nothing sampled: the CPU's.
    pub fn f32(budget: Budget, optimizer: AdamwSettings) -> Self {
        let (precision, recompute) = (Precision::F32, Recompute::Nothing);
        let inputs = Inputs::TOKENS;
        Self { budget, optimizer, precision, recompute, cache: None, workspace: 0, inputs }
    }
}

/// The plan and the views that came from it.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What decided it.
    pub settings: LayoutSettings,
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
    /// Reference models that stay beside the policy.
    pub references: Vec<InferenceLayout>,
}

impl Layout {
    /// The layout of a training run.
    pub fn new(config: &LlamaConfig, settings: LayoutSettings) -> Self {
        let LayoutSettings { budget, optimizer, precision, recompute, cache, workspace, inputs } = settings;
        let mut plan = MemoryPlan::default();
        let mut model = Llama::plan(&mut plan, config, budget.positions, precision, Use::Training);
        let mut optimizer = AdamwOptimizer::plan(&mut plan, &model.table, optimizer, precision);
        if !inputs.train_embedding {
            model.embedding_gradient = None;
            if !config.tie_word_embeddings {
                optimizer.leave_out(model.embedding);
            }
        }
        let state = plan.add(Arena::Constants, "step state", Element::F64, &[STEP_STATE_LEN]);
        let blocks = model.table.arena_elements().div_ceil(NORM_BLOCK);
        let norm_partial =
            plan.add(Arena::Constants, "gradient norm's partial sums", Element::F64, &[blocks]);
        let purpose = Purpose::Training(recompute);
        let mut activations = Activations::plan(&mut plan, config, budget, precision, purpose);
        activations.mixed_inputs = MixedInputs::plan(&mut plan, budget, inputs);
        let tokens = activations.budget.tokens;
        let cache = cache.map(|size| Cache::plan(&mut plan, config, size.rows(), tokens, precision.storage));
        plan_workspace(&mut plan, workspace);
        let references = Vec::new();
        Self { settings, plan, model, activations, optimizer, state, norm_partial, cache, references }
    }

    /// The same with reference models of these sizes that stay on the device and score every micro-batch.
    pub fn beside(mut self, references: &[LlamaConfig]) -> Self {
        let LayoutSettings { budget, precision, workspace, .. } = self.settings;
        let layout = |(index, config): (usize, &LlamaConfig)| {
            InferenceLayout::in_plan(MemoryPlan::beside(index), config, budget, precision, workspace)
        };
        self.references = references.iter().enumerate().map(layout).collect();
        self
    }

    /// The plans of all models.
    fn plans(&self) -> impl Iterator<Item = &MemoryPlan> {
        std::iter::once(&self.plan).chain(self.references.iter().map(|reference| &reference.plan))
    }

    /// Bytes of an arena: of the policy's own, or of what it shares with the reference models that stay beside it.
    pub fn bytes(&self, arena: Arena) -> usize {
        match arena.is_of_each_model() {
            true => self.plan.bytes(arena),
            false => self.plans().map(|plan| plan.bytes(arena)).max().unwrap_or(0),
        }
    }

    /// Bytes of an arena that each reference model beside the policy has of its own.
    pub fn reference_bytes(&self, arena: Arena) -> usize {
        self.references.iter().map(|reference| reference.plan.bytes(arena)).sum()
    }

    /// Bytes of everything.
    pub fn total_bytes(&self) -> usize {
        total_bytes(self.plans())
    }

    /// Bytes of the activations that would be kept for the backward pass at another level of recomputing.
    pub fn kept_at(&self, recompute: Recompute) -> usize {
        let settings = LayoutSettings { recompute, ..self.settings };
        Self::new(&self.model.config, settings).plan.bytes(Arena::Saved)
    }

    /// Takes the memory and writes the constants; the weights are whatever the caller loads.
    pub fn trainer<B: Backend>(
        &self,
        mut backend: B,
        objective: Box<dyn Objective>,
        max_grad_norm: Option<f64>,
    ) -> Result<Trainer<B>, BackendError> {
        allocate(self.plans(), &mut backend)?;
        for model in std::iter::once(&self.model).chain(self.references.iter().map(|r| &r.model)) {
            model.write_constants(&mut backend);
        }
        Ok(Trainer {
            backend,
            model: self.model.clone(),
            activations: self.activations.clone(),
            references: self.references.clone(),
            optimizer: self.optimizer.clone(),
            objective,
            max_grad_norm,
            state: self.state,
            norm_partial: self.norm_partial,
            measures_logits: false,
            skipped: 0,
            half: None,
        })
    }
}

fn plan_workspace(plan: &mut MemoryPlan, bytes: usize) {
    if bytes > 0 {
        plan.add(Arena::Workspace, Arena::Workspace.title(), Element::U8, &[bytes]);
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
    pub fn new(config: &LlamaConfig, budget: Budget, precision: Precision, workspace: usize) -> Self {
        Self::in_plan(MemoryPlan::default(), config, budget, precision, workspace)
    }

    fn in_plan(
        mut plan: MemoryPlan,
        config: &LlamaConfig,
        budget: Budget,
        precision: Precision,
        workspace: usize,
    ) -> Self {
        let model = Llama::plan(&mut plan, config, budget.positions, precision, Use::Inference);
        let activations = Activations::plan(&mut plan, config, budget, precision, Purpose::Inference);
        plan_workspace(&mut plan, workspace);
        Self { plan, model, activations }
    }

    /// Takes the memory and writes the constants.
    pub fn allocate<B: Backend>(&self, backend: &mut B) -> Result<(), BackendError> {
        self.plan.allocate(backend)?;
        self.model.write_constants(backend);
        Ok(())
    }
}
