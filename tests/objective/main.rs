//! Objectives against independent values: golden cases in high precision, finite differences over the whole range,
//! published identities and limits, and (where a folder of it is given) an oracle's losses from PyTorch.

mod every;
mod family;
mod golden;
mod identities;
mod ift;
mod limits;
mod metrics;
mod oracle;
mod planes;
mod registry;
mod rows;
#[path = "../skip/mod.rs"]
mod skip;
mod trl;

use std::f64::consts::LN_2;

use asft::data::{AnswerAnnotations, ByRole, Reference, Role, StepTotals};
use asft::objective::{
    GroupLogps, Metrics, NllOn, NllReduction, Objective, Parameters, Scored, Slope, build,
};

/// Mean log-probs over the whole range: both sides of the default -eps, both branches of log(1 - e^a) and the point
/// between them, underflow of e^a.
const POINTS: [f64; 11] = [-1e-9, -1e-7, -8e-6, -1.25e-5, -1e-4, -0.1, -LN_2, -2.0, -60.0, -800.0, -1e4];

const BETAS: [f64; 4] = [0.1, 0.7, 1.0, 2.0];

const EPS: f64 = 1e-5;

const ONE_PAIR: StepTotals = StepTotals { groups: 1, prompt_tokens: 0, answer_tokens: ByRole::new([4; 6]) };

/// Four tokens whose mean is `a`, exactly in f64: 4a split into f32 parts.
fn answer(a: f64) -> [f32; 4] {
    let mut rest = 4.0 * a;
    std::array::from_fn(|_| {
        let token = rest as f32;
        rest -= f64::from(token);
        token
    })
}

fn scored(logps: &[f32]) -> Option<Scored<'_>> {
    Some(Scored::new(logps))
}

fn pair<'a>(chosen: &'a [f32], rejected: &'a [f32]) -> GroupLogps<'a> {
    GroupLogps::pair(Scored::new(chosen), Scored::new(rejected))
}

/// The chosen answer alone.
fn chosen_only(logps: &[f32]) -> GroupLogps<'_> {
    GroupLogps::default().with(Role::Chosen, Scored::new(logps))
}

/// What a reference model says of an answer as a whole.
fn referred(sum: f64) -> AnswerAnnotations {
    AnswerAnnotations { references: vec![Reference::Sum(sum)], ..AnswerAnnotations::default() }
}

/// Loss and the coefficients of prompt, chosen and rejected, as a device would be given them.
fn run(objective: &dyn Objective, group: &GroupLogps, totals: &StepTotals) -> (f64, [Vec<f32>; 3]) {
    let loss = objective.evaluate(std::slice::from_ref(group), totals).remove(0);
    let written = |slope: &Slope, span: Option<&Scored>| {
        let mut out = vec![7.0; span.map_or(0, Scored::tokens)];
        slope.write(&mut out);
        out
    };
    let answer = |role| written(&loss.answers[role], group.answers[role].as_ref());
    let prompt = written(&loss.prompt, group.prompt.as_ref());
    (loss.value, [prompt, answer(Role::Chosen), answer(Role::Rejected)])
}

/// Loss, dL/da_w and dL/da_l of one pair of answers with these mean log-probs.
fn at(objective: &dyn Objective, a_w: f64, a_l: f64) -> (f64, f64, f64) {
    let (w, l) = (answer(a_w), answer(a_l));
    let (loss, [_, chosen, rejected]) = run(objective, &pair(&w, &l), &ONE_PAIR);
    (loss, 4.0 * f64::from(chosen[0]), 4.0 * f64::from(rejected[0]))
}

fn asft(lambda: f64, beta: f64) -> Box<dyn Objective> {
    made("asft", Parameters { lambda: Some(lambda), beta: Some(beta), ..Parameters::default() })
}

/// ORPO with the NLL that the published identities are about.
fn orpo(lambda: f64) -> Box<dyn Objective> {
    let nll = (Some(NllReduction::Sequence), Some(NllOn::Response));
    let parameters =
        Parameters { lambda: Some(lambda), nll_reduction: nll.0, nll_on: nll.1, ..Default::default() };
    made("orpo", parameters)
}

fn made(name: &str, parameters: Parameters) -> Box<dyn Objective> {
    build(name, &parameters).unwrap()
}

fn metrics(objective: &dyn Objective, group: &GroupLogps) -> Metrics {
    let mut metrics = Metrics::new();
    objective.metrics(group, &ONE_PAIR, &mut metrics);
    metrics
}

fn assert_close(got: f64, want: f64, relative: f64, absolute: f64, what: &str) {
    assert!((got - want).abs() <= relative * want.abs() + absolute, "{what}: got {got:e}, want {want:e}");
}
