//! Objectives by name: defaults, listings, and what a person reads when they mistype.

use asft::objective::{NllOn, NllReduction, ObjectiveError, Parameters, build, registry};

/// What a person reads when they mistype.
#[test]
fn errors_name_what_was_typed_and_what_would_do() {
    let p = Parameters::default();
    let beta = Parameters { beta: Some(0.1), ..p };
    let table = [
        ("orpo", beta, "orpo: TRL's beta is --lambda here (--beta is not a parameter of orpo)"),
        (
            "sft",
            Parameters { c: Some(0.5), ..p },
            "sft: it takes --nll-reduction, --nll-on; --c belongs to asft (--c is not a parameter of sft)",
        ),
        (
            "sigmoid",
            Parameters { logit_eps: Some(1e-5), ..p },
            "dpo: it takes --beta, --label-smoothing, --f-divergence, --f-alpha, --ld-alpha, --weighting; --logit-eps belongs to asft, orpo (--logit-eps is not a parameter of dpo)",
        ),
        (
            "asft",
            Parameters { lambda: Some(-1.0), ..p },
            "asft: --lambda = -1, but it must be at least 0 and at most 1e6",
        ),
        (
            "asft",
            Parameters { beta: Some(0.0), ..p },
            "asft: --beta = 0, but it must be above 0 and at most 1e6",
        ),
        (
            "dpo",
            Parameters { label_smoothing: Some(0.5), ..p },
            "dpo: --label-smoothing = 0.5, but it must be at least 0 and below 0.5",
        ),
        (
            "asft",
            Parameters { logit_eps: Some(0.0), ..p },
            "asft: --logit-eps = 0, but it must be at least 1e-12 and at most 0.1",
        ),
        (
            "asft",
            Parameters { c: Some(0.0), lambda: Some(0.0), ..p },
            "asft: --c and --lambda are all 0, so there is nothing to learn; set one of them above 0",
        ),
        ("asfd", p, "unknown objective `asfd` (did you mean `asft`?); `asft objectives` lists all there are"),
        ("ppo", p, "unknown objective `ppo`; `asft objectives` lists all there are"),
        ("reinforce", p, "unknown objective `reinforce`; `asft objectives` lists all there are"),
    ];
    for (name, parameters, message) in table {
        assert_eq!(build(name, &parameters).unwrap_err().to_string(), message);
    }
    for value in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
        let error = build("dpo", &Parameters { beta: Some(value), ..p }).unwrap_err();
        assert!(matches!(error, ObjectiveError::OutOfRange { parameter: "beta", .. }), "{error}");
    }
    let error = "tokens".parse::<NllReduction>().unwrap_err();
    assert_eq!(error.to_string(), "--nll-reduction = `tokens`, but it must be sequence, token or sum");
    assert_eq!("prompt_and_response".parse(), Ok(NllOn::PromptAndResponse));
}

#[test]
fn the_registry_agrees_with_what_it_builds() {
    let mut names: Vec<&str> = Vec::new();
    for entry in registry::OBJECTIVES {
        let objective = entry.build(&Parameters::default()).unwrap();
        assert_eq!(objective.name(), entry.name);
        assert_eq!(objective.needs_reference(), entry.reference);
        assert!(entry.learning_rate.value > 0.0 && !entry.learning_rate.source.is_empty());

        // Resolved parameters are exactly those that the entry lists, at the defaults that it lists.
        let resolved = entry.resolve(&Parameters::default()).unwrap();
        let mut listed: Vec<&str> = entry.parameters.iter().map(|parameter| parameter.name()).collect();
        let mut typed = resolved.typed();
        listed.sort_unstable();
        typed.sort_unstable();
        assert_eq!(typed, listed, "{}", entry.name);
        let shown = serde_json::to_value(resolved).unwrap();
        for parameter in entry.parameters {
            let value = &shown[parameter.name()];
            let default = parameter.default();
            let same = value.as_str() == Some(&default) || value.as_f64() == default.parse().ok();
            assert!(same, "{} {}: {value}, {default}", entry.name, parameter.name());
        }
        assert_eq!(serde_json::from_value::<Parameters>(shown).unwrap(), resolved);
        names.extend([entry.name].iter().chain(entry.aliases));
    }
    for name in &names {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} is taken twice");
        assert!(registry::find(&name.to_uppercase().replace('_', "-")).is_ok());
    }
    // The defaults of the command line, as documented.
    let default = |name: &str| registry::find(name).unwrap().resolve(&Parameters::default()).unwrap();
    let nll =
        |reduction, on| Parameters { nll_reduction: Some(reduction), nll_on: Some(on), ..Default::default() };
    assert_eq!(default("sft"), nll(NllReduction::Token, NllOn::Response));
    let orpo = nll(NllReduction::Token, NllOn::PromptAndResponse);
    assert_eq!(default("orpo"), Parameters { lambda: Some(0.1), logit_eps: Some(1e-5), ..orpo });
    let asft = nll(NllReduction::Sequence, NllOn::Response);
    let (c, lambda, beta, logit_eps) = (Some(1.0), Some(1.0), Some(1.0), Some(1e-5));
    assert_eq!(default("asft"), Parameters { c, lambda, beta, logit_eps, ..asft });
    let dpo = default("sigmoid");
    assert_eq!((dpo.beta, dpo.label_smoothing, dpo.ld_alpha), (Some(0.1), Some(0.0), Some(1.0)));
}
