//! What a plan may do to save memory or to keep sizes few changes no bit: recomputing activations, padding batches.

use asft::backend::cpu::CpuBackend;
use asft::model::{Budget, Recompute, Rungs};
use asft::train::LayoutSettings;

use crate::fixture::*;

/// Loss, log-probs and every gradient, to the bit.
fn bits_of(model: &str, name: &str, budget: Budget, recompute: Recompute) -> (u64, Vec<u32>, Vec<Vec<u32>>) {
    let objective = objective(name);
    let groups = groups_for(model, objective.as_ref());
    let settings = LayoutSettings { recompute, ..LayoutSettings::f32(budget, ADAMW) };
    let mut trainer = trainer_of(CpuBackend::new(2).unwrap(), model, 1, settings, objective);
    let computed = compute(&mut trainer, &groups);
    let gradients = computed.gradients.values().map(|values| bits(values)).collect();
    (computed.loss.to_bits(), bits(&computed.log_probs), gradients)
}

#[test]
fn recomputing_gives_the_same_bits_in_less_memory() {
    for model in MODELS {
        for name in OBJECTIVES {
            let budget = budget(&groups_for(model, objective(name).as_ref()));
            let kept = bits_of(model, name, budget, Recompute::Nothing);
            for level in [Recompute::Norms, Recompute::Blocks] {
                assert!(kept == bits_of(model, name, budget, level), "{model}, {name}: {}", level.name());
            }
        }
    }
    let saved = |recompute| {
        let budget = budget(&groups_for(MODELS[0], objective("asft").as_ref()));
        let settings = LayoutSettings { recompute, ..LayoutSettings::f32(budget, ADAMW) };
        let layout = asft::train::Layout::new(&config(MODELS[0]), settings);
        layout.plan.bytes(asft::plan::Arena::Saved)
    };
    let sizes = Recompute::ALL.map(saved);
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
}

#[test]
fn padding_to_rungs_changes_no_bit() {
    for model in MODELS {
        for name in OBJECTIVES {
            let plain = budget(&groups_for(model, objective(name).as_ref()));
            for (tokens, rows) in [(64, 16), (100, 7), (512, 512)] {
                let rungs = Rungs { tokens, rows };
                for head_rows in [plain.head_rows, 5] {
                    let padded = Budget { rungs, head_rows, ..plain };
                    // The same chunks.
                    let alike = Budget { head_rows: padded.head_capacity(), ..plain };
                    let expected = bits_of(model, name, alike, Recompute::Nothing);
                    let got = bits_of(model, name, padded, Recompute::Nothing);
                    assert!(
                        got == expected,
                        "{model}, {name}: rungs {tokens}, {rows}, {head_rows} head rows"
                    );
                }
            }
        }
    }
}
