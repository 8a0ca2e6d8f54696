//! The paper's theorems, numerically: the gradient planes of DPO, ASFT and ORPO against the objectives as they are trained with,
//! and where `|d1 / d2|` crosses 1.

use asft::objective::{GroupLogps, Objective, Parameters, Scored};
use asft::paper::plane::{Height, Plane};

use super::{ONE_PAIR, answer, asft, assert_close, made, orpo, pair, referred, run};

/// The loss of an objective at probabilities, by way of the log-probs of four tokens.
type Loss<'a> = Box<dyn Fn(f64, f64) -> f64 + 'a>;

/// Loss of a reference-free objective where the answers' mean log-probs are `log x1` and `log x2`.
fn over_probabilities<'a>(objective: &'a dyn Objective) -> Loss<'a> {
    Box::new(|x1, x2| {
        let (w, l) = (answer(x1.ln()), answer(x2.ln()));
        run(objective, &pair(&w, &l), &ONE_PAIR).0
    })
}

/// Loss of DPO where the answers' probabilities are `x1` and `x2` times those under a reference.
fn over_ratios<'a>(objective: &'a dyn Objective) -> Loss<'a> {
    // Any reference: only the ratio may matter.
    let given = [referred(-7.25), referred(-2.5)];
    Box::new(move |x1, x2| {
        let (w, l) = (answer((x1.ln() - 7.25) / 4.0), answer((x2.ln() - 2.5) / 4.0));
        let group = GroupLogps::pair(Scored::new(&w).with(&given[0]), Scored::new(&l).with(&given[1]));
        run(objective, &group, &ONE_PAIR).0
    })
}

/// Derivatives of a loss by central differences with Richardson's extrapolation: an error of h^4.
fn differences(loss: &Loss, x1: f64, x2: f64) -> Height {
    let derivative = |of: &dyn Fn(f64) -> f64, x: f64| {
        // The log-probs of the implementation are f32 and so the sums of four of them good to about 1e-15 of their size.
        let h = 2e-3 * x.min(1.0 - x).abs().max(0.02 * x);
        let central = |h: f64| (of(x + h) - of(x - h)) / (2.0 * h);
        (4.0 * central(h / 2.0) - central(h)) / 3.0
    };
    Height { loss: loss(x1, x2), d1: derivative(&|x| loss(x, x2), x1), d2: derivative(&|x| loss(x1, x), x2) }
}

/// Points of the open unit square, near its edges too.
const SHARES: [f64; 7] = [0.003, 0.08, 0.31, 0.5, 0.64, 0.9, 0.995];

fn check(plane: Plane, loss: &Loss, points: &[f64]) {
    for (x1, x2) in points.iter().flat_map(|&x1| points.iter().map(move |&x2| (x1, x2))) {
        let (ours, theirs) = (plane.at(x1, x2), differences(loss, x1, x2));
        let what = |name: &str| format!("{name} of {plane:?} at {x1}, {x2}");
        assert_close(ours.loss, theirs.loss, 1e-12, 1e-12, &what("loss"));
        // A derivative that is small beside the other is seen through the other's rounding.
        let floor = 1e-9 * (1.0 + ours.slope());
        assert_close(ours.d1, theirs.d1, 1e-7, floor, &what("d1"));
        assert_close(ours.d2, theirs.d2, 1e-7, floor, &what("d2"));
    }
}

#[test]
fn planes_are_those_of_the_objectives() {
    for (c, lambda) in [(0.0, 1.0), (1.0, 1.0), (1.0, 0.2), (0.5, 3.0)] {
        let parameters = Parameters { c: Some(c), lambda: Some(lambda), ..Parameters::default() };
        let asft = made("asft", parameters);
        check(Plane::Asft { c, lambda }, &over_probabilities(asft.as_ref()), &SHARES);
    }
    for lambda in [1.0, 0.1, 4.0] {
        let whole = orpo(lambda);
        check(Plane::Orpo { c: 1.0, lambda }, &over_probabilities(whole.as_ref()), &SHARES);
        // The odds-ratio term alone: what is left of ORPO without its NLL, which is SFT.
        let sft = orpo(0.0);
        let (whole, sft) = (over_probabilities(whole.as_ref()), over_probabilities(sft.as_ref()));
        let term: Loss = Box::new(|x1, x2| whole(x1, x2) - sft(x1, x2));
        check(Plane::Orpo { c: 0.0, lambda }, &term, &SHARES);
    }
    for beta in [1.0, 0.1, 0.5] {
        let dpo = made("dpo", Parameters { beta: Some(beta), ..Parameters::default() });
        let ratios = [0.02, 0.4, 1.3, 2.0, 17.0];
        check(Plane::Dpo { beta }, &over_ratios(dpo.as_ref()), &ratios);
    }
}

/// Where on the line from `(low, x2)` to `(high, x2)` the two derivatives of a loss are of one size, by bisection of finite
/// differences; the chosen answer must be the faster one below, unless `rising`.
fn crossing(loss: &Loss, mut low: f64, mut high: f64, x2: f64, rising: bool) -> f64 {
    let faster = |x1: f64| (differences(loss, x1, x2).ratio() > 1.0) != rising;
    assert!(faster(low) && !faster(high), "no crossing between {low} and {high} at x2 = {x2}");
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if faster(middle) { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[test]
fn the_faster_answer_changes_where_the_theorems_say() {
    let near =
        |got: f64, want: f64, what: &str| assert!((got - want).abs() < 1e-6, "{what}: {got}, not {want}");

    // DPO: x1 = x2. As soon as the chosen answer is ahead, the rejected one falls faster than the chosen one rises.
    for beta in [0.1, 1.0] {
        let dpo = made("dpo", Parameters { beta: Some(beta), ..Parameters::default() });
        let loss = over_ratios(dpo.as_ref());
        for x2 in [0.2, 0.7, 1.5] {
            near(crossing(&loss, 0.2 * x2, 4.0 * x2, x2, false), x2, "DPO");
        }
    }

    // ASFT's align term: x1 + x2 = 1, wherever that is.
    let align = made("asft", Parameters { c: Some(0.0), ..Parameters::default() });
    let loss = over_probabilities(align.as_ref());
    for x2 in [0.05, 0.3, 0.5, 0.85] {
        near(crossing(&loss, 0.01, 0.99, x2, false), 1.0 - x2, "ASFT");
    }
    // With its SFT term: lambda x1 + (c + lambda) x2 = c + lambda; below x2 = 1/2 the chosen answer is the faster one everywhere.
    let whole = asft(1.0, 1.0);
    let loss = over_probabilities(whole.as_ref());
    for x2 in [0.55, 0.7, 0.9] {
        near(crossing(&loss, 0.01, 0.99, x2, false), 2.0 * (1.0 - x2), "ASFT with SFT");
    }
    assert!(SHARES.iter().all(|&x1| differences(&loss, x1, 0.499).ratio() > 1.0));

    // ORPO's odds-ratio term: x1 (1 - x1) = x2 (1 - x2), so twice on each line, at x1 = x2 and at x1 = 1 - x2.
    let (whole, sft) = (orpo(1.0), orpo(0.0));
    let (whole, sft) = (over_probabilities(whole.as_ref()), over_probabilities(sft.as_ref()));
    let term: Loss = Box::new(|x1, x2| whole(x1, x2) - sft(x1, x2));
    for x2 in [0.05, 0.3, 0.45] {
        near(crossing(&term, 0.01, 0.5, x2, false), x2, "ORPO, x1 = x2");
        near(crossing(&term, 0.5, 0.99, x2, true), 1.0 - x2, "ORPO, x1 + x2 = 1");
    }
}

/// arXiv 2502.01237, Theorem D.1 and Corollary D.2, over the whole square: ORPO is never above ASFT, and the difference is
/// `lambda log(p_w (1 - p_l) + p_l (1 - p_w))`, which is 0 in two corners alone.
#[test]
fn orpo_is_bounded_by_asft_over_the_square() {
    let points: Vec<f64> = (1..60).map(|i| f64::from(i) / 60.0).collect();
    for (c, lambda) in [(0.0, 1.0), (1.0, 0.25)] {
        for (x1, x2) in points.iter().flat_map(|&x1| points.iter().map(move |&x2| (x1, x2))) {
            let orpo = Plane::Orpo { c, lambda }.at(x1, x2).loss;
            let asft = Plane::Asft { c, lambda }.at(x1, x2).loss;
            let difference = lambda * (x1 * (1.0 - x2) + x2 * (1.0 - x1)).ln();
            assert!(orpo < asft, "{x1}, {x2}: {orpo} is not below {asft}");
            assert_close(orpo, asft + difference, 1e-12, 1e-13, &format!("{x1}, {x2}"));
        }
    }
}
