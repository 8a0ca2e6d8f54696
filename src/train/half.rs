//! Half Fine-Tuning (HFT, arXiv 2404.18466): about half of the parameters stay as they are, and every round draws another half.
//!
//! In every layer two of the four attention matrices (q, k, v, o) are frozen; of the feed-forward's three (gate, up, down)
//! two in half of the layers (rounded down) and one in the others; one of the two norms. Embeddings, head and the last norm are
//! always learnt. The paper says "half of the norms" and draws each round (an epoch, or a stage of training) anew; which half a
//! round freezes is a function of the seed and the round alone.
//!
//! A frozen matrix costs no weight-gradient product. It keeps its bits (no weight decay either) and counts nothing towards the
//! gradient norm. Its moments stay as they are, and when it is learnt again AdamW goes on from them with bias corrections of as
//! many updates as it has seen: what `torch.optim.AdamW` does with parameters that have no gradient for a while.

use crate::backend::{Backend, MOMENT_BLOCK, View};
use crate::data::order::{HALF_STREAM, permutation};
use crate::model::{Frozen, Llama, LlamaConfig, OptimizerState, Parameter, ParameterTable};
use crate::optim::AdamwOptimizer;
use crate::train::TrainError;

/// Streams of a round: one that says which layers freeze two of the feed-forward's matrices, three for each layer. There are
/// more than a model can have layers.
const STREAMS: u64 = 1 << 20;

const ATTENTION: [&str; 4] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
const FEED_FORWARD: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// The names of the parameters that a round (from 0) leaves as they are.
pub fn frozen_half(layers: usize, seed: u64, round: u64) -> Frozen {
    let draw = |len, stream| permutation(len, seed, HALF_STREAM + round * STREAMS + stream);
    let order = draw(layers, 0);
    let by_two = &order[..layers / 2];
    let mut frozen = Vec::new();
    for layer in 0..layers {
        let of_three = if by_two.contains(&layer) { 2 } else { 1 };
        let kinds: [(&[&str], usize); 3] = [(&ATTENTION, 2), (&FEED_FORWARD, of_three), (&NORMS, 1)];
        for (kind, (parts, count)) in kinds.into_iter().enumerate() {
            let order = draw(parts.len(), (3 * layer + kind + 1) as u64);
            let drawn = order[..count].iter().map(|&part| parts[part]);
            frozen.extend(drawn.map(|part| format!("model.layers.{layer}.{part}.weight")));
        }
    }
    frozen.into_iter().collect()
}

/// Elements of the matrices that a round freezes: those that have a product in the backward pass.
pub(super) fn frozen_elements(config: &LlamaConfig, frozen: &Frozen) -> u64 {
    let parameters = config.parameters().into_iter();
    let frozen = parameters.filter(|(name, shape)| shape.len() > 1 && frozen.contains(name));
    frozen.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}

/// The rounds of a run, and what is frozen in the one under way.
#[derive(Clone, Debug)]
pub struct HalfFineTuning {
    seed: u64,
    steps_per_round: usize,
    round: Option<u64>,
    frozen: Frozen,
    /// What the round before it has frozen.
    before: Frozen,
    /// Of each parameter of the table: the updates before `since` that it was not part of.
    missed: Vec<u64>,
    /// Updates made when the round began, or when the run went on in it.
    since: u64,
}

impl HalfFineTuning {
    /// Rounds of this many optimizer steps.
    pub fn new(seed: u64, steps_per_round: usize, table: &ParameterTable) -> Self {
        let missed = vec![0; table.iter().count()];
        let steps_per_round = steps_per_round.max(1);
        let (frozen, before) = Default::default();
        Self { seed, steps_per_round, round: None, frozen, before, missed, since: 0 }
    }

    /// The round that a step (from 1) belongs to, from 0.
    pub fn round_of(&self, step: usize) -> u64 {
        ((step - 1) / self.steps_per_round) as u64
    }

    /// The parameters that are frozen in a step's round.
    pub fn frozen_at(&self, step: usize, layers: usize) -> Frozen {
        frozen_half(layers, self.seed, self.round_of(step))
    }

    /// Goes on where a run left off after so many updates, with what [`Self::missed`] said then; says whether that is of as many
    /// parameters.
    pub fn resume(&mut self, missed: Vec<u64>, updates: u64) -> bool {
        let fits = missed.len() == self.missed.len();
        (self.missed, self.since) = (missed, updates);
        fits
    }

    /// Of each parameter of the table: the updates that it was not part of, out of the first `updates`. A step may have been
    /// enqueued, and begun a round, before one is found not to have made its update: then `updates` lie in the round before.
    pub fn missed(&self, table: &ParameterTable, updates: u64) -> Vec<u64> {
        let (more, fewer) = (updates.saturating_sub(self.since), self.since.saturating_sub(updates));
        let counted = table.iter().zip(&self.missed).map(|(parameter, missed)| {
            let of = |frozen: &Frozen, updates| if frozen.contains(&parameter.name) { updates } else { 0 };
            missed + of(&self.frozen, more) - of(&self.before, fewer)
        });
        counted.collect()
    }

    /// Freezes what the round of `step` leaves as it is, if that is another round than the one before. `updates` were made so far.
    pub(super) fn enter<B: Backend>(
        &mut self,
        backend: &mut B,
        (model, optimizer): (&mut Llama, &mut AdamwOptimizer),
        gradients: View,
        step: usize,
        updates: u64,
    ) {
        let round = self.round_of(step);
        if self.round == Some(round) {
            return;
        }
        self.missed = self.missed(&model.table, updates);
        self.since = updates;
        self.round = Some(round);
        let frozen = frozen_half(model.config.num_hidden_layers, self.seed, round);
        self.before = std::mem::replace(&mut self.frozen, frozen);
        model.freeze(&self.frozen);
        let (frozen, missed) = (&self.frozen, &self.missed);
        let learnt = model.table.runs(|index, p| (!frozen.contains(&p.name)).then(|| missed[index]));
        optimizer.learn(learnt);
        // What a round before left there would count towards the norm.
        backend.zero(gradients);
        let still =
            model.table.iter().filter(|p| frozen.contains(&p.name)).map(|p| p.elements()).sum::<usize>();
        let share = 100.0 * still as f64 / model.table.count() as f64;
        tracing::info!(
            "half fine-tuning, round {}: {share:.1}% of the parameters stay as they are",
            round + 1
        );
    }
}

/// Whether parts of a product can be frozen by themselves: 8-bit moments share a scale in blocks, which must not reach from a
/// frozen weight into one that is learnt.
pub(super) fn check(model: &LlamaConfig, state: OptimizerState) -> Result<(), TrainError> {
    let table = ParameterTable::new(model);
    let within_a_block = |parameter: &&Parameter| !parameter.offset.is_multiple_of(MOMENT_BLOCK);
    match table.iter().find(within_a_block).filter(|_| state == OptimizerState::EightBit) {
        Some(parameter) => {
            Err(TrainError::FrozenWithinBlock { name: parameter.name.clone(), block: MOMENT_BLOCK })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind as many as the paper says, in every layer of models of any depth, and another draw every round.
    #[test]
    fn a_round_freezes_half_of_every_kind() {
        for layers in [1, 2, 5, 32] {
            let rounds: Vec<Frozen> = (0..40).map(|round| frozen_half(layers, 7, round)).collect();
            let mut ever = std::collections::BTreeSet::new();
            for frozen in &rounds {
                let of = |layer: usize, kind: &str| {
                    let start = format!("model.layers.{layer}.{kind}");
                    frozen.iter().filter(|name| name.starts_with(&start)).count()
                };
                let count = |kind: &str| (0..layers).map(|layer| of(layer, kind)).collect::<Vec<_>>();
                assert_eq!(count("self_attn."), vec![2; layers]);
                let norms: Vec<usize> = (0..layers)
                    .map(|l| of(l, "input_layernorm") + of(l, "post_attention_layernorm"))
                    .collect();
                assert_eq!(norms, vec![1; layers]);
                let feed_forward = count("mlp.");
                assert_eq!(feed_forward.iter().filter(|&&count| count == 2).count(), layers / 2);
                assert_eq!(feed_forward.iter().filter(|&&count| count == 1).count(), layers - layers / 2);
                let all = 3 * layers + layers + layers / 2;
                assert_eq!(frozen.iter().count(), all, "embeddings, head and last norm are learnt");
                ever.extend(frozen.iter().map(str::to_owned));
            }
            assert_eq!(ever.len(), 9 * layers, "in 40 rounds everything in a layer was frozen once");
            assert!(rounds.windows(2).filter(|pair| pair[0] == pair[1]).count() < 5);
            assert_ne!(rounds[0], frozen_half(layers, 8, 0), "another seed");
        }
    }

    #[test]
    fn updates_that_are_missed_add_up_over_rounds_and_resumes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/checkpoints/gqa-llama3/config.json");
        let config = LlamaConfig::from_file(std::path::Path::new(path)).unwrap();
        let table = ParameterTable::new(&config);
        let enter = |half: &mut HalfFineTuning, step: usize, updates: u64| {
            half.missed = half.missed(&table, updates);
            half.since = updates;
            let frozen = half.frozen_at(step, config.num_hidden_layers);
            half.before = std::mem::replace(&mut half.frozen, frozen);
        };
        let mut whole = HalfFineTuning::new(1, 3, &table);
        // Steps 1 to 3 with one skipped, 4 to 6, 7 and 8.
        enter(&mut whole, 1, 0);
        enter(&mut whole, 4, 2);
        let before = whole.missed(&table, 4);
        enter(&mut whole, 7, 5);
        assert_eq!(whole.missed(&table, 4), before, "an update that was enqueued and did not come about");
        let frozen: Vec<Frozen> =
            [1, 4, 7].map(|step| whole.frozen_at(step, config.num_hidden_layers)).into();
        let expected = table.iter().map(|parameter| {
            let of =
                |round: usize, updates| if frozen[round].contains(&parameter.name) { updates } else { 0 };
            of(0, 2) + of(1, 3) + of(2, 2)
        });
        assert_eq!(whole.missed(&table, 7), expected.collect::<Vec<u64>>());
        // Saved in the middle of the second round.
        let mut first = HalfFineTuning::new(1, 3, &table);
        enter(&mut first, 1, 0);
        enter(&mut first, 4, 2);
        let mut resumed = HalfFineTuning::new(1, 3, &table);
        assert!(resumed.resume(first.missed(&table, 3), 3) && !resumed.clone().resume(vec![0], 3));
        enter(&mut resumed, 5, 3);
        enter(&mut resumed, 7, 5);
        assert_eq!(resumed.missed(&table, 7), whole.missed(&table, 7));
    }
}
