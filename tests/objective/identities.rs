//! Published identities, and what the contract of an objective promises its caller.

use std::f64::consts::LN_2;

use asft::data::{ByRole, Role, Roles, Spans, StepTotals};
use asft::objective::{Coupling, GroupLogps, Metrics, NllOn, NllReduction, Parameters, Scored};

use super::{
    EPS, ONE_PAIR, POINTS, asft, assert_close, at, chosen_only, made, metrics, orpo, pair, referred, run,
    scored,
};

#[test]
fn asft_at_beta_1_is_its_closed_form_and_the_limit_of_its_neighbours() {
    for (w, l) in POINTS.iter().flat_map(|&w| POINTS.map(|l| (w, l))) {
        let (closed, closed_w, closed_l) = at(asft(0.8, 1.0).as_ref(), w, l);
        if l <= -EPS {
            // 2502.01237, Lemmas C.1 and C.2, by way of the odds ratio's own definition.
            let p = l.exp();
            let unlikelihood = if p < 0.1 { -(-p).ln_1p() } else { -(-l.exp_m1()).ln() };
            assert_close(closed, -1.8 * w + 0.8 * unlikelihood, 1e-14, 0.0, "closed form");
        }
        let (near, near_w, near_l) = at(asft(0.8, 1.0 + 1e-9).as_ref(), w, l);
        assert_close(near, closed, 1e-7, 1e-12, &format!("value at {w:e}, {l:e}"));
        assert_close(near_w, closed_w, 2e-7, 0.0, &format!("dL/da_w at {w:e}, {l:e}"));
        assert_close(near_l, closed_l, 2e-5, 1e-300, &format!("dL/da_l at {w:e}, {l:e}"));
    }
}

#[test]
fn orpo_is_below_asft_by_the_published_difference() {
    // 2502.01237, Theorem D.1, beyond whose range the two are continued differently.
    for (w, l) in POINTS.iter().flat_map(|&w| POINTS.map(|l| (w, l))).filter(|(w, l)| w.max(*l) <= -EPS) {
        let lambda = 0.6;
        let (orpo, asft) = (at(orpo(lambda).as_ref(), w, l).0, at(asft(lambda, 1.0).as_ref(), w, l).0);
        let (p_w, p_l) = (w.exp(), l.exp());
        let mass = p_w * -l.exp_m1() + p_l * -w.exp_m1();
        assert!(orpo <= asft * (1.0 + 1e-14), "{w:e}, {l:e}: {orpo} > {asft}");
        if mass > 0.0 {
            assert_close(orpo, asft + lambda * mass.ln(), 1e-11, 1e-11 * asft, &format!("{w:e}, {l:e}"));
        }
    }
}

#[test]
fn asft_at_lambda_0_has_the_bits_of_sft_with_sequence_reduction() {
    let sequence = Parameters { nll_reduction: Some(NllReduction::Sequence), ..Parameters::default() };
    let sft = made("sft", sequence);
    let asft = made("asft", Parameters { lambda: Some(0.0), ..Parameters::default() });
    assert_eq!(asft.spans(), sft.spans());
    assert_eq!(asft.spans().answers, Roles::CHOSEN);
    let totals = StepTotals { groups: 7, prompt_tokens: 9, answer_tokens: ByRole::new([40, 31, 0, 0, 0, 0]) };
    for length in 1..40 {
        let mut chosen: Vec<f32> = (0..length).map(|t| -0.37 * (t as f32 * 1.7).sin().abs() - 1e-7).collect();
        if length == 39 {
            // A target that the model gives no mass at all.
            chosen[7] = f32::NEG_INFINITY;
        }
        for group in [pair(&chosen, &[-0.3, -2.0]), chosen_only(&chosen)] {
            let (x, y) = (run(sft.as_ref(), &group, &totals), run(asft.as_ref(), &group, &totals));
            assert_eq!(x.0.to_bits(), y.0.to_bits(), "{length} tokens");
            let bits = |coefficients: &[Vec<f32>; 3]| {
                coefficients.clone().map(|span| span.into_iter().map(f32::to_bits).collect::<Vec<u32>>())
            };
            assert_eq!(bits(&x.1), bits(&y.1), "{length} tokens");
        }
    }
}

#[test]
fn dpo_starts_at_ln_2_and_label_smoothing_mixes_the_two_orders() {
    let (w, l) = ([-1.25, -0.5], [-3.0_f32]);
    let loss = |smoothing, reference: (f64, f64)| {
        let dpo = made("dpo", Parameters { label_smoothing: Some(smoothing), ..Parameters::default() });
        let given = [referred(reference.0), referred(reference.1)];
        let group = GroupLogps::pair(Scored::new(&w).with(&given[0]), Scored::new(&l).with(&given[1]));
        run(dpo.as_ref(), &group, &ONE_PAIR).0
    };
    assert_eq!(loss(0.0, (-1.75, -3.0)), LN_2);
    assert_eq!(loss(0.3, (-1.75, -3.0)), LN_2);
    // D = 4, and -4 with the reference's preference turned round.
    let (right, wrong) = (loss(0.0, (-3.75, -1.0)), loss(0.0, (0.25, -5.0)));
    assert_close(right, (1.0 + (-0.4_f64).exp()).ln(), 1e-15, 0.0, "softplus(-0.4)");
    assert_close(loss(0.3, (-3.75, -1.0)), 0.7 * right + 0.3 * wrong, 1e-15, 0.0, "cDPO");
}

#[test]
fn partial_groups_of_sequence_coupled_objectives_add_up() {
    let (prompt, chosen, rejected) = ([-3.0, -0.5], [-0.2, -1.1, -0.03], [-2.0_f32]);
    let whole = GroupLogps { prompt: scored(&prompt), ..pair(&chosen, &rejected) };
    let parts = [
        GroupLogps { prompt: whole.prompt, ..Default::default() },
        chosen_only(&chosen),
        GroupLogps::default().with(Role::Rejected, Scored::new(&rejected)),
    ];
    let totals = StepTotals { groups: 3, prompt_tokens: 8, answer_tokens: ByRole::new([11, 5, 0, 0, 0, 0]) };
    let mut tried = 0;
    for name in ["asft", "sft", "orpo"] {
        for (reduction, on) in nll_forms() {
            let beta = (name == "asft").then_some(0.7);
            let parameters =
                Parameters { nll_reduction: Some(reduction), nll_on: Some(on), beta, ..Default::default() };
            let objective = made(name, parameters);
            if objective.coupling() != Coupling::Sequence {
                continue;
            }
            tried += 1;
            let (loss, together) = run(objective.as_ref(), &whole, &totals);
            let alone = parts.map(|part| run(objective.as_ref(), &part, &totals));
            let sum: f64 = alone.iter().map(|(loss, _)| loss).sum();
            assert_close(sum, loss, 1e-15, 0.0, &format!("{objective:?}"));
            for (span, whole) in together.iter().enumerate() {
                assert_eq!(&alone[span].1[span], whole, "{objective:?}");
            }
        }
    }
    assert_eq!(tried, 6, "three of the four NLL forms, for ASFT and SFT");
}

fn nll_forms() -> impl Iterator<Item = (NllReduction, NllOn)> {
    let reductions = [NllReduction::Sequence, NllReduction::Token];
    reductions.into_iter().flat_map(|r| [NllOn::Response, NllOn::PromptAndResponse].map(|on| (r, on)))
}

#[test]
fn spans_and_coupling_follow_the_parameters() {
    let p = Parameters::default();
    let sequence_on_both = Parameters {
        nll_reduction: Some(NllReduction::Sequence),
        nll_on: Some(NllOn::PromptAndResponse),
        ..p
    };
    let table = [
        ("asft", p, Coupling::Sequence, (false, true)),
        ("asft", sequence_on_both, Coupling::Group, (true, true)),
        ("asft", Parameters { c: Some(0.0), ..sequence_on_both }, Coupling::Sequence, (false, true)),
        ("asft", Parameters { lambda: Some(0.0), ..p }, Coupling::Sequence, (false, false)),
        ("sft", p, Coupling::Sequence, (false, false)),
        ("sft", sequence_on_both, Coupling::Group, (true, false)),
        ("orpo", p, Coupling::Group, (true, true)),
        ("orpo", Parameters { lambda: Some(0.0), ..p }, Coupling::Sequence, (true, false)),
        ("dpo", p, Coupling::Group, (false, true)),
    ];
    for (name, parameters, coupling, (prompt, rejected)) in table {
        let objective = made(name, parameters);
        assert_eq!(objective.coupling(), coupling, "{objective:?}");
        let answers = Roles::CHOSEN.with(Role::Rejected, rejected);
        assert_eq!(objective.spans(), Spans { prompt, answers }, "{objective:?}");
    }
}

#[test]
fn a_span_without_a_coefficient_is_zeroed_and_an_invalid_group_counts_nothing() {
    let sft = made("sft", Parameters::default());
    let prompt = [-1.0];
    let group = GroupLogps { prompt: scored(&prompt), ..pair(&[-0.5], &[-0.7, -0.1]) };
    let (_, [prompt, chosen, rejected]) = run(sft.as_ref(), &group, &ONE_PAIR);
    assert_eq!((prompt, chosen, rejected), (vec![0.0], vec![-0.25], vec![0.0, 0.0]));

    for name in ["asft", "sft", "orpo", "dpo"] {
        let objective = made(name, Parameters::default());
        for group in [pair(&[], &[-0.7]), pair(&[-0.7], &[])] {
            let (loss, coefficients) = run(objective.as_ref(), &group, &ONE_PAIR);
            assert_eq!(loss, 0.0, "{name}");
            assert!(coefficients.iter().flatten().all(|&g| g == 0.0), "{name}: {coefficients:?}");
            assert_eq!(metrics(objective.as_ref(), &group), Metrics::new(), "{name}");
        }
    }
}

#[test]
#[should_panic(expected = "reference")]
fn dpo_without_reference_log_probs_is_refused() {
    run(made("dpo", Parameters::default()).as_ref(), &pair(&[-1.0], &[-2.0]), &ONE_PAIR);
}
