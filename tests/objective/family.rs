//! Identities between objectives: what a special case of one is, is the other.

use std::f64::consts::LN_2;

use asft::data::{Reference, Role};
use asft::objective::{GroupLoss, Objective, Parameters, build};

use super::assert_close;
use super::rows::{Row, totals, views};

fn made(name: &str, parameters: &str) -> Box<dyn Objective> {
    let parameters: Parameters = serde_json::from_str(parameters).unwrap();
    build(name, &parameters).unwrap_or_else(|error| panic!("{error}"))
}

/// A step of three pairs with everything known of them.
fn steps() -> Vec<Row> {
    let lengths = [(3usize, 5usize), (1, 2), (6, 1)];
    let mut place = 0.0_f32;
    let mut logps = |length: usize| -> Vec<f32> {
        (0..length)
            .map(|_| {
                place += 1.0;
                -0.05 - 3.0 * (place * 1.7).sin().abs()
            })
            .collect()
    };
    let mut rows: Vec<Row> = lengths
        .into_iter()
        .map(|(w, l)| {
            let row = Row::default().with(Role::Chosen, &logps(w)).with(Role::Rejected, &logps(l));
            row.with(Role::Third, &logps(2))
        })
        .collect();
    for (row, shift) in rows.iter_mut().zip([0.8, -0.3, 1.9]) {
        *row = row.clone().referred(shift);
        // Not the same shift for both answers.
        let rejected = &mut row.given.answers[Role::Rejected];
        rejected.references =
            vec![Reference::Tokens(vec![-1.1; row.answers[Role::Rejected].as_ref().unwrap().len()].into())];
        row.given.soft_label = Some(1.0);
        row.given.prompt_embedding = Some([1.0, shift].into());
        for role in [Role::Chosen, Role::Rejected] {
            let length = row.answers[role].as_ref().unwrap().len();
            row.given.answers[role].weights = Some(vec![1.0; length].into());
        }
    }
    rows
}

fn evaluate(objective: &dyn Objective, rows: &[Row]) -> Vec<GroupLoss> {
    objective.evaluate(&views(rows), &totals(rows))
}

/// The same losses and slopes of both answers, up to rounding.
fn assert_same(one: &dyn Objective, other: &dyn Objective, rows: &[Row]) {
    let (a, b) = (evaluate(one, rows), evaluate(other, rows));
    for ((a, b), row) in a.iter().zip(&b).zip(rows) {
        let what = format!("{one:?} and {other:?}");
        assert_close(a.value, b.value, 1e-13, 1e-15, &what);
        for role in [Role::Chosen, Role::Rejected] {
            for token in 0..row.answers[role].as_ref().unwrap().len() {
                assert_close(a.answers[role].at(token), b.answers[role].at(token), 1e-12, 1e-15, &what);
            }
        }
    }
}

#[test]
fn special_cases_of_other_objectives_are_dpo() {
    let dpo = made("dpo", r#"{"beta": 0.3}"#);
    for (name, parameters) in [
        ("gdpo", r#"{"beta": 0.3}"#),
        ("tis_dpo", r#"{"beta": 0.3}"#),
        ("mrpo", r#"{"beta": 0.3}"#),
        ("robust", r#"{"beta": 0.3, "label_smoothing": 0}"#),
        ("rpo", r#"{"beta": 0.3, "eta": 0}"#),
        ("dpop", r#"{"beta": 0.3, "lambda": 0}"#),
        ("dpo", r#"{"beta": 0.3, "label_smoothing": 0, "ld_alpha": 1}"#),
        ("dpo:1", r#"{"beta": 0.3}"#),
        ("sigmoid", r#"{"beta": 0.3, "f_divergence": "alpha", "f_alpha": 1}"#),
        // At the largest and the smallest temperature alike.
        ("ada_dpo", r#"{"rho": 0, "tau_min": 3.3333333333333335, "tau_max": 3.3333333333333335}"#),
    ] {
        let other = made(name, parameters);
        if name == "ada_dpo" {
            // tau softplus(-D / tau): 1 / beta times DPO.
            let scaled = made("dpo:3.3333333333333335", r#"{"beta": 0.3}"#);
            assert_same(other.as_ref(), scaled.as_ref(), &steps());
            continue;
        }
        assert_same(other.as_ref(), dpo.as_ref(), &steps());
    }
    // BMC where no token was changed.
    let mut rows = steps();
    for row in &mut rows {
        for role in [Role::Chosen, Role::Rejected] {
            let weights = row.given.answers[role].weights.as_mut().unwrap();
            weights.fill(0.0);
        }
    }
    assert_same(made("bmc", r#"{"beta": 0.3}"#).as_ref(), dpo.as_ref(), &rows);
    // One pair alone.
    for name in ["aot", "aot_unpaired", "relative_po"] {
        assert_same(made(name, r#"{"beta": 0.3}"#).as_ref(), dpo.as_ref(), &steps()[..1]);
    }
    // Several references that agree.
    let mut rows = steps();
    for row in &mut rows {
        for (_, given) in row.given.answers.iter_mut() {
            given.references =
                given.references.iter().cycle().take(3 * given.references.len()).cloned().collect();
        }
    }
    for alpha in ["-1", "0.2"] {
        let mrpo = made("mrpo", &format!(r#"{{"beta": 0.3, "alpha": {alpha}}}"#));
        assert_same(mrpo.as_ref(), dpo.as_ref(), &rows);
    }
}

#[test]
fn without_a_reference_the_same_holds() {
    let mut rows = steps();
    for row in &mut rows {
        for (_, given) in row.given.answers.iter_mut() {
            given.references = vec![Reference::Sum(0.0)];
        }
    }
    let same = |one: (&str, &str), other: (&str, &str)| {
        assert_same(made(one.0, one.1).as_ref(), made(other.0, other.1).as_ref(), &rows);
    };
    same(("cpo", r#"{"alpha": 0}"#), ("dpo", "{}"));
    same(("simpo", r#"{"beta": 0.7, "gamma": 0}"#), ("sigmoid_norm", r#"{"beta": 0.7}"#));
    same(("slic_hf", r#"{"beta": 0.4}"#), ("hinge", r#"{"beta": 0.4}"#));
    same(("tpo", r#"{"alpha": 0, "beta": 0.1}"#), ("dpo", "{}"));
    same(
        ("tpo_l", r#"{"alpha": 0, "beta": 0.7, "gamma": 0.9}"#),
        ("simpo", r#"{"beta": 0.7, "gamma": 0.9}"#),
    );
    same(("alphapo", r#"{"alpha": 0, "beta": 0.7}"#), ("simpo", r#"{"beta": 0.7}"#));
    same(("simpo", r#"{"alpha": 0.4}"#), ("simpo:1,sft:0.4", "{}"));
    same(
        ("rpo", r#"{"eta": 0.2, "nll_reduction": "sequence"}"#),
        ("dpo:1,sft:0.2", r#"{"nll_reduction": "sequence"}"#),
    );
}

#[test]
fn at_the_reference_dpo_and_its_kin_are_ln_2() {
    for name in
        ["dpo", "gdpo", "mrpo", "tis_dpo", "sigmoid_norm", "robust", "aot", "aot_unpaired", "relative_po"]
    {
        let objective = made(name, "{}");
        let mut rows = steps();
        for row in &mut rows {
            *row = row.clone().referred(0.0);
        }
        // AOT's places do not matter: every difference is 0 only where all log-ratios are.
        let value: f64 = match name {
            "aot" => evaluate(objective.as_ref(), &rows[..1]).iter().map(|loss| loss.value).sum(),
            _ => evaluate(objective.as_ref(), &rows).iter().map(|loss| loss.value).sum(),
        };
        assert_close(value, LN_2, 1e-15, 0.0, name);
    }
}

/// tau* against a search over all temperatures (arXiv 2406.02764's own definition).
#[test]
fn ada_dpo_finds_the_best_temperature() {
    let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
    for rho in [-0.69, -0.4, -0.1, 0.2] {
        let objective = made("ada_dpo", &format!(r#"{{"rho": {rho}}}"#));
        for d in [-8.0, -0.8, -0.02, 0.0, 0.3, 0.9, 5.0_f32] {
            let row = Row::default().with(Role::Chosen, &[-9.0 + d]).with(Role::Rejected, &[-9.0]);
            let mut row = row.referred(0.0);
            row.given.answers[Role::Chosen].references = vec![Reference::Sum(-9.0)];
            let d = f64::from(-9.0 + d) + 9.0;
            let got = evaluate(objective.as_ref(), &[row])[0].value;
            let grid = (0..=49_000).map(|i| 0.1 + f64::from(i) * 1e-4);
            let best = grid.map(|tau| tau * softplus(-d / tau) + rho * tau).fold(f64::INFINITY, f64::min);
            assert!(got <= best + 1e-12 && got >= best - 1e-7, "rho {rho}, D {d}: {got}, {best}");
        }
    }
}

/// Gradient planes over x1 = p_w (or the ratio to the reference) and x2 = p_l, and where |d1/d2| crosses 1.
#[test]
fn gradient_planes_of_the_paper() {
    let answer = |x: f64| [x.ln() as f32];
    let planes = |objective: &dyn Objective, x1: f64, x2: f64| {
        let (w, l) = (answer(x1), answer(x2));
        let mut row = Row::default().with(Role::Chosen, &w).with(Role::Rejected, &l);
        for (_, given) in row.given.answers.iter_mut() {
            given.references = vec![Reference::Sum(0.0)];
        }
        let loss = evaluate(objective, &[row]).remove(0);
        // d/dx = d/da / x
        let (x1, x2) = (f64::from(w[0]).exp(), f64::from(l[0]).exp());
        (loss.answers[Role::Chosen].at(0) / x1, loss.answers[Role::Rejected].at(0) / x2, x1, x2)
    };
    let (dpo, align) = (made("dpo", r#"{"beta": 0.1}"#), made("asft", r#"{"c": 0}"#));
    let (asft, lambda) = (made("asft", r#"{"lambda": 0.6}"#), 0.6);
    let orpo = made("orpo:1", r#"{"lambda": 1, "nll_on": "response", "nll_reduction": "sequence"}"#);
    let grid = [0.04, 0.2, 0.35, 0.5, 0.65, 0.8, 0.96];
    for (x1, x2) in grid.into_iter().flat_map(|x1| grid.map(|x2| (x1, x2 * 0.99))) {
        let near = |(d1, d2): (f64, f64), (e1, e2): (f64, f64), what: &str| {
            assert_close(d1, e1, 1e-9, 0.0, what);
            assert_close(d2, e2, 1e-9, 0.0, what);
        };
        let (d1, d2, x1, x2) = planes(dpo.as_ref(), x1, x2);
        let (b, sum) = (0.1, x1.powf(0.1) + x2.powf(0.1));
        near((d1, d2), (-b * x2.powf(b) / (x1 * sum), b * x2.powf(b - 1.0) / sum), "dpo");
        assert_eq!((d1 / d2).abs() < 1.0, x2 < x1, "dpo");
        let (d1, d2, x1, x2) = planes(align.as_ref(), x1, x2);
        near((d1, d2), (-1.0 / x1, 1.0 / (1.0 - x2)), "asft, aligned only");
        assert_eq!((d1 / d2).abs() >= 1.0, x1 + x2 <= 1.0, "asft");
        let (d1, d2, x1, x2) = planes(asft.as_ref(), x1, x2);
        near((d1, d2), (-(1.0 + lambda) / x1, lambda / (1.0 - x2)), "asft");
        let (d1, d2, x1, x2) = planes(orpo.as_ref(), x1, x2);
        let logit = |x: f64| (x / (1.0 - x)).ln();
        let s = 1.0 / (1.0 + (logit(x1) - logit(x2)).exp());
        near((d1 + 1.0 / x1, d2), (-s / (x1 * (1.0 - x1)), s / (x2 * (1.0 - x2))), "orpo");
    }
}

#[test]
fn sums_take_parameters_to_whoever_has_them_and_refuse_nonsense() {
    let sum = made("sigmoid:0.8,sft:0.2", r#"{"beta": 0.3, "nll_reduction": "sequence"}"#);
    assert_eq!(sum.name(), "dpo:0.8,sft:0.2");
    let rows = steps();
    let (dpo, sft) = (made("dpo", r#"{"beta": 0.3}"#), made("sft", r#"{"nll_reduction": "sequence"}"#));
    let (a, b, c) =
        (evaluate(dpo.as_ref(), &rows), evaluate(sft.as_ref(), &rows), evaluate(sum.as_ref(), &rows));
    for ((a, b), c) in a.iter().zip(&b).zip(&c) {
        assert_close(c.value, 0.8 * a.value + 0.2 * b.value, 1e-15, 0.0, "sum");
    }
    let refused = |name: &str, parameters: &str| {
        let parameters: Parameters = serde_json::from_str(parameters).unwrap();
        build(name, &parameters).unwrap_err().to_string()
    };
    for (name, parameters, what) in [
        ("dpo:0.8,dpo:0.2", "{}", "dpo is named twice"),
        ("dpo:0.8,kto:0.2", "{}", "dpo and kto learn from different kinds of rows"),
        ("dpo:x", "{}", "\"x\" is no number"),
        ("dpo:0,sft:1", "{}", "the weight of dpo is 0"),
        ("dpo:-1", "{}", "the weight of dpo is -1"),
        ("asfd:0.8,sft:0.2", "{}", "did you mean `asft`?"),
        ("dpo:1,sft:1", r#"{"gamma": 1}"#, "--gamma is not a parameter of dpo"),
        ("ada_dpo", r#"{"tau_min": 2, "tau_max": 1}"#, "--tau-min = 2 is above --tau-max = 1"),
        (
            "sft",
            r#"{"nll_reduction": "sum"}"#,
            "sft: --nll-reduction = sum, but it must be sequence or token",
        ),
    ] {
        let message = refused(name, parameters);
        assert!(message.contains(what), "{message}");
    }
}
