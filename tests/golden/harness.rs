//! A checkpoint, a batch and an objective as the engine runs them; distances from stored tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use asft::backend::cpu::{CpuBackend, Operands};
use asft::backend::{Backend, STEP_STATE_LEN};
use asft::checkpoint::ModelFolder;
use asft::data::{Answer, Batch, EncodeConfig, Encoder, Group, Role, StepTotals, load, pack};
use asft::eval::{Scorer, Silent, largest};
use asft::model::{Budget, Precision, Rungs};
use asft::objective::{self, NllOn, NllReduction, Objective, Parameters, ReferenceNeed};
use asft::optim::AdamwSettings;
use asft::train::{Evaluation, InferenceLayout, Layout, LayoutSettings, Target, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

/// The golden files of this repository.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// AdamW as in every run of the goldens and of the oracle.
pub const ADAMW: AdamwSettings =
    AdamwSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, seed: 0 };

/// An objective under its name in the goldens.
pub fn objective(name: &str) -> Box<dyn Objective> {
    let sequence = Some(NllReduction::Sequence);
    let token = Some(NllReduction::Token);
    let asft = Parameters { lambda: Some(0.5), ..Parameters::default() };
    let (kind, parameters) = match name {
        "sft_token_mean" => ("sft", Parameters::default()),
        "sft_seq_mean" => ("sft", Parameters { nll_reduction: sequence, ..Parameters::default() }),
        "sft_full_token_mean" => {
            ("sft", Parameters { nll_on: Some(NllOn::PromptAndResponse), ..Parameters::default() })
        }
        "asft" => ("asft", asft),
        "asft_token_mean_sft" => ("asft", Parameters { nll_reduction: token, ..asft }),
        "asft_beta" => ("asft", Parameters { beta: Some(0.7), ..asft }),
        "orpo_trl" => ("orpo", Parameters::default()),
        "orpo_completion_nll" => {
            ("orpo", Parameters { nll_on: Some(NllOn::Response), ..Parameters::default() })
        }
        "orpo_seq_nll" => (
            "orpo",
            Parameters { nll_on: Some(NllOn::Response), nll_reduction: sequence, ..Parameters::default() },
        ),
        "dpo" => ("dpo", Parameters::default()),
        _ => panic!("the goldens have an objective {name} that the tests do not know"),
    };
    objective::build(kind, &parameters).unwrap()
}

/// The pre-tokenised pairs of a JSONL file.
pub fn groups(path: &Path) -> Vec<Group> {
    let config = EncodeConfig { vocab_size: usize::MAX >> 33, ..EncodeConfig::default() };
    load(&[path.to_owned()], &Encoder::new(None, None, config)).unwrap().groups
}

/// The pairs of one of the oracle's batches (`{"pairs": [{"prompt", "chosen", "rejected"}]}`).
pub fn oracle_groups(path: &Path) -> Vec<Group> {
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let pairs = json["pairs"].as_array().unwrap().iter().enumerate();
    pairs
        .map(|(row, pair)| Group {
            row,
            prompt: ids(&pair["prompt"]),
            answers: vec![
                Answer { role: Role::Chosen, ids: ids(&pair["chosen"]), scored: None, text: None },
                Answer { role: Role::Rejected, ids: ids(&pair["rejected"]), scored: None, text: None },
            ],
            annotations: None,
        })
        .collect()
}

fn spans_everything() -> asft::data::Spans {
    asft::data::Spans { prompt: true, answers: asft::data::Roles::PAIR }
}

/// A budget that holds all of the groups in one micro-batch.
pub fn budget(groups: &[Group]) -> Budget {
    let spans = spans_everything();
    let (_, _, positions) = largest(groups, spans);
    Budget {
        tokens: groups.iter().map(|group| spans.tokens(group)).sum(),
        rows: groups.iter().map(|group| spans.rows(group)).sum(),
        head_rows: groups.iter().map(|group| spans.rows(group)).sum(),
        positions: positions.max(64),
        rungs: Rungs::NONE,
        mixed: false,
    }
}

/// What is compared: a backend and its number formats.
pub struct Engine<B> {
    /// Makes the backend.
    pub backend: fn() -> B,
    /// The number formats.
    pub precision: Precision,
}

/// The CPU, as it always computes.
pub const CPU: Engine<CpuBackend> =
    Engine { backend: || CpuBackend::new(2).unwrap(), precision: Precision::F32 };

/// The CPU with products of bf16: `--dtype bf16`.
pub const CPU_BF16: Engine<CpuBackend> = Engine {
    backend: || CpuBackend::new(2).unwrap().with_operands(Operands::Bf16),
    precision: Precision::BF16_OPERANDS,
};

impl<B: Backend> Engine<B> {
    /// A budget as the engine's device pads it.
    fn padded(&self, budget: Budget) -> Budget {
        let rungs = Target::new(B::KIND, None).rungs(budget.tokens, budget.head_rows);
        Budget { rungs, ..budget }
    }

    /// A trainer with a checkpoint's weights.
    pub fn trainer(&self, checkpoint: &Path, budget: Budget, objective: Box<dyn Objective>) -> Trainer<B> {
        let folder = ModelFolder::open(checkpoint).unwrap();
        let settings =
            LayoutSettings { precision: self.precision, ..LayoutSettings::f32(self.padded(budget), ADAMW) };
        let settings = LayoutSettings { inputs: objective.inputs(), ..settings };
        let layout = Layout::new(folder.config(), settings);
        let mut trainer = layout.trainer((self.backend)(), objective, Some(1.0)).unwrap();
        trainer.model.load(&mut trainer.backend, &folder).unwrap();
        trainer
    }
}

/// Fills in the reference log-probs of a checkpoint, as the engine computes them.
pub fn with_reference<B: Backend>(
    engine: &Engine<B>,
    mut groups: Vec<Group>,
    checkpoint: &Path,
) -> Vec<Group> {
    let folder = ModelFolder::open(checkpoint).unwrap();
    let budget = engine.padded(budget(&groups));
    let layout = InferenceLayout::new(folder.config(), budget, engine.precision, 0);
    let mut backend = (engine.backend)();
    layout.allocate(&mut backend).unwrap();
    layout.model.load(&mut backend, &folder).unwrap();
    let mut scorer = Scorer {
        backend: &mut backend,
        model: &layout.model,
        activations: &layout.activations,
        progress: &mut Silent,
    };
    scorer.add_references("reference", &mut groups, ReferenceNeed::Sums).unwrap();
    groups
}

/// What one micro-batch gives: its loss, and every parameter's gradient by name.
pub struct Computed {
    pub loss: f64,
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// Loss and gradients of all groups in one micro-batch.
pub fn compute<B: Backend>(trainer: &mut Trainer<B>, groups: &[Group]) -> Computed {
    let members: Vec<&Group> = groups.iter().collect();
    let batch: Batch = pack(&members, trainer.objective.spans());
    let totals = StepTotals::of(groups);
    trainer.backend.write(trainer.state, &[0.0f64; STEP_STATE_LEN]);
    let ticket = trainer.micro_batch(&batch, totals, false).unwrap();
    let log_probs = trainer.backend.collect(ticket).unwrap();
    let mut evaluation = Evaluation::new(trainer.objective.as_ref(), totals);
    evaluation.add(&batch.groups, log_probs);
    let (loss, _) = evaluation.finish();
    Computed { loss, gradients: parameters(trainer, trainer.model.gradients().unwrap()) }
}

/// Every parameter's values in one of the flat arenas.
pub fn parameters<B: Backend>(
    trainer: &mut Trainer<B>,
    arena: asft::backend::View,
) -> BTreeMap<String, Vec<f32>> {
    let Trainer { backend, model, .. } = trainer;
    let mut all = BTreeMap::new();
    for parameter in model.table.iter() {
        let mut values = vec![0.0f32; parameter.elements()];
        backend.read(arena.slice(parameter.range()), &mut values).unwrap();
        all.insert(parameter.name.clone(), values);
    }
    all
}

/// Every parameter's master weights.
pub fn weights<B: Backend>(trainer: &mut Trainer<B>) -> BTreeMap<String, Vec<f32>> {
    let Trainer { backend, model, .. } = trainer;
    let mut all = BTreeMap::new();
    for parameter in model.table.iter() {
        let mut values = vec![0.0f32; parameter.elements()];
        model.read_weight(backend, &parameter.name, 0, &mut values).unwrap();
        all.insert(parameter.name.clone(), values);
    }
    all
}

/// A stored tensor as f64.
pub fn stored(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("the golden file has no {name}"));
    let bytes = tensor.data();
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
        }
        safetensors::Dtype::F64 => {
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        other => panic!("{name} is stored as {other:?}"),
    }
}

/// |a - b| / |b|.
pub fn relative(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f64| x * x;
    let distance: f64 = ours.iter().zip(theirs).map(|(&a, &b)| square(f64::from(a) - b)).sum();
    (distance / theirs.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

/// The cosine of the angle between a and b.
pub fn cosine(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let (mut dot, mut a, mut b) = (0.0, 0.0, 0.0);
    for (&x, &y) in ours.iter().zip(theirs) {
        let x = f64::from(x);
        (dot, a, b) = (dot + x * y, a + x * x, b + y * y);
    }
    dot / (a * b).sqrt()
}

/// The largest |a - b|.
pub fn furthest(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}
