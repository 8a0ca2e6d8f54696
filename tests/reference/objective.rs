//! The objectives of `tests/golden`, with their derivatives written out: from log-probs to the loss and to
//! the coefficient `d loss / d log p` of every token. Nothing is continued or clamped as a mean log-prob
//! approaches 0.

/// The log-probs of one sequence: entry `t` scores token `t + 1`.
#[derive(Debug, Clone)]
pub struct Scored {
    /// Number of prompt tokens, at least 1.
    pub prompt: usize,
    /// `[T - 1]`, prompt tokens included.
    pub logps: Vec<f64>,
}

impl Scored {
    fn answer(&self) -> &[f64] {
        &self.logps[self.prompt - 1..]
    }

    fn sum(&self) -> f64 {
        self.answer().iter().sum()
    }

    fn mean(&self) -> f64 {
        self.sum() / self.answer().len() as f64
    }
}

/// One preference pair.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The preferred sequence.
    pub chosen: Scored,
    /// The other.
    pub rejected: Scored,
    /// The reference model's summed answer log-probs (chosen, rejected), for `dpo`.
    pub reference: Option<(f64, f64)>,
}

/// The weights the objectives take.
#[derive(Debug, Clone, Copy)]
pub struct Hyper {
    /// Weight of ASFT's aligned term.
    pub asft_lambda: f64,
    /// Temperature of `asft_beta`.
    pub asft_beta: f64,
    /// Weight of ORPO's odds-ratio term (TRL's `beta`).
    pub orpo_lambda: f64,
    /// DPO's beta.
    pub dpo_beta: f64,
}

/// A loss and d loss / d log p.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of the batch.
    pub loss: f64,
    /// Per pair, as long as `chosen.logps`.
    pub chosen: Vec<Vec<f64>>,
    /// Per pair, as long as `rejected.logps`.
    pub rejected: Vec<Vec<f64>>,
}

/// Over which tokens the chosen sequence's negative log-likelihood is averaged.
enum Nll {
    None,
    TokenMean,
    SequenceMean,
    FullTokenMean,
}

/// The term that looks at both answers: a weight and (value, d/d chosen, d/d rejected) of the mean log-probs.
type Contrast = fn(f64, f64, &Hyper) -> (f64, f64, f64);

/// Evaluates one objective by its name in `tests/golden/manifest.json`.
pub fn evaluate(objective: &str, pairs: &[Pair], hyper: &Hyper) -> Outcome {
    let mut outcome = Outcome {
        loss: 0.0,
        chosen: pairs.iter().map(|p| vec![0.0; p.chosen.logps.len()]).collect(),
        rejected: pairs.iter().map(|p| vec![0.0; p.rejected.logps.len()]).collect(),
    };
    let (nll, weight, contrast): (Nll, f64, Contrast) = match objective {
        "sft_token_mean" => (Nll::TokenMean, 0.0, aligned),
        "sft_seq_mean" => (Nll::SequenceMean, 0.0, aligned),
        "sft_full_token_mean" => (Nll::FullTokenMean, 0.0, aligned),
        "asft" => (Nll::SequenceMean, hyper.asft_lambda, aligned),
        "asft_token_mean_sft" => (Nll::TokenMean, hyper.asft_lambda, aligned),
        "asft_beta" => (Nll::SequenceMean, hyper.asft_lambda, aligned_with_beta),
        "orpo_trl" => (Nll::FullTokenMean, hyper.orpo_lambda, odds_ratio),
        "orpo_completion_nll" => (Nll::TokenMean, hyper.orpo_lambda, odds_ratio),
        "orpo_seq_nll" => (Nll::SequenceMean, hyper.orpo_lambda, odds_ratio),
        "dpo" => (Nll::None, 0.0, aligned),
        other => panic!("no objective {other}"),
    };
    if objective == "dpo" {
        add_dpo(pairs, hyper, &mut outcome);
    }
    add_nll(&nll, pairs, &mut outcome);
    if weight != 0.0 {
        add_contrast(contrast, weight, pairs, hyper, &mut outcome);
    }
    outcome
}

fn add_nll(nll: &Nll, pairs: &[Pair], outcome: &mut Outcome) {
    let answer_tokens: usize = pairs.iter().map(|p| p.chosen.answer().len()).sum();
    let all_tokens: usize = pairs.iter().map(|p| p.chosen.logps.len()).sum();
    for (pair, coefficients) in pairs.iter().zip(&mut outcome.chosen) {
        let chosen = &pair.chosen;
        let (first, share) = match nll {
            Nll::None => return,
            Nll::TokenMean => (chosen.prompt - 1, answer_tokens as f64),
            Nll::SequenceMean => (chosen.prompt - 1, (pairs.len() * chosen.answer().len()) as f64),
            Nll::FullTokenMean => (0, all_tokens as f64),
        };
        for t in first..chosen.logps.len() {
            outcome.loss -= chosen.logps[t] / share;
            coefficients[t] -= 1.0 / share;
        }
    }
}

fn add_contrast(contrast: Contrast, weight: f64, pairs: &[Pair], hyper: &Hyper, outcome: &mut Outcome) {
    let count = pairs.len() as f64;
    for (i, pair) in pairs.iter().enumerate() {
        let (value, d_chosen, d_rejected) = contrast(pair.chosen.mean(), pair.rejected.mean(), hyper);
        outcome.loss += weight * value / count;
        let chosen_tokens = pair.chosen.answer().len() as f64;
        let rejected_tokens = pair.rejected.answer().len() as f64;
        add_to_answer(&pair.chosen, weight * d_chosen / count / chosen_tokens, &mut outcome.chosen[i]);
        add_to_answer(
            &pair.rejected,
            weight * d_rejected / count / rejected_tokens,
            &mut outcome.rejected[i],
        );
    }
}

/// `softplus(-beta d)`, with `d` the chosen log-ratio minus the rejected one, over sums.
fn add_dpo(pairs: &[Pair], hyper: &Hyper, outcome: &mut Outcome) {
    let count = pairs.len() as f64;
    for (i, pair) in pairs.iter().enumerate() {
        let (chosen, rejected) = pair.reference.expect("dpo needs reference log-probs");
        let d = (pair.chosen.sum() - chosen) - (pair.rejected.sum() - rejected);
        outcome.loss += softplus(-hyper.dpo_beta * d) / count;
        let slope = -hyper.dpo_beta * sigmoid(-hyper.dpo_beta * d) / count;
        add_to_answer(&pair.chosen, slope, &mut outcome.chosen[i]);
        add_to_answer(&pair.rejected, -slope, &mut outcome.rejected[i]);
    }
}

fn add_to_answer(scored: &Scored, coefficient: f64, coefficients: &mut [f64]) {
    for c in &mut coefficients[scored.prompt - 1..] {
        *c += coefficient;
    }
}

/// ASFT's aligned term: `-w - log(1 - e^l)`.
fn aligned(w: f64, l: f64, _: &Hyper) -> (f64, f64, f64) {
    (-w - log1mexp(l), -1.0, 1.0 / (-l).exp_m1())
}

/// The same with a temperature on the log-odds: `softplus(-beta o(w)) + softplus(beta o(l))`.
fn aligned_with_beta(w: f64, l: f64, hyper: &Hyper) -> (f64, f64, f64) {
    let beta = hyper.asft_beta;
    let value = softplus(-beta * log_odds(w)) + softplus(beta * log_odds(l));
    let d_w = -beta * sigmoid(-beta * log_odds(w)) * log_odds_slope(w);
    let d_l = beta * sigmoid(beta * log_odds(l)) * log_odds_slope(l);
    (value, d_w, d_l)
}

/// ORPO's term (arXiv 2403.07691): `-log sigmoid(o(w) - o(l))`.
fn odds_ratio(w: f64, l: f64, _: &Hyper) -> (f64, f64, f64) {
    let difference = log_odds(w) - log_odds(l);
    let slope = -sigmoid(-difference);
    (softplus(-difference), slope * log_odds_slope(w), -slope * log_odds_slope(l))
}

/// `o(a) = log(p / (1 - p))` with `p = e^a`.
fn log_odds(a: f64) -> f64 {
    a - log1mexp(a)
}

/// `o'(a) = 1 / (1 - e^a)`.
fn log_odds_slope(a: f64) -> f64 {
    -1.0 / a.exp_m1()
}

/// `log(1 - e^a)` for `a < 0`.
fn log1mexp(a: f64) -> f64 {
    (-a.exp_m1()).ln()
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
