//! Losses of real models: `out/` of the folder `ASFT_ORACLE` (or `../shared/oracle`) holds `NAME.json` (f64 losses of transformers, checked against
//! TRL, and a table of closed forms and their autograd derivatives) with `NAME.safetensors` (log-probs) beside it.

use std::path::{Path, PathBuf};

use asft::data::{AnswerAnnotations, ByRole, StepTotals};
use asft::objective::{GroupLogps, Metrics, NllOn, NllReduction, Objective, Parameters, Scored};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{assert_close, at, made, referred, run, scored, skip};

/// Every JSON file of the oracle; none, reported as skipped, where there is no oracle.
fn oracle(test: &str) -> Vec<(PathBuf, Value)> {
    let Some(folder) = skip::outside(test, "ASFT_ORACLE", "oracle") else { return Vec::new() };
    let files = std::fs::read_dir(folder.join("out")).unwrap().map(|entry| entry.unwrap().path());
    let json: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.clone(), serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()))
        .collect();
    assert!(!json.is_empty(), "the oracle holds no .json file");
    json
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key}"))
}

#[test]
fn closed_forms_and_derivatives_at_extreme_probabilities() {
    // The table has no continuation: its nearest point to 0 is -1e-7.
    let eps = Some(1e-8);
    let sequence = (Some(NllReduction::Sequence), Some(NllOn::Response));
    let asft = made("asft", Parameters { c: Some(0.0), logit_eps: eps, ..Parameters::default() });
    let orpo = |lambda| {
        let (nll_reduction, nll_on) = sequence;
        let lambda = Some(lambda);
        made("orpo", Parameters { lambda, logit_eps: eps, nll_reduction, nll_on, ..Parameters::default() })
    };
    let (orpo, nll) = (orpo(1.0), orpo(0.0));
    for (path, json) in oracle("closed_forms_and_derivatives_at_extreme_probabilities") {
        let rows = json["loss_table"].as_array().unwrap();
        assert!(rows.len() >= 81, "{}", path.display());
        for row in rows {
            let (w, l) = (number(row, "mean_logp_w"), number(row, "mean_logp_l"));
            let what = format!("{} at {w:e}, {l:e}", path.display());
            let (loss, slope_w, slope_l) = at(asft.as_ref(), w, l);
            assert_close(loss, number(row, "asft_align"), 1e-13, 0.0, &what);
            assert_close(slope_w, number(row, "d_w"), 6.1e-8, 0.0, &what);
            assert_close(slope_l, number(row, "d_l"), 6.1e-8, 0.0, &what);
            // ORPO's NLL has weight 1 always: f32 coefficients beside its slope of -1 keep 6e-8 of that.
            let (loss, slope_w, slope_l) = at(orpo.as_ref(), w, l);
            let nll = at(nll.as_ref(), w, l);
            assert_close(loss, nll.0 + number(row, "orpo_or"), 1e-13, 0.0, &what);
            assert_close(slope_w, nll.1 + number(row, "orpo_d_w"), 6.1e-8, 0.0, &what);
            assert_close(slope_l, number(row, "orpo_d_l"), 6.1e-8, 0.0, &what);
        }
    }
}

/// The log-probs of one batch: row i is the chosen answer of pair i, row B + i the rejected one.
struct Rows {
    prompts: Vec<Vec<f32>>,
    answers: Vec<Vec<f32>>,
    references: Option<Vec<AnswerAnnotations>>,
}

impl Rows {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let doubles =
            |name: &str| tensors.tensor(name).ok().map(|tensor| words(tensor.data(), f64::from_le_bytes));
        let mask = |name: &str| words(tensors.tensor(name).unwrap().data(), i64::from_le_bytes);
        let columns = tensors.tensor("attention_mask").unwrap().shape()[1];
        let (attention, completion) = (mask("attention_mask"), mask("completion_mask"));
        // Position t of the log-probs scores token t + 1.
        let logps = doubles("token_logps_all").unwrap();
        let pick = |row: usize, wanted: i64| -> Vec<f32> {
            let cell = |t: usize| row * columns + t;
            let scored = (1..columns).filter(|&t| attention[cell(t)] == 1 && completion[cell(t)] == wanted);
            scored.map(|t| logps[row * (columns - 1) + t - 1] as f32).collect()
        };
        let rows = logps.len() / (columns - 1);
        Rows {
            prompts: (0..rows).map(|row| pick(row, 0)).collect(),
            answers: (0..rows).map(|row| pick(row, 1)).collect(),
            references: doubles("ref.seq_sum").map(|sums| sums.into_iter().map(referred).collect()),
        }
    }

    fn pairs(&self) -> usize {
        self.answers.len() / 2
    }

    fn group(&self, pair: usize) -> GroupLogps<'_> {
        let answer = |row: usize| {
            let given = self.references.as_ref().map_or(AnswerAnnotations::NONE, |given| &given[row]);
            Scored::new(&self.answers[row]).with(given)
        };
        let group = GroupLogps::pair(answer(pair), answer(self.pairs() + pair));
        GroupLogps { prompt: scored(&self.prompts[pair]), ..group }
    }

    fn totals(&self) -> StepTotals {
        let tokens = |spans: &[Vec<f32>]| spans.iter().map(Vec::len).sum();
        let (chosen, rejected) = self.answers.split_at(self.pairs());
        StepTotals {
            groups: self.pairs(),
            prompt_tokens: tokens(&self.prompts[..self.pairs()]),
            answer_tokens: ByRole::new([tokens(chosen), tokens(rejected), 0, 0, 0, 0]),
        }
    }
}

fn words<T>(bytes: &[u8], from: fn([u8; 8]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|word| from(*word)).collect()
}

/// The oracle's names of losses, as objectives with the weights that it used.
fn named(hyper: &Value) -> Vec<(&'static str, Box<dyn Objective>)> {
    let p = Parameters::default();
    let asft = Parameters { lambda: Some(number(hyper, "asft_lambda")), ..p };
    let orpo = Parameters { lambda: Some(number(hyper, "orpo_beta")), ..p };
    let token = Some(NllReduction::Token);
    let (sequence, response) = (Some(NllReduction::Sequence), Some(NllOn::Response));
    vec![
        ("sft_token_mean", made("sft", p)),
        ("sft_seq_mean", made("sft", Parameters { nll_reduction: sequence, ..p })),
        ("sft_full_token_mean", made("sft", Parameters { nll_on: Some(NllOn::PromptAndResponse), ..p })),
        ("asft", made("asft", asft)),
        ("asft_token_mean_sft", made("asft", Parameters { nll_reduction: token, ..asft })),
        ("asft_beta", made("asft", Parameters { beta: Some(number(hyper, "asft_beta")), ..asft })),
        ("orpo_trl", made("orpo", orpo)),
        ("orpo_completion_nll", made("orpo", Parameters { nll_on: response, ..orpo })),
        ("orpo_seq_nll", made("orpo", Parameters { nll_on: response, nll_reduction: sequence, ..orpo })),
        ("dpo", made("dpo", Parameters { beta: Some(number(hyper, "dpo_beta")), ..p })),
    ]
}

#[test]
fn losses_of_whole_batches() {
    for (path, json) in oracle("losses_of_whole_batches") {
        let rows = Rows::read(&path.with_extension("safetensors"));
        let totals = rows.totals();
        for (name, objective) in named(&json["hyper"]) {
            if objective.needs_reference() && rows.references.is_none() {
                continue;
            }
            let mut metrics = Metrics::new();
            let mut loss = 0.0;
            for pair in 0..rows.pairs() {
                let group = rows.group(pair);
                loss += run(objective.as_ref(), &group, &totals).0;
                objective.metrics(&group, &totals, &mut metrics);
            }
            let what = format!("{}: {name}", path.display());
            // The log-probs are rounded to f32 on the way in.
            assert_close(loss, number(&json["f64"], name), 1e-7, 0.0, &what);
            if name.starts_with("sft") {
                assert_close(metrics.mean("nll_loss").unwrap(), loss, 1e-14, 0.0, &what);
            }
        }
    }
}
