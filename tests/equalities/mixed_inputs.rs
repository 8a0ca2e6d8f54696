//! Inputs mixed with predictions (IFT): what they equal without a mix, and what does not depend on how a step is computed.

use asft::backend::Backend;
use asft::backend::cpu::CpuBackend;
use asft::data::{Group, Step, StepTotals, pack};
use asft::model::{Budget, Recompute, Rungs};
use asft::objective::{Objective, Parameters, build};
use asft::plan::Arena;
use asft::train::{Layout, LayoutSettings, Trainer};

use crate::fixture::*;

const TABLE: &str = "model.embed_tokens.weight";

fn ift(parameters: &str) -> Box<dyn Objective> {
    let parameters: Parameters = serde_json::from_str(parameters).unwrap();
    build("ift", &parameters).unwrap()
}

#[test]
fn without_a_mix_or_propagation_it_is_sft_with_a_live_table() {
    let groups = groups();
    for model in MODELS {
        let mut sft = trainer(model, budget(&groups), objective("sft sequence"));
        let sft = compute(&mut sft, &groups);
        for policy in ["live", "frozen"] {
            let settings =
                format!(r#"{{"lambda": 0, "ift_propagation": "none", "ift_embedding": "{policy}"}}"#);
            let mut trainer = trainer(model, budget(&groups), ift(&settings));
            let computed = compute(&mut trainer, &groups);
            assert_eq!(computed.loss.to_bits(), sft.loss.to_bits(), "{model}, {policy}");
            assert_eq!(bits(&computed.log_probs), bits(&sft.log_probs), "{model}, {policy}");
            assert_eq!(bits(&computed.coefficients), bits(&sft.coefficients), "{model}, {policy}");
            for (name, gradient) in &computed.gradients {
                let same = bits(gradient) == bits(&sft.gradients[name]);
                assert_eq!(same, policy == "live" || name != TABLE, "{model}, {policy}: {name}");
            }
            // A tied head trains the table all the same.
            let trained = computed.gradients[TABLE].iter().any(|g| *g != 0.0);
            let tied = config(model).tie_word_embeddings;
            assert_eq!(trained, policy == "live" || tied, "{model}, {policy}");
        }
    }
}

/// Loss, log-probs and gradients of one micro-batch, to the bit.
fn bits_of(
    model: &str,
    objective: Box<dyn Objective>,
    budget: Budget,
    recompute: Recompute,
) -> Vec<Vec<u32>> {
    let settings = LayoutSettings { recompute, ..LayoutSettings::f32(budget, ADAMW) };
    let mut trainer = trainer_of(CpuBackend::new(2).unwrap(), model, 1, settings, objective);
    let computed = compute(&mut trainer, &groups());
    let loss = computed.loss.to_bits();
    let mut all = vec![vec![loss as u32, (loss >> 32) as u32], bits(&computed.log_probs)];
    all.extend(computed.gradients.values().map(|gradient| bits(gradient)));
    all
}

#[test]
fn recomputing_and_padding_change_no_bit() {
    for model in MODELS {
        for policy in ["live", "frozen"] {
            let objective = || ift(&format!(r#"{{"lambda": 0.4, "ift_embedding": "{policy}"}}"#));
            let plain = budget(&groups());
            let expected = bits_of(model, objective(), plain, Recompute::Nothing);
            for level in [Recompute::Norms, Recompute::Blocks] {
                assert!(
                    expected == bits_of(model, objective(), plain, level),
                    "{model}, {policy}, {level:?}"
                );
            }
            let rungs = Rungs { tokens: 64, rows: 16 };
            let padded = bits_of(model, objective(), Budget { rungs, ..plain }, Recompute::Nothing);
            assert!(expected == padded, "{model}, {policy}: padded");
            // The mix is not nothing.
            let other = bits_of(model, ift(r#"{"lambda": 0}"#), plain, Recompute::Nothing);
            assert!(expected[1] != other[1], "{model}: the same log-probs without a mix");
        }
    }
}

fn one_step(trainer: &mut Trainer<CpuBackend>, batches: &[&[Group]], groups: &[Group]) -> (u64, Vec<u32>) {
    let mut place = 0;
    let batches = batches.iter().map(|members| {
        let mut batch = pack(&members.iter().collect::<Vec<_>>(), trainer.objective.spans());
        batch.groups.iter_mut().for_each(|group| group.group += place);
        place += members.len() as u32;
        batch
    });
    let batches = batches.collect();
    let totals = StepTotals::of(groups);
    let step = Step { index: 1, epoch: 0.0, batches, scoring: Vec::new(), totals };
    clear(trainer);
    let pending = trainer.step(&step, 1e-2).unwrap();
    let outcome = pending.finish(&mut trainer.backend, trainer.objective.as_ref()).unwrap();
    assert!(!outcome.bad);
    let mut log_probs = vec![0.0f32; step.batches.last().unwrap().gather.len()];
    trainer.backend.read(trainer.activations.head.logp.first(log_probs.len()), &mut log_probs).unwrap();
    (outcome.loss.to_bits(), bits(&log_probs))
}

/// A step in one micro-batch or in several: the same loss to the bit, the same gradients up to the order of additions.
#[test]
fn a_step_is_the_same_however_it_is_cut() {
    let groups = groups();
    for model in MODELS {
        let run = |batches: &[&[Group]]| {
            let mut trainer =
                trainer(model, budget(&groups), ift(r#"{"lambda": 0.4, "ift_embedding": "live"}"#));
            let (loss, _) = one_step(&mut trainer, batches, &groups);
            (loss, gradients(&mut trainer))
        };
        let (whole, expected) = run(&[&groups]);
        let (cut, got) = run(&[&groups[..2], &groups[2..3], &groups[3..]]);
        assert_eq!(whole, cut, "{model}");
        assert_near(&format!("{model}, cut"), &got, &widened(&expected), 2e-6);
    }
}

/// Weight decay included: a frozen table of its own stays to the bit, and everything else moves.
#[test]
fn a_frozen_table_stays_and_a_tied_one_follows_its_head() {
    let groups = groups();
    for model in MODELS {
        let mut trainer = trainer(model, budget(&groups), ift("{}"));
        let weights = trainer.model.weights();
        let before = by_name(&mut trainer, weights);
        one_step(&mut trainer, &[&groups], &groups);
        let after = by_name(&mut trainer, weights);
        for (name, before) in &before {
            let stays = name == TABLE && !config(model).tie_word_embeddings;
            assert_eq!(bits(before) == bits(&after[name]), stays, "{model}: {name}");
        }
    }
}

/// What the memory plan holds more than SFT's: lists, and only where they are needed.
#[test]
fn the_plan_has_room_for_the_mix_and_nothing_else() {
    let plan = |parameters: Option<&str>| {
        let inputs = parameters.map_or(asft::objective::Inputs::TOKENS, |p| ift(p).inputs());
        let settings = LayoutSettings { inputs, ..LayoutSettings::f32(budget(&groups()), ADAMW) };
        Layout::new(&config(MODELS[0]), settings).plan
    };
    let names = |parameters| -> Vec<String> {
        plan(parameters).entries().iter().map(|entry| entry.name.clone()).collect()
    };
    let sft = names(None);
    let more = |parameters| names(Some(parameters)).split_off(sft.len());
    assert_eq!(more(r#"{"lambda": 0}"#), [""; 0]);
    assert_eq!(more("{}"), ["mixed token ids", "places of scored tokens"]);
    let live = more(r#"{"ift_embedding": "live"}"#);
    assert_eq!(
        live[2..],
        [
            "distinct mixed token ids",
            "mixed token offsets",
            "token-sorted mixed rows",
            "shares of mixed rows"
        ]
    );
    for arena in asft::plan::ARENAS.into_iter().filter(|arena| *arena != Arena::Batch) {
        assert_eq!(plan(Some("{}")).bytes(arena), plan(None).bytes(arena), "{}", arena.title());
    }
}
