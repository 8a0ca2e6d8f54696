//! What a model makes of preference pairs: log-probs, log-odds, margins and accuracies, rewards and divergence against a
//! reference, each with its bootstrap interval; and its own answers against the chosen ones.
//!
//! Boundary: numbers of rows in, estimates out. Who scores and who answers is [`super::Scorer`]'s and
//! [`crate::generate`]'s business.

use super::bootstrap::{Estimate, estimate};
use super::text::bleu::Bleu;
use super::text::distinct;
use super::text::rouge::Rouge;
use crate::objective::odds;

/// The log-probs of one answer's scored tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerScore {
    /// Of each token; at least one.
    pub tokens: Vec<f32>,
}

impl AnswerScore {
    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.tokens.iter().fold(0.0, |sum, &logp| sum + f64::from(logp))
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.sum() / self.tokens.len().max(1) as f64
    }

    /// The log-odds of the mean, `log(p / (1 - p))` with p its exponential.
    pub fn log_odds(&self) -> f64 {
        odds::log_odds(self.mean()).value
    }
}

/// One pair under one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairScore {
    /// Of the chosen answer.
    pub chosen: AnswerScore,
    /// Of the rejected answer.
    pub rejected: AnswerScore,
}

/// One answer of the model to a prompt of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    /// Its text.
    pub text: String,
    /// The chosen answer's text.
    pub expected: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it ended by itself.
    pub ended: bool,
}

/// A named estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name, as in `metrics.jsonl` where that has the same quantity.
    pub name: &'static str,
    /// Value and interval.
    pub estimate: Estimate,
}

/// Means over rows, and ratios of sums: a numerator and a denominator per row.
fn ratio(name: &'static str, seed: u64, rows: &[(f64, f64)]) -> Metric {
    let statistic = |drawn: &[usize]| {
        let (top, bottom) =
            drawn.iter().fold((0.0, 0.0), |(top, bottom), &row| (top + rows[row].0, bottom + rows[row].1));
        top / bottom
    };
    Metric { name, estimate: estimate(rows.len(), seed, statistic) }
}

fn mean<T>(name: &'static str, seed: u64, rows: &[T], value: impl Fn(&T) -> f64) -> Metric {
    let rows: Vec<(f64, f64)> = rows.iter().map(|row| (value(row), 1.0)).collect();
    ratio(name, seed, &rows)
}

/// `exp(-sum of log-probs / tokens)` over all answers.
fn perplexity(name: &'static str, seed: u64, answers: &[&AnswerScore]) -> Metric {
    let rows: Vec<(f64, f64)> =
        answers.iter().map(|answer| (-answer.sum(), answer.tokens.len() as f64)).collect();
    let Estimate { value, low, high } = ratio(name, seed, &rows).estimate;
    // The exponential is monotone, so the exponential of a bound is the bound of the exponential.
    Metric { name, estimate: Estimate { value: value.exp(), low: low.exp(), high: high.exp() } }
}

/// 1 for more, 0 for less, a half for a tie.
fn wins(ours: f64, theirs: f64) -> f64 {
    match ours.total_cmp(&theirs) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}

/// Metrics of a model's scores alone. There must be at least one pair.
pub fn metrics(pairs: &[PairScore], seed: u64) -> Vec<Metric> {
    type Value = fn(&PairScore) -> f64;
    let means: [(&'static str, Value); 10] = [
        ("logps/chosen", |pair| pair.chosen.sum()),
        ("logps/rejected", |pair| pair.rejected.sum()),
        ("logps/margins", |pair| pair.chosen.sum() - pair.rejected.sum()),
        ("logps/accuracies", |pair| wins(pair.chosen.sum(), pair.rejected.sum())),
        ("mean_logps/chosen", |pair| pair.chosen.mean()),
        ("mean_logps/rejected", |pair| pair.rejected.mean()),
        ("mean_logps/margins", |pair| pair.chosen.mean() - pair.rejected.mean()),
        ("mean_logps/accuracies", |pair| wins(pair.chosen.mean(), pair.rejected.mean())),
        ("log_odds/chosen", |pair| pair.chosen.log_odds()),
        ("log_odds/rejected", |pair| pair.rejected.log_odds()),
    ];
    let mut metrics: Vec<Metric> =
        means.into_iter().map(|(name, value)| mean(name, seed, pairs, value)).collect();
    let chosen: Vec<&AnswerScore> = pairs.iter().map(|pair| &pair.chosen).collect();
    let rejected: Vec<&AnswerScore> = pairs.iter().map(|pair| &pair.rejected).collect();
    metrics.push(perplexity("perplexity/chosen", seed, &chosen));
    metrics.push(perplexity("perplexity/rejected", seed, &rejected));
    metrics
}

/// Metrics against a reference's scores of the same pairs. A reward is `log p - log p_ref` of an answer: DPO's without its
/// beta.
pub fn against_reference(pairs: &[PairScore], reference: &[PairScore], seed: u64) -> Vec<Metric> {
    let both: Vec<(&PairScore, &PairScore)> = pairs.iter().zip(reference).collect();
    let chosen = |(ours, theirs): &(&PairScore, &PairScore)| ours.chosen.sum() - theirs.chosen.sum();
    let rejected = |(ours, theirs): &(&PairScore, &PairScore)| ours.rejected.sum() - theirs.rejected.sum();
    let margin = |pair: &PairScore| pair.chosen.mean() - pair.rejected.mean();
    let answers: Vec<(&AnswerScore, &AnswerScore)> =
        both.iter().map(|(ours, theirs)| (&ours.chosen, &theirs.chosen)).collect();
    let [k1, k3] = divergences(["log_ratio/chosen_k1", "log_ratio/chosen_k3"], &answers, seed);
    vec![
        mean("rewards/chosen", seed, &both, chosen),
        mean("rewards/rejected", seed, &both, rejected),
        mean("rewards/margins", seed, &both, |pair| chosen(pair) - rejected(pair)),
        mean("rewards/accuracies", seed, &both, |pair| wins(chosen(pair), rejected(pair))),
        mean("reference/wins", seed, &both, |(ours, theirs)| wins(margin(ours), margin(theirs))),
        k1,
        k3,
    ]
}

/// The estimators k1 and k3 of KL(model | reference) per token (Schulman, "Approximating KL Divergence", 2020): with
/// `d = log p_ref - log p`, the means of `-d` and of `e^d - 1 - d`. They estimate the divergence on tokens that the model
/// drew at temperature 1; on other tokens they say how far the two models are apart there.
pub fn divergences(
    names: [&'static str; 2],
    answers: &[(&AnswerScore, &AnswerScore)],
    seed: u64,
) -> [Metric; 2] {
    let estimators: [fn(f64) -> f64; 2] = [|d| -d, |d| d.exp_m1() - d];
    [0, 1].map(|index| {
        let rows: Vec<(f64, f64)> = answers
            .iter()
            .map(|(ours, theirs)| {
                let tokens = ours.tokens.iter().zip(&theirs.tokens);
                let terms = tokens.map(|(&p, &q)| estimators[index](f64::from(q) - f64::from(p)));
                (terms.sum(), ours.tokens.len() as f64)
            })
            .collect();
        ratio(names[index], seed, &rows)
    })
}

/// Metrics of a model's own answers against the chosen ones. There must be at least one answer.
pub fn produced_metrics(answers: &[Produced], seed: u64) -> Vec<Metric> {
    let bleu: Vec<Bleu> = answers.iter().map(|answer| Bleu::of(&answer.text, &answer.expected)).collect();
    let corpus = |rows: &[usize]| {
        let mut sum = Bleu::default();
        rows.iter().for_each(|&row| sum.add(&bleu[row]));
        sum.score()
    };
    let rouge = |stem| -> Vec<Rouge> {
        answers.iter().map(|answer| Rouge::of(&answer.text, &answer.expected, stem)).collect()
    };
    let (plain, stemmed) = (rouge(false), rouge(true));
    let texts: Vec<Vec<String>> = answers.iter().map(|answer| distinct::tokens(&answer.text)).collect();
    // Rows that are drawn twice repeat each other, so resamples would be less varied than the answers: no interval.
    let varied = |name, n| {
        let value = distinct::distinct(texts.iter().map(Vec::as_slice), n);
        Metric { name, estimate: Estimate { value, low: value, high: value } }
    };
    vec![
        Metric { name: "bleu4", estimate: estimate(answers.len(), seed, corpus) },
        mean("rouge1", seed, &plain, |rouge| rouge.one),
        mean("rouge2", seed, &plain, |rouge| rouge.two),
        mean("rougeL", seed, &plain, |rouge| rouge.l),
        mean("rouge1_stemmed", seed, &stemmed, |rouge| rouge.one),
        mean("rouge2_stemmed", seed, &stemmed, |rouge| rouge.two),
        mean("rougeL_stemmed", seed, &stemmed, |rouge| rouge.l),
        mean("answer/tokens", seed, answers, |answer| answer.tokens as f64),
        mean("answer/ended", seed, answers, |answer| f64::from(u8::from(answer.ended))),
        mean("answer/exact", seed, answers, |answer| f64::from(u8::from(answer.text == answer.expected))),
        varied("distinct1", 1),
        varied("distinct2", 2),
        mean("repetition4", seed, &texts, |tokens| distinct::repetition(tokens)),
    ]
}
