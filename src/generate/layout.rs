//! Where everything of a generation lies: model, activations and cache, with as many sequences side by side as memory allows.

use super::{Cache, GenerateError};
use crate::backend::{Backend, BackendError, DeviceKind, Element};
use crate::config::FormatConfig;
use crate::model::{Activations, Budget, Llama, LlamaConfig, Rungs};
use crate::plan::MemoryPlan;
use crate::train::{InferenceLayout, Target};

/// Sequences side by side unless something else is asked for: beyond it the weights' share of the traffic is small.
const SEQUENCES: usize = 64;

/// What is to be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Prompts.
    pub prompts: usize,
    /// Tokens of the longest.
    pub longest_prompt: usize,
    /// Tokens of all.
    pub prompt_tokens: usize,
    /// Answers to each prompt.
    pub samples: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Most sequences side by side; `None`: by memory.
    pub sequences: Option<usize>,
}

/// The plan and the views that came from it.
#[derive(Clone, Debug)]
pub struct GenerationLayout {
    /// Every tensor.
    pub plan: MemoryPlan,
    /// Weights and constants.
    pub model: Llama,
    /// What a batch touches.
    pub activations: Activations,
    /// Keys and values.
    pub cache: Cache,
    /// Sequences that are decoded side by side at most.
    pub sequences: usize,
}

impl GenerationLayout {
    /// The layout with the most sequences side by side that fits in the target's memory. Logits are f32 unless the formats
    /// say otherwise: the choice between two nearly equal tokens is made on them.
    ///
    /// # Errors
    /// A format or a model that the device cannot do; a plan that is too large even for one sequence.
    pub fn fit(
        config: &LlamaConfig,
        target: Target,
        formats: FormatConfig,
        demand: Demand,
    ) -> Result<Self, GenerateError> {
        target.check(config)?;
        let logits = formats.head_logits.or(Some(Element::F32));
        let formats = FormatConfig { head_logits: logits, ..formats };
        let precision = target.precision(formats)?;
        let mut sequences = demand.sequences.unwrap_or(SEQUENCES).min(demand.prompts * demand.samples).max(1);
        loop {
            let budget = demand.budget(config, target, sequences);
            let InferenceLayout { mut plan, model, activations } =
                InferenceLayout::new(config, budget, precision, target.workspace());
            let rows = demand.cache_rows(sequences, budget.positions);
            let cache = Cache::plan(&mut plan, config, rows, budget.tokens, precision.storage);
            let (needed, free) = (plan.total_bytes() as u64, target.memory.unwrap_or(u64::MAX));
            if needed <= free {
                return Ok(Self { plan, model, activations, cache, sequences });
            }
            if sequences == 1 {
                let token_bytes = cache.token_bytes() as u64;
                let tokens = budget.positions;
                return Err(GenerateError::Memory { needed, available: free, token_bytes, tokens });
            }
            sequences /= 2;
        }
    }

    /// Takes the memory and writes the constants.
    ///
    /// # Errors
    /// A device without room.
    pub fn allocate<B: Backend>(&self, backend: &mut B) -> Result<(), BackendError> {
        self.plan.allocate(backend)?;
        self.model.write_constants(backend);
        Ok(())
    }
}

impl Demand {
    /// What a pass holds at most.
    fn budget(&self, config: &LlamaConfig, target: Target, sequences: usize) -> Budget {
        // Prompt tokens computed at a time, and the sizes that passes are rounded up to: a decoding pass is small, and
        // rounding it up as far as training does would cost more than the sizes that it saves.
        let (prompt_tokens, rungs) = match target.kind {
            DeviceKind::Cpu => (512, Rungs::NONE),
            DeviceKind::Cuda => (2048, Rungs { tokens: 16, rows: 16 }),
        };
        let tokens = prompt_tokens.min(self.prompt_tokens).max(sequences).max(1);
        let positions = (self.longest_prompt + self.max_new_tokens).min(config.max_position_embeddings);
        Budget { tokens, rows: sequences, head_rows: sequences, positions, rungs, mixed: false }
    }

    /// Tokens that the longest sequences would keep in the cache, prompts counted once for their samples.
    fn cache_rows(&self, sequences: usize, positions: usize) -> usize {
        let prompts = sequences.div_ceil(self.samples.max(1)).min(self.prompts).max(1);
        let answer = self.max_new_tokens.min(positions);
        (prompts * self.longest_prompt + sequences * answer).max(positions)
    }
}
