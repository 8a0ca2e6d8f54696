//! Text against text: what answers share with reference answers, and how varied they are.
//!
//! - [`bleu`]: BLEU-4 of a corpus, as sacrebleu computes it;
//! - [`rouge`]: ROUGE-1, -2 and -L of an answer, as rouge_score computes them, with its [`porter`] stemmer;
//! - [`distinct`]: distinct-n of a corpus, and how much answers repeat themselves.
//!
//! Boundary: strings and numbers. Which texts are compared is decided by the caller.

pub mod bleu;
pub mod distinct;
pub mod porter;
pub mod rouge;

use std::collections::HashMap;

/// How often each run of `n` tokens occurs.
fn ngrams<T: AsRef<str>>(tokens: &[T], n: usize) -> HashMap<Vec<&str>, usize> {
    let mut counts = HashMap::new();
    for run in tokens.windows(n) {
        *counts.entry(run.iter().map(AsRef::as_ref).collect()).or_default() += 1;
    }
    counts
}

/// How many runs of `n` tokens two texts share, each counted as often as both have it.
fn shared<T: AsRef<str>>(one: &[T], other: &[T], n: usize) -> usize {
    let theirs = ngrams(other, n);
    ngrams(one, n).iter().map(|(run, &count)| count.min(theirs.get(run).copied().unwrap_or(0))).sum()
}
