//! Answers of which some tokens are only context: the loss and every gradient are those of the f64 twin, which runs each
//! sequence on its own, with a coefficient of 0 on every token that is not scored.

use std::collections::BTreeMap;

use asft::data::{Group, Role, StepTotals};

use crate::fixture::*;
use crate::reference::llama::{self, Config, Tensors};
use crate::reference::objective::{Hyper, Outcome, Pair, Scored, evaluate};

/// As in [`crate::twin`].
const LOG_PROB: f64 = 1e-5;
const GRADIENT: f64 = 1e-5;

/// Objectives by their names in the fixture and in the twin.
const TWINS: [(&str, &str); 6] = [
    ("asft", "asft"),
    ("asft beta", "asft_beta"),
    ("sft", "sft_token_mean"),
    ("sft sequence", "sft_seq_mean"),
    ("orpo", "orpo_trl"),
    ("dpo", "dpo"),
];

/// Masks that begin, end and are interrupted by context, beside answers that are scored whole.
fn masked_groups() -> Vec<Group> {
    let mut groups = vec![group(0, 7, 6, 9), group(3, 3, 17, 2), group(1, 1, 3, 5)];
    let context =
        [vec![vec![0, 1, 4], vec![3]], vec![(2..16).collect(), vec![]], vec![vec![], vec![0, 1, 2, 4]]];
    for (group, context) in groups.iter_mut().zip(context) {
        for (answer, context) in group.answers.iter_mut().zip(context) {
            let scored = (0..answer.ids.len()).map(|position| !context.contains(&position));
            answer.scored = (!context.is_empty()).then(|| scored.collect());
        }
    }
    groups
}

/// The twin's run of one sequence: where among its predictions the scored ones are, and what they are as a sequence of
/// the prompt and the scored tokens alone.
struct Twin {
    ids: Vec<u32>,
    places: Vec<usize>,
    scored: Scored,
}

impl Twin {
    fn new(config: &Config, parameters: &Tensors, group: &Group, role: Role) -> Self {
        let answer = group.answer(role).unwrap();
        let before = group.prompt.len() - 1;
        let ids = [&group.prompt[..], &answer.ids].concat();
        let log_probs = llama::forward(config, parameters, &ids).log_probs();
        let mask = answer.scored.clone().unwrap_or(vec![true; answer.ids.len()]);
        let scored = mask.iter().enumerate().filter(|(_, scored)| **scored).map(|(place, _)| before + place);
        let places: Vec<usize> = (0..before).chain(scored).collect();
        let logps = places.iter().map(|place| log_probs[*place]).collect();
        Self { ids, places, scored: Scored { prompt: group.prompt.len(), logps } }
    }

    /// Gradients, given `d loss / d logp` of the prompt and the scored tokens.
    fn backward(&self, config: &Config, parameters: &Tensors, coefficients: &[f64]) -> Tensors {
        let mut all = vec![0.0; self.ids.len() - 1];
        for (place, coefficient) in self.places.iter().zip(coefficients) {
            all[*place] = *coefficient;
        }
        llama::forward(config, parameters, &self.ids).backward(&all)
    }
}

fn masked_equals_the_twin(model: &str, name: &str, twin: &str) {
    let mut groups = masked_groups();
    let needs_reference = objective(name).needs_reference();
    if needs_reference {
        groups = with_reference(model, groups, [0.7, -0.4]);
    }
    let mut trainer = trainer(model, budget(&groups), objective(name));
    let computed = compute(&mut trainer, &groups);
    let config = Config::from_json(&config_json(model));
    let weights = trainer.model.weights();
    let parameters: Tensors = widened(&by_name(&mut trainer, weights));
    let twins: Vec<[Twin; 2]> = groups
        .iter()
        .map(|group| [Role::Chosen, Role::Rejected].map(|role| Twin::new(&config, &parameters, group, role)))
        .collect();
    let pairs: Vec<Pair> = twins
        .iter()
        .map(|[chosen, rejected]| {
            // The initial weights are the reference, up to the offsets: what the scorer summed must be the scored tokens'.
            let sum = |twin: &Twin| twin.scored.logps[twin.scored.prompt - 1..].iter().sum::<f64>();
            let reference = needs_reference.then(|| (sum(chosen) + 0.7, sum(rejected) - 0.4));
            Pair { chosen: chosen.scored.clone(), rejected: rejected.scored.clone(), reference }
        })
        .collect();
    let hyper = match name {
        "asft" => Hyper { asft_lambda: 0.5, asft_beta: 1.0, orpo_lambda: 0.0, dpo_beta: 0.0 },
        _ => Hyper { asft_lambda: 1.0, asft_beta: 0.7, orpo_lambda: 0.1, dpo_beta: 0.1 },
    };
    let outcome: Outcome = evaluate(twin, &pairs, &hyper);
    let what = format!("{model}, {name}");
    let off = (computed.loss - outcome.loss).abs();
    assert!(off <= LOG_PROB, "{what}: loss {} instead of {}", computed.loss, outcome.loss);
    let mut expected: BTreeMap<String, Vec<f64>> =
        parameters.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
    let coefficients =
        outcome.chosen.iter().zip(&outcome.rejected).flat_map(|(chosen, rejected)| [chosen, rejected]);
    for (twin, coefficients) in twins.iter().flatten().zip(coefficients) {
        for (name, part) in twin.backward(&config, &parameters, coefficients) {
            expected.get_mut(&name).unwrap().iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    assert_near(&what, &computed.gradients, &expected, GRADIENT);
}

#[test]
fn masked_answers_have_the_twins_loss_and_gradients() {
    for model in MODELS {
        for (name, twin) in TWINS {
            masked_equals_the_twin(model, name, twin);
        }
    }
}

#[test]
fn a_mask_of_every_token_is_none() {
    for model in MODELS {
        for name in OBJECTIVES {
            let plain = groups_for(model, objective(name).as_ref());
            let mut masked = plain.clone();
            for answer in masked.iter_mut().flat_map(|group| &mut group.answers) {
                answer.scored = Some(vec![true; answer.ids.len()]);
            }
            assert_eq!(StepTotals::of(&plain), StepTotals::of(&masked));
            let mut trainer = trainer(model, budget(&plain), objective(name));
            let [plain, masked] = [plain, masked].map(|groups| compute(&mut trainer, &groups));
            assert_eq!(plain.loss.to_bits(), masked.loss.to_bits(), "{model}, {name}");
            assert_eq!(bits(&plain.log_probs), bits(&masked.log_probs), "{model}, {name}");
            assert_eq!(bits(&plain.coefficients), bits(&masked.coefficients), "{model}, {name}");
            for (tensor, values) in &plain.gradients {
                assert_eq!(bits(values), bits(&masked.gradients[tensor]), "{model}, {name}: {tensor}");
            }
        }
    }
}
