//! The search for micro-batches and a recompute level whose memory plan fits.
//!
//! Boundary: sizes only. Where nothing fits, [`super::shortfall`] looks for other settings.

use std::borrow::Cow;
use std::sync::Arc;

use super::prepare::{adamw, sample_length};
use super::shortfall::Shortfall;
use super::{Layout, LayoutSettings, Target, TrainError};
use crate::backend::DeviceKind;
use crate::config::TrainConfig;
use crate::data::{Dataset, Extent, Group, Halves, Loader, LoaderConfig, Role, Roles, Spans};
use crate::eval::largest;
use crate::generate::CacheSize;
use crate::model::{Budget, LlamaConfig, Precision, Recompute};
use crate::objective::Inputs;

/// Tokens of a micro-batch unless something else is asked for: enough for full speed, few enough that activations stay
/// small beside the weights.
const CPU_TOKENS: usize = 2048;
/// As above. A GPU is at full speed with a quarter of it, but adds every micro-batch to f32 gradients.
const GPU_TOKENS: usize = 16384;
/// Tokens of a micro-batch on a GPU below which recomputing costs less than small products do.
const GPU_LEAST_TOKENS: usize = 4096;
/// Rows of logits at a time, at least.
const HEAD_ROWS: usize = 1024;
/// Bytes of logits above which a unit is scored twice rather than held whole.
const LARGEST_LOGITS: usize = 2 << 30;

/// A run for which memory is to be found.
#[derive(Clone)]
pub(super) struct Fitting<'a> {
    pub config: &'a TrainConfig,
    pub model: &'a LlamaConfig,
    /// Reference models that stay on the device.
    pub references: &'a [LlamaConfig],
    pub target: Target,
    /// The objective's.
    pub inputs: Inputs,
    pub demand: Demand<'a>,
}

/// The sequences of a run.
#[derive(Clone)]
pub(super) enum Demand<'a> {
    /// Those of its data.
    Data {
        train: Arc<Dataset>,
        held_out: Cow<'a, [Group]>,
        /// Its budget is what is looked for.
        loader: LoaderConfig,
        steps: usize,
    },
    /// Not known yet: pairs of the full `--max-length`, every token scored, as many as a micro-batch may have.
    Unknown {
        /// Whether rows are mixed.
        mixed: bool,
    },
}

/// The settings that decide how large a plan is, beside model and data.
#[derive(Clone, Copy)]
pub(super) struct Knobs {
    /// `--max-tokens-per-batch`.
    pub tokens: Option<usize>,
    /// Prescribed micro-batches of a step, which are not to be cut any further.
    pub parts: Option<usize>,
    /// `--recompute`.
    pub recompute: Option<Recompute>,
    /// `--head-rows`.
    pub head_rows: Option<usize>,
    /// `--sample-answers`.
    pub samples: usize,
    pub precision: Precision,
}

/// What any plan must hold.
pub(super) struct Needs {
    /// Tokens of the largest group, or of the two largest that are mixed.
    pub tokens: usize,
    /// Scored tokens of the same, and of their mixture.
    rows: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    cache: Option<CacheSize>,
}

/// A plan, whether it fits or not.
pub(super) struct Fitted {
    /// Bound on a micro-batch's tokens; 0 for none.
    pub token_budget: usize,
    /// Rows of logits at a time, before they are bounded by the rows that there are: those depend on how long the run
    /// is, and a run that is made longer must keep to the same chunks.
    pub head_rows: usize,
    /// What the micro-batches come to.
    pub extent: Extent,
    pub layout: Layout,
}

impl Fitting<'_> {
    /// The fastest plan that fits; where none does, the smallest, and by how much it is too large.
    pub fn choose(&self, precision: Precision) -> Result<(Fitted, Option<Shortfall>), TrainError> {
        let config = self.config;
        let knobs = Knobs {
            tokens: config.device.max_tokens_per_batch,
            parts: config.batch.parts,
            recompute: config.device.recompute,
            head_rows: config.device.head_rows,
            samples: config.evaluation.sample_answers,
            precision,
        };
        let needs = self.needs(knobs)?;
        let positions = self.model.max_position_embeddings;
        if matches!(self.demand, Demand::Data { .. }) && needs.longest > positions {
            return Err(TrainError::TooLong { longest: needs.longest, positions });
        }
        let mut smallest = None;
        for (tokens, recompute) in self.sizes(knobs, &needs).tries(knobs.recompute) {
            let fitted = self.attempt(knobs, &needs, tokens, recompute)?;
            if self.fits(fitted.bytes()) {
                tracing::debug!("micro-batches of {tokens} tokens, recompute {}", recompute.name());
                return Ok((fitted, None));
            }
            smallest = Some(fitted);
        }
        let smallest = smallest.unwrap_or_else(|| unreachable!("there is at least one try"));
        let shortfall = self.shortfall(knobs, &needs, &smallest)?;
        Ok((smallest, Some(shortfall)))
    }

    /// Bytes of the smallest plan under these settings.
    pub fn least_bytes(&self, knobs: Knobs) -> Result<u64, TrainError> {
        let needs = self.needs(knobs)?;
        let tries = self.sizes(knobs, &needs).tries(knobs.recompute);
        let (tokens, recompute) =
            tries.last().copied().unwrap_or_else(|| unreachable!("there is at least one try"));
        Ok(self.attempt(knobs, &needs, tokens, recompute)?.bytes())
    }

    /// Whether the target has so much memory.
    pub fn fits(&self, bytes: u64) -> bool {
        self.target.memory.is_none_or(|free| bytes <= free)
    }

    pub fn needs(&self, knobs: Knobs) -> Result<Needs, TrainError> {
        let (train, held_out, loader) = match &self.demand {
            Demand::Data { train, held_out, loader, .. } => (train, held_out, loader),
            Demand::Unknown { mixed } => {
                let longest = self.config.data.max_length;
                let rows = if *mixed { with_mixtures(2 * longest) } else { 2 * longest };
                return Ok(Needs { tokens: 2 * longest, rows, longest, cache: None });
            }
        };
        let spans = Spans { answers: Roles::ALL, ..loader.spans };
        let (mut tokens, mut rows, longest) = largest(&train.groups, spans);
        if let Some((mixing, halves)) = loader.mixing.zip(Halves::of(&train.groups)) {
            let (pair_tokens, pair_rows) = halves.largest(&train.groups, loader.spans, mixing.of);
            (tokens, rows) = (tokens.max(pair_tokens), rows.max(pair_rows));
        }
        let (eval_tokens, eval_rows, eval_longest) = largest(held_out, spans);
        Ok(Needs {
            tokens: tokens.max(eval_tokens),
            rows: rows.max(eval_rows),
            longest: longest.max(eval_longest),
            cache: self.cache(held_out, knobs.samples),
        })
    }

    /// Room for the sampled answers: the longest prompt among them, and the longest answer expected.
    fn cache(&self, held_out: &[Group], samples: usize) -> Option<CacheSize> {
        let sampled = &held_out[..samples.min(held_out.len())];
        let prompt = sampled.iter().map(|group| group.context(Role::Chosen).len()).max()?;
        let length = (prompt + sample_length(sampled)).min(self.model.max_position_embeddings);
        Some(CacheSize { sequences: sampled.len(), length })
    }

    /// Whether rows are mixed.
    fn mixed(&self) -> bool {
        match &self.demand {
            Demand::Data { loader, .. } => loader.mixing.is_some(),
            Demand::Unknown { mixed } => *mixed,
        }
    }

    fn sizes(&self, knobs: Knobs, needs: &Needs) -> Sizes {
        match (knobs.tokens, knobs.parts, &self.demand) {
            (Some(tokens), ..) => Sizes::only(tokens),
            (None, Some(_), Demand::Data { .. }) => Sizes::only(0),
            (None, ..) => Sizes::of(self.target, needs.tokens),
        }
    }

    /// The plan of micro-batches of at most `token_budget` tokens (0 for no bound).
    fn attempt(
        &self,
        knobs: Knobs,
        needs: &Needs,
        token_budget: usize,
        recompute: Recompute,
    ) -> Result<Fitted, TrainError> {
        let extent = match &self.demand {
            Demand::Data { train, loader, steps, .. } => {
                let loader = LoaderConfig { token_budget, parts: knobs.parts, ..loader.clone() };
                Loader::measure(train.clone(), loader, 1, *steps)?
            }
            Demand::Unknown { mixed } => {
                let rows = if *mixed { with_mixtures(token_budget) } else { token_budget };
                Extent { tokens: token_budget, rows, ..Extent::default() }
            }
        };
        let (tokens, rows) = (extent.tokens.max(needs.tokens), extent.rows.max(needs.rows));
        let head_rows = head_rows(knobs, self.model, needs.rows);
        let budget = Budget {
            tokens,
            rows,
            head_rows: head_rows.min(rows).max(1),
            positions: needs.longest.max(needs.cache.map_or(0, |cache| cache.length)),
            rungs: self.target.rungs(tokens, head_rows.min(rows)),
            mixed: self.mixed(),
        };
        let settings = LayoutSettings {
            budget,
            optimizer: adamw(self.config),
            precision: knobs.precision,
            recompute,
            cache: needs.cache,
            workspace: self.target.workspace(),
            inputs: self.inputs,
        };
        let layout = Layout::new(self.model, settings).beside(self.references);
        Ok(Fitted { token_budget, head_rows, extent, layout })
    }
}

impl Fitted {
    /// Bytes of everything.
    pub fn bytes(&self) -> u64 {
        self.layout.total_bytes() as u64
    }
}

/// So many response rows with those of their mixtures: one for two, if both answers are as long.
fn with_mixtures(rows: usize) -> usize {
    rows + rows / 2
}

/// Rows of logits at a time: as asked for, else enough for the largest unit, within bounds.
fn head_rows(knobs: Knobs, model: &LlamaConfig, largest_unit: usize) -> usize {
    let affordable = (LARGEST_LOGITS / (model.vocab_size * knobs.precision.storage.bytes())).max(HEAD_ROWS);
    knobs.head_rows.unwrap_or(HEAD_ROWS.max(largest_unit.min(affordable)))
}

/// Token budgets worth trying.
struct Sizes {
    /// The first try.
    most: usize,
    /// As far as it pays to go before more is recomputed.
    fast: usize,
    /// As far as it is possible to go.
    least: usize,
}

impl Sizes {
    /// One size and no other.
    fn only(tokens: usize) -> Self {
        Self { most: tokens, fast: tokens, least: tokens }
    }

    /// From what is fast on the target down to its largest group.
    fn of(target: Target, largest_group: usize) -> Self {
        let (most, fast) = match target.kind {
            DeviceKind::Cpu => (CPU_TOKENS, largest_group),
            DeviceKind::Cuda => (GPU_TOKENS, GPU_LEAST_TOKENS),
        };
        Self { most: most.max(largest_group), fast: fast.max(largest_group), least: largest_group }
    }

    /// Token budget and recompute level, the fastest first and the smallest last.
    fn tries(&self, level: Option<Recompute>) -> Vec<(usize, Recompute)> {
        let levels = level.map_or(Recompute::ALL.to_vec(), |level| vec![level]);
        let halved = |from: usize, to: usize| {
            std::iter::successors(Some(from), move |&tokens| (tokens > to).then(|| (tokens / 2).max(to)))
        };
        let fast = levels.iter().flat_map(|&level| halved(self.most, self.fast).map(move |t| (t, level)));
        let slow = levels
            .last()
            .into_iter()
            .flat_map(|&level| halved(self.fast, self.least).skip(1).map(move |tokens| (tokens, level)));
        fast.chain(slow).collect()
    }
}
