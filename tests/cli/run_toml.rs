use asft::config::{
    BatchSize, Device, Duration, EvalSource, ExistingFolder, ModelSource, Resume, Scheduler, TrainArguments,
    TrainConfig, Warmup, merge,
};
use clap::{Args, Command, FromArgMatches};
use proptest::prelude::*;

use crate::shell::Shell;

fn rate(objective: &str) -> Option<f64> {
    (objective == "asft").then_some(6e-6)
}

fn arguments(flags: &[&str]) -> TrainArguments {
    let command = TrainArguments::augment_args(Command::new("asft").no_binary_name(true));
    let matches = command.try_get_matches_from(flags).expect("flags that exist");
    TrainArguments::from_arg_matches(&matches).expect("values that parse")
}

fn resolved(flags: &[&str]) -> TrainConfig {
    let whole: &[&str] = &["--model=m", "--data=d", "--output=o"];
    arguments(&[whole, flags].concat()).resolve(rate).expect("flags that agree")
}

/// Writes run.toml and reads it as a file of settings.
fn read_back(config: &TrainConfig) -> TrainConfig {
    let shell = Shell::new();
    let path = shell.write("run.toml", config.to_toml());
    let merged =
        merge(&TrainArguments::default(), [], Some(&path)).expect("run.toml is a configuration file");
    merged.arguments.resolve(|_| None).expect("run.toml holds everything")
}

#[test]
fn defaults() {
    let config = resolved(&[]);
    assert_eq!(config.model, ModelSource::Folder("m".into()));
    assert_eq!((config.data.max_length, config.data.shuffle), (1024, true));
    assert_eq!((config.objective.name.as_str(), config.optimizer.learning_rate), ("asft", 6e-6));
    assert_eq!(config.batch, BatchSize { groups: 128, parts: None });
    let optimizer = config.optimizer;
    assert_eq!((optimizer.beta1, optimizer.beta2, optimizer.epsilon), (0.9, 0.999, 1e-8));
    assert_eq!((optimizer.weight_decay, optimizer.max_grad_norm), (0.0, Some(1.0)));
    assert_eq!(config.schedule.duration, Duration::Epochs(1.0));
    assert_eq!((config.schedule.scheduler, config.schedule.warmup), (Scheduler::Linear, Warmup::Steps(0)));
    assert_eq!((config.evaluation.source, config.evaluation.every), (EvalSource::None, None));
    assert_eq!((config.run.seed, config.run.log_every, config.run.save_every), (42, 10, Some(500)));
    assert_eq!(
        (config.run.existing, config.run.keep, config.run.save_dtype),
        (ExistingFolder::Refuse, None, None)
    );
    assert_eq!((config.device.device, config.device.threads), (Device::Auto, None));
}

#[test]
fn what_the_spellings_mean() {
    let batch = |flags: &[&str]| resolved(flags).batch;
    let (eight, four) = ("--per-device-train-batch-size=8", "--gradient-accumulation-steps=4");
    assert_eq!(batch(&[eight, four]), BatchSize { groups: 32, parts: Some(4) });
    assert_eq!(batch(&[eight]), BatchSize { groups: 8, parts: Some(1) });
    assert_eq!(batch(&["--batch-size=32"]), BatchSize { groups: 32, parts: None });
    let beaten = resolved(&["--max-steps=5", "--num-train-epochs=3"]);
    assert_eq!(beaten.schedule.duration, Duration::Steps(5));
    assert_eq!(resolved(&["--max-grad-norm=0"]).optimizer.max_grad_norm, None);
    assert_eq!(resolved(&["--save-steps=0"]).run.save_every, None);

    let existing = |flags: &[&str]| resolved(flags).run.existing;
    assert_eq!(existing(&["--resume"]), ExistingFolder::ResumeLatest);
    assert_eq!(existing(&["--resume-from-checkpoint=True"]), ExistingFolder::ResumeLatest);
    assert_eq!(existing(&["--resume", "o/checkpoint-3"]), ExistingFolder::Resume("o/checkpoint-3".into()));
    assert_eq!(existing(&["--resume=false", "--overwrite-output-dir"]), ExistingFolder::Overwrite);
    assert_eq!(arguments(&["--resume", "--seed=1"]).run.resume, Some(Resume::Latest));
}

#[test]
fn run_toml_gives_the_configuration_back() {
    let many: &[&[&str]] = &[
        &[],
        &[
            "--per-device-train-batch-size=8",
            "--gradient-accumulation-steps=4",
            "--max-steps=9",
            "--warmup-ratio=0.03",
        ],
        &[
            "--data=x \"quoted\" \\ name\n",
            "--data=y:0.7",
            "--data=z:0.5:1",
            "--max-samples=8",
            "--max-eval-samples=9",
            "--strict",
            "--no-cache",
            "--eval-data=e",
            "--eval-data=f",
            "--eval-steps=2",
            "--sample-answers=3",
        ],
        &[
            "--eval-split=0.1",
            "--metric-for-best-model=loss",
            "--log-command=cat > 'a b'",
            "--skip-nonfinite",
        ],
        &[
            "--eval-split=0.1",
            "--eval-steps=5",
            "--load-best-model-at-end",
            "--metric-for-best-model=rewards/rejected",
            "--greater-is-better=false",
            "--early-stopping-patience=3",
            "--early-stopping-threshold=0.01",
        ],
        &[
            "--eval-split=0.02",
            "--max-grad-norm=0",
            "--save-steps=0",
            "--save-total-limit=2",
            "--save-dtype=bf16",
        ],
        &[
            "--c=0",
            "--lambda=1",
            "--beta=0.1",
            "--logit-eps=1e-7",
            "--nll-on=response",
            "--nll-reduction=token",
        ],
        &[
            "--label-smoothing=0.1",
            "--reference=r",
            "--reference-cache=k",
            "--no-shuffle",
            "--seed=9223372036854775807",
        ],
        &["--chat-template=chatml", "--template-date=2024-07-26"],
        &["--chat-template=./chatml"],
        &[
            "--device=cpu",
            "--threads=3",
            "--max-tokens-per-batch=5",
            "--head-rows=6",
            "--lr-scheduler-type=constant",
        ],
    ];
    for flags in many {
        let config = resolved(flags);
        assert_eq!(read_back(&config), config, "{flags:?}\n{}", config.to_toml());
    }
    let random = arguments(&["--init=c.json", "--tokenizer=t", "--seed=3", "--data=d", "--output=o"]);
    let random = random.resolve(rate).expect("flags that agree");
    let expected = ModelSource::Init { config: "c.json".into(), tokenizer: Some("t".into()), seed: 3 };
    assert_eq!(random.model, expected);
    assert_eq!(read_back(&random), random);
}

#[test]
fn run_toml_does_not_say_how_to_start() {
    for flags in [&["--overwrite-output-dir"][..], &["--resume"], &["--resume=x"]] {
        let config = resolved(flags);
        assert_ne!(config.run.existing, ExistingFolder::Refuse);
        assert_eq!(read_back(&config), resolved(&[]), "{flags:?}");
    }
}

proptest! {
    #[test]
    fn numbers_keep_their_bits(learning_rate in 0.0..f64::MAX, small in 0.0..1e-3, seed in 0..i64::MAX) {
        let mut typed = arguments(&["--model=m", "--data=d", "--output=o"]);
        typed.optimizer.learning_rate = Some(learning_rate);
        typed.optimizer.weight_decay = Some(small);
        typed.schedule.seed = Some(seed);
        let config = typed.resolve(rate).expect("values in range");
        let back = read_back(&config);
        prop_assert_eq!(back.optimizer.learning_rate.to_bits(), learning_rate.to_bits());
        prop_assert_eq!(back.optimizer.weight_decay.to_bits(), small.to_bits());
        prop_assert_eq!(back, config);
    }
}

/// `--flag` of `--flag=value`.
fn name_of(flag: &str) -> Option<&str> {
    flag.split('=').next()
}

#[test]
fn a_resume_may_change_the_end_the_intervals_and_the_place() {
    let held: &[&str] = &["--eval-split=0.5", "--eval-steps=3", "--early-stopping-patience=2"];
    let base = resolved(held);
    let same = [
        "--max-steps=9",
        "--num-train-epochs=9",
        "--eval-steps=9",
        "--sample-answers=9",
        "--save-steps=9",
        "--save-total-limit=9",
        "--logging-steps=9",
        "--log-command=9",
        "--early-stopping-patience=9",
        "--early-stopping-threshold=9",
        "--skip-nonfinite",
        "--output=9",
        "--reference-cache=9",
        "--device=cpu",
        "--threads=9",
        "--resume",
        "--overwrite-output-dir",
        "--strict",
        "--no-cache",
        "--data-cache=9",
        // What is found there is compared, not where it lies.
        "--model=9",
        "--data=9",
        "--data=d:0.5",
    ];
    let other = [
        "--max-samples=9",
        "--max-length=9",
        "--chat-template=9",
        "--template-date=2009-09-09",
        "--no-shuffle",
        "--c=9",
        "--lambda=9",
        "--beta=9",
        "--logit-eps=9",
        "--nll-reduction=token",
        "--nll-on=response",
        "--label-smoothing=9",
        "--load-best-model-at-end",
        "--metric-for-best-model=rewards/margins",
        "--greater-is-better",
        "--batch-size=9",
        "--per-device-train-batch-size=128",
        "--learning-rate=9",
        "--weight-decay=9",
        "--adam-beta1=0.5",
        "--adam-beta2=0.5",
        "--adam-epsilon=9",
        "--max-grad-norm=9",
        "--lr-scheduler-type=cosine",
        "--warmup-steps=9",
        "--warmup-ratio=0.5",
        "--seed=9",
        "--save-dtype=f16",
        "--max-tokens-per-batch=9",
        "--head-rows=9",
    ];
    let changed = |flag: &str| {
        let given = ["--model=m", "--data=d", "--output=o"].iter().chain(held);
        let mut typed: Vec<&str> = given.copied().filter(|given| name_of(given) != name_of(flag)).collect();
        typed.push(flag);
        arguments(&typed).resolve(rate).expect("flags that agree")
    };
    for flag in same {
        let config = changed(flag);
        assert_ne!(config, base, "{flag} changes something");
        assert_eq!((config.fingerprint(), config.differences(&base)), (base.fingerprint(), vec![]), "{flag}");
    }
    for flag in other {
        let config = changed(flag);
        assert_ne!(config.fingerprint(), base.fingerprint(), "{flag}");
        assert!(!config.differences(&base).is_empty(), "{flag}");
    }
}

#[test]
fn differences_show_both_sides() {
    let difference = resolved(&["--beta=0.5", "--seed=1"]).differences(&resolved(&["--head-rows=8"]));
    let shown: Vec<_> = difference.iter().map(|d| (&*d.key, &*d.ours, &*d.theirs)).collect();
    assert_eq!(shown, [("beta", "0.5", "-"), ("seed", "1", "42"), ("head_rows", "-", "8")]);
}

/// A default in a help text that is a value must be the value of a run in which nothing was typed.
#[test]
fn the_help_text_tells_the_defaults() {
    let table: toml::Table = resolved(&[]).to_toml().parse().expect("run.toml is TOML");
    let command = TrainArguments::augment_args(Command::new("asft"));
    let (mut compared, mut in_words) = (Vec::new(), Vec::new());
    for argument in command.get_arguments() {
        let key = argument.get_id().as_str();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let Some((_, default)) = help.split_once("[default: ") else { continue };
        let default = default.trim_end_matches(']');
        match table.get(key) {
            Some(toml::Value::String(name)) if !default.contains(' ') => assert_eq!(name, default, "{key}"),
            Some(toml::Value::Integer(number)) => assert_eq!(number.to_string(), default, "{key}"),
            Some(toml::Value::Float(number)) if !default.contains(' ') => {
                assert_eq!(Ok(*number), default.parse(), "{key}");
            }
            _ => {
                in_words.push(key);
                continue;
            }
        }
        compared.push(key);
    }
    let words = [
        "template_date",
        "data_cache",
        "reference",
        "reference_cache",
        "learning_rate",
        "freeze",
        "metric_for_best_model",
        "greater_is_better",
        "save_total_limit",
        "save_dtype",
        "threads",
    ];
    let device =
        ["dtype", "optimizer_state", "head_logits", "recompute", "max_tokens_per_batch", "head_rows"];
    assert_eq!(in_words, [&words[..], &device].concat());
    assert_eq!(compared.len(), 19, "{compared:?}");
}
