//! Coefficients of objectives where the device forms them, against the Rust function, which is its own oracle
//! (`tests/objective`).

use asft::backend::{
    BAD, Backend, ObjectiveCoefficients, SPAN_CHOSEN, SPAN_MIXED, SPAN_PROMPT, SPAN_REJECTED,
};
use asft::data::{BatchGroup, ByRole, Role, Span, StepTotals};
use asft::objective::{self, NllOn, NllReduction, Objective, Parameters, coefficients_of_units};

use crate::device::{Device, Levels, bits, normal, on_every_cpu};

/// Lengths of prompt (predicted tokens), chosen and rejected answer, and the mean log-prob of the answers.
const GROUPS: [(u32, u32, u32, f32, f32); 8] = [
    (3, 5, 4, -1.0, -2.0),
    (0, 1, 1, -0.7, -0.3),
    (130, 129, 257, -0.05, -3.0),
    (1, 64, 1, -1e-4, -1e-4),
    // Beyond the continuation, and certain.
    (2, 2, 2, -1e-6, -1e-7),
    (5, 1, 3, 0.0, 0.0),
    // Hopeless.
    (1, 7, 7, -90.0, -60.0),
    (9, 300, 2, -700.0, -800.0),
];

fn objectives() -> Vec<Box<dyn Objective>> {
    let asft = Parameters::default();
    let all = Some(NllOn::PromptAndResponse);
    let (sequence, token) = (Some(NllReduction::Sequence), Some(NllReduction::Token));
    [
        ("asft", asft),
        ("asft", Parameters { beta: Some(0.5), lambda: Some(0.3), c: Some(2.0), ..asft }),
        ("asft", Parameters { beta: Some(2.0), logit_eps: Some(1e-3), ..asft }),
        ("asft", Parameters { c: Some(0.0), ..asft }),
        ("asft", Parameters { lambda: Some(0.0), ..asft }),
        ("asft", Parameters { nll_reduction: token, nll_on: all, ..asft }),
        ("sft", asft),
        ("sft", Parameters { nll_reduction: sequence, ..asft }),
        ("sft", Parameters { nll_on: all, ..asft }),
        ("sftmix", asft),
        ("sftmix", Parameters { mu: Some(3.0), ..asft }),
    ]
    .map(|(name, parameters)| objective::build(name, &parameters).unwrap())
    .into()
}

/// Groups with the spans that an objective packs, and log-probs of all rows.
fn batch(objective: &dyn Objective) -> (Vec<BatchGroup>, Vec<u32>, Vec<f32>) {
    let (spans, mut groups, mut words, mut logp) =
        (objective.spans(), Vec::new(), Vec::new(), Vec::<f32>::new());
    for (index, (prompt, chosen, rejected, mean_chosen, mean_rejected)) in GROUPS.into_iter().enumerate() {
        let mut span = |wanted: bool, len: u32, role: u32, mean: f32| {
            let start = logp.len() as u32;
            wanted.then(|| {
                let random = normal(u64::from(start), len as usize);
                logp.extend(random.iter().map(|x| mean * (0.5 + 0.1 * x.abs())));
                words.extend([start, len, role]);
                Span { start, len }
            })
        };
        let mut group = BatchGroup { group: index as u32, row: index, ..BatchGroup::default() };
        group.prompt = span(spans.prompt, prompt, SPAN_PROMPT, -2.0);
        group.answers[Role::Chosen] = span(true, chosen, SPAN_CHOSEN, mean_chosen);
        let has_rejected = spans.answers.contains(Role::Rejected);
        group.answers[Role::Rejected] = span(has_rejected, rejected, SPAN_REJECTED, mean_rejected);
        let is_mixed = objective.mixing().is_some() && index % 2 == 1;
        group.answers[Role::Mixed] = span(is_mixed, rejected, SPAN_MIXED, mean_rejected);
        groups.push(group);
    }
    (groups, words, logp)
}

const TOTALS: StepTotals =
    StepTotals { groups: 11, prompt_tokens: 300, answer_tokens: ByRole::new([700, 500, 0, 0, 0, 400]) };

/// Coefficients, and whether the flag was set.
fn run<B: Backend>(
    backend: &mut B,
    objective: &dyn Objective,
    groups: &[BatchGroup],
    words: &[u32],
    log_probs: &[f32],
) -> (Vec<f32>, bool, Vec<u32>) {
    let mut device = Device::new(backend);
    let (coefficients, state) = (device.put(&vec![0.0f32; log_probs.len()]), device.state(1.0, false));
    let arguments = ObjectiveCoefficients {
        objective,
        units: groups,
        spans: device.put(words),
        totals: TOTALS,
        logp: device.put(log_probs),
        statistics: None,
        coefficients,
        state,
    };
    device.backend.objective(arguments);
    let (coefficients, state) = (device.result(coefficients), device.result::<f64>(state));
    (coefficients, state[BAD] != 0.0, device.finish())
}

/// Every span of every objective within the rounding of one sum.
pub fn check<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    for objective in objectives() {
        assert!(objective.pointwise().is_some());
        let (groups, words, logp) = batch(objective.as_ref());
        let (got, bad, bits) = run(backend, objective.as_ref(), &groups, &words, &logp);
        let mut exact = vec![0.0f32; logp.len()];
        assert!(coefficients_of_units(
            objective.as_ref(),
            &groups,
            &TOTALS,
            logp.as_slice().into(),
            &mut exact
        ));
        assert!(!bad, "{objective:?}");
        for (row, (&got, &exact)) in got.iter().zip(&exact).enumerate() {
            let off = (f64::from(got) - f64::from(exact)).abs();
            assert!(
                off <= 1.2e-7 * f64::from(exact.abs()),
                "{objective:?}: row {row} is {got:e}, not {exact:e}"
            );
        }
        all.extend(bits);
    }
    all
}

/// A log-prob that is not finite sets the flag; a group that has none leaves it alone.
pub fn check_not_finite<B: Backend>(backend: &mut B) -> Vec<u32> {
    let objective = objective::build("asft", &Parameters::default()).unwrap();
    let (groups, words, logp) = batch(objective.as_ref());
    for value in [f32::NAN, f32::NEG_INFINITY] {
        for span in [groups[2].chosen(), groups[2].rejected()] {
            let mut logp = logp.clone();
            logp[span.unwrap().range().end - 1] = value;
            let mut exact = vec![0.0f32; logp.len()];
            let finite = coefficients_of_units(
                objective.as_ref(),
                &groups,
                &TOTALS,
                logp.as_slice().into(),
                &mut exact,
            );
            let (_, bad, _) = run(backend, objective.as_ref(), &groups, &words, &logp);
            assert_eq!(bad, !finite, "{value} in {span:?}");
        }
    }
    bits(&logp)
}

#[test]
fn coefficients_are_those_of_the_rust_function() {
    on_every_cpu(Levels::SameBits, check);
}

#[test]
fn what_is_not_finite_sets_the_flag() {
    on_every_cpu(Levels::SameBits, check_not_finite);
}
