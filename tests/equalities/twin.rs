//! The whole model's log-probs and gradients against the f64 twin, which runs every sequence on its own.

use std::collections::BTreeMap;

use asft::data::{Group, Role};

use crate::fixture::*;
use crate::reference::llama::{self, Config, Tensors};

/// The requirements' bounds for f32 against f64.
const LOG_PROB: f64 = 1e-5;
const GRADIENT: f64 = 1e-5;

fn sequence(group: &Group, role: Role) -> Vec<u32> {
    [&group.prompt[..], &group.answer(role).unwrap().ids].concat()
}

#[test]
fn gradients_of_two_groups_equal_the_twin() {
    for model in MODELS {
        for name in OBJECTIVES {
            let mut groups = groups_for(model, objective(name).as_ref());
            groups.drain(1..3);
            groups.truncate(2);
            let mut trainer = trainer(model, budget(&groups), objective(name));
            let entries = packed(&trainer, &groups).groups;
            let computed = compute(&mut trainer, &groups);
            let config = Config::from_json(&config_json(model));
            let weights = trainer.model.weights();
            let parameters: Tensors = widened(&by_name(&mut trainer, weights));
            let mut expected: BTreeMap<String, Vec<f64>> =
                parameters.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
            let what = format!("{model}, {name}");
            for (group, entry) in groups.iter().zip(&entries) {
                let before = group.prompt.len() - 1;
                for (role, prompt, answer) in
                    [(Role::Chosen, entry.prompt, entry.chosen()), (Role::Rejected, None, entry.rejected())]
                {
                    let Some(answer) = answer else { continue };
                    let ids = sequence(group, role);
                    let forward = llama::forward(&config, &parameters, &ids);
                    let log_probs = forward.log_probs();
                    let mut coefficients = vec![0.0; log_probs.len()];
                    for (first, span) in prompt.map(|span| (0, span)).into_iter().chain([(before, answer)]) {
                        for (place, row) in span.range().enumerate() {
                            coefficients[first + place] = f64::from(computed.coefficients[row]);
                            let off = (f64::from(computed.log_probs[row]) - log_probs[first + place]).abs();
                            assert!(off <= LOG_PROB, "{what}: log-prob {row} is off by {off:e}");
                        }
                    }
                    for (name, part) in forward.backward(&coefficients) {
                        let sum = expected.get_mut(&name).unwrap();
                        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
            assert_near(&what, &computed.gradients, &expected, GRADIENT);
        }
    }
}
