//! Small random models, made-up groups, and what one micro-batch computes.

use std::collections::BTreeMap;
use std::path::Path;

use asft::backend::cpu::CpuBackend;
use asft::backend::{Backend, STEP_STATE_LEN, View};
use asft::data::{Answer, Batch, Group, Reference, Role, Roles, Spans, StepTotals, pack};
use asft::eval::{Scorer, Silent, largest};
use asft::model::{Budget, LlamaConfig, Rungs};
use asft::objective::{self, NllOn, NllReduction, Objective, Parameters, ReferenceNeed};
use asft::optim::AdamwSettings;
use asft::train::{Evaluation, Layout, LayoutSettings, Trainer};
use serde_json::{Value, json};

use crate::reference;

/// Every kind of attention, rotary table and head: their names.
pub const MODELS: [&str; 3] = ["gqa llama3", "mqa linear tied", "mha"];

/// Vocabulary of the smallest model: ids below it are known to all.
pub const VOCABULARY: u32 = 67;

/// `config.json` of a model, with weights large enough that nothing is nearly uniform.
pub fn config_json(model: &str) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "initializer_range": 0.2, "max_position_embeddings": 512, "tie_word_embeddings": false
    });
    let more = match model {
        "gqa llama3" => json!({
            "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 101,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64
            }
        }),
        "mqa linear tied" => json!({
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 1, "vocab_size": VOCABULARY, "tie_word_embeddings": true,
            "rope_scaling": { "rope_type": "linear", "factor": 2.0 }
        }),
        "mha" => json!({
            "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 131
        }),
        _ => panic!("no model {model}"),
    };
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Every objective in the forms that differ in what they couple and which rows they score.
pub const OBJECTIVES: [&str; 8] = [
    "asft",
    "asft beta",
    "asft token over all",
    "asft sequence over all",
    "sft",
    "sft sequence",
    "orpo",
    "dpo",
];

/// An objective by its name here.
pub fn objective(name: &str) -> Box<dyn Objective> {
    let over_all = Some(NllOn::PromptAndResponse);
    let (sequence, token) = (Some(NllReduction::Sequence), Some(NllReduction::Token));
    let none = Parameters::default();
    let (kind, parameters) = match name {
        "asft" => ("asft", Parameters { lambda: Some(0.5), ..none }),
        "asft beta" => ("asft", Parameters { beta: Some(0.7), ..none }),
        "asft token over all" => ("asft", Parameters { nll_on: over_all, nll_reduction: token, ..none }),
        "asft sequence over all" => {
            ("asft", Parameters { nll_on: over_all, nll_reduction: sequence, ..none })
        }
        "sft" => ("sft", none),
        "sft sequence" => ("sft", Parameters { nll_reduction: sequence, ..none }),
        "orpo" => ("orpo", none),
        "dpo" => ("dpo", none),
        other => (other, none),
    };
    objective::build(kind, &parameters).unwrap()
}

/// A group of these lengths; its tokens depend on the row.
pub fn group(row: usize, prompt: usize, chosen: usize, rejected: usize) -> Group {
    let mut random = reference::normal(row as u64, prompt + chosen + rejected).into_iter();
    let mut ids = |len: usize| -> Vec<u32> {
        random.by_ref().take(len).map(|x| (x.abs() * 1e5) as u32 % VOCABULARY).collect()
    };
    let prompt = ids(prompt);
    let answers = [(Role::Chosen, chosen), (Role::Rejected, rejected)].map(|(role, len)| Answer {
        role,
        ids: ids(len),
        scored: None,
        text: None,
    });
    Group { row, prompt, answers: answers.to_vec(), annotations: None }
}

/// Groups with one-token prompts and answers, and answers of very different lengths.
pub fn groups() -> Vec<Group> {
    vec![group(0, 7, 5, 9), group(1, 1, 3, 1), group(2, 12, 1, 4), group(3, 3, 17, 2), group(4, 5, 6, 6)]
}

/// The groups with reference log-probs: those of a model, moved by `offsets`.
pub fn with_reference(model: &str, mut groups: Vec<Group>, offsets: [f64; 2]) -> Vec<Group> {
    let mut trainer = trainer(model, budget(&groups), objective("dpo"));
    add_references(&mut trainer, &mut groups);
    for group in &mut groups {
        for (role, offset) in [Role::Chosen, Role::Rejected].into_iter().zip(offsets) {
            let reference = &mut group.annotations_mut().answers[role].references[0];
            *reference = Reference::Sum(reference.sum() + offset);
        }
    }
    groups
}

/// The groups as an objective needs them.
pub fn groups_for(model: &str, objective: &dyn Objective) -> Vec<Group> {
    if objective.needs_reference() { with_reference(model, groups(), [0.7, -0.4]) } else { groups() }
}

/// Adds the summed log-probs of every answer under the trainer's weights, as those of a reference.
pub fn add_references(trainer: &mut Trainer<CpuBackend>, groups: &mut [Group]) {
    let Trainer { backend, model, activations, .. } = trainer;
    let mut scorer = Scorer { backend, model, activations, progress: &mut Silent };
    scorer.add_references("reference", groups, ReferenceNeed::Sums).unwrap();
}

/// A budget that holds all of the groups in one micro-batch.
pub fn budget(groups: &[Group]) -> Budget {
    let spans = Spans { prompt: true, answers: Roles::PAIR };
    let rows = groups.iter().map(|group| spans.rows(group)).sum();
    let tokens = groups.iter().map(|group| spans.tokens(group)).sum();
    Budget {
        tokens,
        rows,
        head_rows: rows,
        positions: largest(groups, spans).2,
        rungs: Rungs::NONE,
        mixed: false,
    }
}

/// A trainer with random weights, norms included, from seed 1 on two threads.
pub fn trainer(model: &str, budget: Budget, objective: Box<dyn Objective>) -> Trainer<CpuBackend> {
    trainer_on(CpuBackend::new(2).unwrap(), model, 1, budget, objective)
}

/// A trainer on a backend, from a seed.
pub fn trainer_on<B: Backend>(
    backend: B,
    model: &str,
    seed: u64,
    budget: Budget,
    objective: Box<dyn Objective>,
) -> Trainer<B> {
    trainer_of(backend, model, seed, LayoutSettings::f32(budget, ADAMW), objective)
}

/// The settings of the optimizer in all of these tests.
pub const ADAMW: AdamwSettings =
    AdamwSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, seed: 0 };

/// A model's configuration.
pub fn config(model: &str) -> LlamaConfig {
    LlamaConfig::from_json(&config_json(model).to_string(), Path::new("config.json")).unwrap()
}

/// A trainer with a layout of these settings.
pub fn trainer_of<B: Backend>(
    backend: B,
    model: &str,
    seed: u64,
    settings: LayoutSettings,
    objective: Box<dyn Objective>,
) -> Trainer<B> {
    let settings = LayoutSettings { inputs: objective.inputs(), ..settings };
    let layout = Layout::new(&config(model), settings);
    let mut trainer = layout.trainer(backend, objective, Some(1.0)).unwrap();
    let Trainer { backend, model, .. } = &mut trainer;
    model.initialise(backend, seed);
    for (index, parameter) in model.table.iter().enumerate().filter(|(_, p)| p.shape.len() == 1) {
        let random = reference::normal(index as u64, parameter.elements());
        let values: Vec<f32> = random.iter().map(|x| 1.0 + 0.2 * *x as f32).collect();
        model.write_weight(backend, parameter, &values);
    }
    trainer
}

/// What one micro-batch gives.
pub struct Computed {
    pub loss: f64,
    pub log_probs: Vec<f32>,
    pub coefficients: Vec<f32>,
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// Loss, log-probs, coefficients and gradients of one micro-batch.
pub fn compute(trainer: &mut Trainer<CpuBackend>, groups: &[Group]) -> Computed {
    let batch = packed(trainer, groups);
    let totals = StepTotals::of(groups);
    clear(trainer);
    let ticket = trainer.micro_batch(&batch, totals, false).unwrap();
    let log_probs: Vec<f32> = trainer.backend.collect(ticket).unwrap();
    let mut evaluation = Evaluation::new(trainer.objective.as_ref(), totals);
    evaluation.add(&batch.groups, log_probs.clone());
    let (loss, _) = evaluation.finish();
    let coefficients = trainer.activations.head.coefficients.first(log_probs.len());
    Computed { loss, log_probs, coefficients: read(trainer, coefficients), gradients: gradients(trainer) }
}

/// The groups as one batch of a trainer's spans.
pub fn packed(trainer: &Trainer<CpuBackend>, groups: &[Group]) -> Batch {
    pack(&groups.iter().collect::<Vec<_>>(), trainer.objective.spans())
}

/// Takes the flag and the clip factor back.
pub fn clear(trainer: &mut Trainer<CpuBackend>) {
    trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
}

/// A view's values.
pub fn read<B: Backend>(trainer: &mut Trainer<B>, view: View) -> Vec<f32> {
    let mut values = vec![0.0; view.len];
    trainer.backend.read(view, &mut values).unwrap();
    values
}

/// Every parameter's gradient.
pub fn gradients(trainer: &mut Trainer<CpuBackend>) -> BTreeMap<String, Vec<f32>> {
    let arena = trainer.model.gradients().unwrap();
    by_name(trainer, arena)
}

/// Every parameter's values in one of the flat arenas.
pub fn by_name(trainer: &mut Trainer<CpuBackend>, arena: View) -> BTreeMap<String, Vec<f32>> {
    let places: Vec<_> = trainer.model.table.iter().map(|p| (p.name.clone(), p.range())).collect();
    places.into_iter().map(|(name, range)| (name, read(trainer, arena.slice(range)))).collect()
}

/// Bits of the weights and of both moments.
pub fn state_bits(trainer: &mut Trainer<CpuBackend>) -> [Vec<u32>; 3] {
    let optimizer = &trainer.optimizer;
    let arenas = [trainer.model.weights(), optimizer.first_moments, optimizer.second_moments];
    arenas.map(|arena| bits(&read(trainer, arena)))
}

/// Bits, for comparisons in which NaN equals NaN.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The same numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Every tensor within `limit` of the other's, relative in the Euclidean norm; gives the largest distance.
pub fn assert_near(
    what: &str,
    got: &BTreeMap<String, Vec<f32>>,
    expected: &BTreeMap<String, Vec<f64>>,
    limit: f64,
) -> f64 {
    assert!(got.keys().eq(expected.keys()), "{what}: other tensors");
    let mut worst = 0.0f64;
    for (name, got) in got {
        let distance = reference::relative_l2(&wide(got), &expected[name]);
        assert!(distance <= limit, "{what}: {name} is off by {distance:e}");
        worst = worst.max(distance);
    }
    println!("{what}: within {worst:.1e}");
    worst
}

/// All tensors in f64.
pub fn widened(tensors: &BTreeMap<String, Vec<f32>>) -> BTreeMap<String, Vec<f64>> {
    tensors.iter().map(|(name, values)| (name.clone(), wide(values))).collect()
}
