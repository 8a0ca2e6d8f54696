//! Coefficients against finite differences over the whole range, and what happens at its ends.

use asft::objective::{GroupLogps, Objective, Parameters, Scored};

use super::{
    BETAS, EPS, ONE_PAIR, POINTS, answer, asft, assert_close, at, made, metrics, orpo, referred, run,
};

/// Richardson's extrapolation of central differences; the steps never straddle -eps, where f'' jumps.
fn difference(f: impl Fn(f64) -> f64, a: f64, h: f64) -> f64 {
    let central = |h: f64| {
        let (right, left) = (a + h, a - h);
        (f(right) - f(left)) / (right - left)
    };
    (4.0 * central(h / 2.0) - central(h)) / 3.0
}

#[test]
fn coefficients_are_the_derivatives_of_the_loss() {
    let mut objectives: Vec<Box<dyn Objective>> = BETAS.iter().map(|&beta| asft(0.8, beta)).collect();
    objectives.push(orpo(0.5));
    objectives.push(made("asft", Parameters { c: Some(0.0), ..Parameters::default() }));
    for objective in &objectives {
        let objective = objective.as_ref();
        // All pairs, identical answers among them.
        for (w, l) in POINTS.iter().flat_map(|&w| POINTS.map(|l| (w, l))) {
            let (loss, slope_w, slope_l) = at(objective, w, l);
            let step = |a: f64| a.abs() / 256.0;
            let noise = |a: f64| 64.0 * f64::EPSILON * loss.abs() / step(a);
            let what = format!("{objective:?} at {w:e}, {l:e}");
            let numeric = difference(|w| at(objective, w, l).0, w, step(w));
            assert_close(slope_w, numeric, 2e-7, noise(w), &format!("{what}: dL/da_w"));
            let numeric = difference(|l| at(objective, w, l).0, l, step(l));
            assert_close(slope_l, numeric, 2e-7, noise(l), &format!("{what}: dL/da_l"));
        }
    }
}

#[test]
fn dpo_coefficients_are_the_derivatives_of_the_loss() {
    for (beta, smoothing) in [(0.1, 0.0), (0.1, 0.3), (2.0, 0.0), (1e-3, 0.49)] {
        let dpo = made(
            "dpo",
            Parameters { beta: Some(beta), label_smoothing: Some(smoothing), ..Default::default() },
        );
        let loss = |w: f64, l: f64| {
            let (w, l) = (answer(w), answer(l));
            let given = [referred(-7.0), referred(-9.5)];
            let group = GroupLogps::pair(Scored::new(&w).with(&given[0]), Scored::new(&l).with(&given[1]));
            run(dpo.as_ref(), &group, &ONE_PAIR)
        };
        for (w, l) in POINTS.iter().flat_map(|&w| POINTS.map(|l| (w, l))) {
            let (value, [_, chosen, rejected]) = loss(w, l);
            // D moves by four times the step, beta * D by less than 0.01.
            let step = (w.abs() / 256.0).min(2e-3 / beta);
            let noise = 64.0 * f64::EPSILON * (value.abs() + 1.0) / step;
            let numeric = difference(|w| loss(w, l).0, w, step);
            assert_close(4.0 * f64::from(chosen[0]), numeric, 2e-7, noise, "dpo, chosen");
            assert_eq!(rejected, chosen.iter().map(|g| -g).collect::<Vec<f32>>());
        }
    }
}

#[test]
fn extremes_of_every_parameter_stay_finite() {
    let logps = [0.0, 1e-6, -1e-45, -1e-12, -1e-5, -0.5, -89.0, -1e4, -1e30];
    let with = |c, lambda, beta, eps| Parameters {
        c: Some(c),
        lambda: Some(lambda),
        beta: Some(beta),
        logit_eps: Some(eps),
        ..Parameters::default()
    };
    let mut objectives = vec![made("sft", Parameters::default())];
    for eps in [1e-12, 0.1] {
        for (lambda, beta) in [(1e6, 1e6), (1e6, 1e-300), (1e-300, 1e6), (1e6, 1.0), (1.0, 0.99)] {
            objectives.push(made("asft", with(1e6, lambda, beta, eps)));
            objectives.push(made("orpo", Parameters { c: None, beta: None, ..with(0.0, lambda, 1.0, eps) }));
            objectives.push(made("dpo", Parameters { beta: Some(beta), ..Parameters::default() }));
        }
    }
    for objective in &objectives {
        for (w, l) in logps.iter().flat_map(|&w| logps.map(|l| (w, l))) {
            // One token each, and the same text twice on the diagonal.
            let (w, l) = ([w], [l]);
            let given = referred(-3.0);
            let group = GroupLogps::pair(Scored::new(&w).with(&given), Scored::new(&l).with(&given));
            let (loss, coefficients) = run(objective.as_ref(), &group, &ONE_PAIR);
            let what = format!("{objective:?} at {w:?}, {l:?}");
            assert!(loss.is_finite(), "{what}: {loss}");
            assert!(coefficients.iter().flatten().all(|g| g.is_finite()), "{what}: {coefficients:?}");
            for (name, value) in metrics(objective.as_ref(), &group).means() {
                assert!(value.is_finite(), "{what}: {name} = {value}");
            }
        }
    }
}

#[test]
fn value_and_gradient_are_continuous_at_the_edge() {
    let (below, above) = (-EPS * (1.0 + 1e-9), -EPS * (1.0 - 1e-9));
    let objectives = BETAS.map(|beta| asft(1.0, beta)).into_iter().chain([orpo(1.0)]);
    for objective in objectives {
        for other in [-2.0, -1e-4] {
            for side in [|o: &dyn Objective, a, b| at(o, a, b), |o: &dyn Objective, a, b| at(o, b, a)] {
                let (x, y) = (side(objective.as_ref(), below, other), side(objective.as_ref(), above, other));
                assert_close(x.0, y.0, 0.0, 1e-8, &format!("{objective:?}: value"));
                assert_close(x.1, y.1, 1.3e-7, 0.0, &format!("{objective:?}: dL/da_w"));
                assert_close(x.2, y.2, 1.3e-7, 0.0, &format!("{objective:?}: dL/da_l"));
            }
        }
    }
}

#[test]
fn the_gradient_of_the_diverging_terms_is_bounded() {
    // Mean log-probs from above 0 down to -1e3, densely around -eps.
    let sweep = || (-160..=40).map(|i| -(10.0_f64.powf(f64::from(i) / 20.0 + 1.0))).chain([0.0, 1e-6]);
    for (lambda, beta) in [1.0, 0.3].into_iter().flat_map(|lambda| BETAS.map(|beta| (lambda, beta))) {
        let objective = asft(lambda, beta);
        let bound = lambda * beta / -(-EPS).exp_m1();
        for a in sweep() {
            let (_, slope_w, slope_l) = at(objective.as_ref(), a, a);
            assert!(
                (0.0..=bound * (1.0 + 1e-7)).contains(&slope_l),
                "beta {beta}, a {a}: {slope_l} > {bound}"
            );
            assert!((-1.0 - bound..0.0).contains(&slope_w), "beta {beta}, a {a}: {slope_w}");
        }
        if beta == 1.0 {
            // Reached, and from there on constant.
            for a in [-EPS, -1e-9, 0.0, 1e-6] {
                assert_close(
                    at(objective.as_ref(), -1.0, a).2,
                    lambda / EPS.exp_m1(),
                    1e-7,
                    0.0,
                    "at the edge",
                );
            }
        }
    }
    let bound = 0.3 / -(-EPS).exp_m1();
    for (w, l) in sweep().flat_map(|w| [(w, 0.0), (-3.0, w), (w, w)]) {
        let (_, slope_w, slope_l) = at(orpo(0.3).as_ref(), w, l);
        assert!((0.0..=bound * (1.0 + 1e-7)).contains(&slope_l), "orpo at {w}, {l}: {slope_l}");
        assert!((-1.0 - bound..0.0).contains(&slope_w), "orpo at {w}, {l}: {slope_w}");
    }
}
