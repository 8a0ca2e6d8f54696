//! Objectives that coincide, through the whole model.

use std::f64::consts::LN_2;

use asft::data::{AnswerAnnotations, Group, Reference, StepTotals};
use asft::model::Budget;
use asft::objective::{GroupLogps, NllOn, NllReduction, Objective, Parameters, Scored, build};

use crate::fixture::*;

#[test]
fn asft_without_its_align_term_is_sft_with_sequence_reduction() {
    let groups = groups();
    for model in MODELS {
        for nll_on in [NllOn::Response, NllOn::PromptAndResponse] {
            let nll_on = Some(nll_on);
            let asft = Parameters { lambda: Some(0.0), nll_on, ..Parameters::default() };
            let sft =
                Parameters { nll_reduction: Some(NllReduction::Sequence), nll_on, ..Parameters::default() };
            let mut asft = trainer(model, budget(&groups), build("asft", &asft).unwrap());
            let mut sft = trainer(model, budget(&groups), build("sft", &sft).unwrap());
            let (asft, sft) = (compute(&mut asft, &groups), compute(&mut sft, &groups));
            assert_eq!(asft.loss.to_bits(), sft.loss.to_bits(), "{model}");
            assert_eq!(bits(&asft.log_probs), bits(&sft.log_probs), "{model}");
            assert_eq!(bits(&asft.coefficients), bits(&sft.coefficients), "{model}");
            for (name, gradient) in &asft.gradients {
                assert_eq!(bits(gradient), bits(&sft.gradients[name]), "{model}: {name}");
                assert!(gradient.iter().any(|g| *g != 0.0), "{model}: no gradient of {name}");
            }
        }
    }
}

/// The loss of as many pairs as there are groups at D = 0, added up as a step adds it up.
fn loss_at_reference(dpo: &dyn Objective, groups: &[Group]) -> f64 {
    let given = AnswerAnnotations { references: vec![Reference::Sum(-2.5)], ..Default::default() };
    let scored = Scored::new(&[-2.5]).with(&given);
    let part = dpo.evaluate(&[GroupLogps::pair(scored, scored)], &StepTotals::of(groups))[0].value;
    groups.iter().fold(0.0, |loss, _| loss + part)
}

/// The reference log-probs are scored in packings other than the training's, and the loss is ln 2 to the last bit.
#[test]
fn the_first_loss_of_dpo_is_ln_2() {
    for model in MODELS {
        for count in 1..=5 {
            let mut groups = groups();
            groups.truncate(count);
            // As training packs them; one by one; with the largest among others.
            let tokens = groups.iter().map(|g| g.prompt.len()).max().unwrap() + 23;
            for tokens in [budget(&groups).tokens, 1, tokens] {
                let places = budget(&groups);
                // The scorer packs groups while they fit; the places are large enough for a group alone.
                let mut scoring = trainer(model, places, objective("dpo"));
                scoring.activations.budget = Budget { tokens, ..places };
                groups.iter_mut().for_each(|group| group.annotations = None);
                add_references(&mut scoring, &mut groups);
                let mut dpo = trainer(model, Budget { head_rows: 5, ..places }, objective("dpo"));
                let first = compute(&mut dpo, &groups);
                let expected = loss_at_reference(dpo.objective.as_ref(), &groups);
                assert_eq!(
                    first.loss.to_bits(),
                    expected.to_bits(),
                    "{model}: {} and {expected}",
                    first.loss
                );
                if count.is_power_of_two() {
                    assert_eq!(first.loss.to_bits(), LN_2.to_bits(), "{model}: {count} pairs");
                }
                // A slope of beta / 2 / N, and not a gradient of zero.
                let slope = (0.05 / count as f64) as f32;
                let entry = packed(&dpo, &groups).groups[0].clone();
                let sign = [(entry.chosen(), -slope), (entry.rejected(), slope)];
                for (span, slope) in sign {
                    let coefficients = &first.coefficients[span.unwrap().range()];
                    assert!(coefficients.iter().all(|&c| (c - slope).abs() <= 1e-7 * slope.abs()), "{model}");
                }
            }
        }
    }
}
