//! How varied answers are: distinct-n of a corpus (Li et al., arXiv 1510.03055) and the share of repeated 4-grams within an
//! answer (seq-rep-4 of Welleck et al., arXiv 1908.04319), over the tokens of [`super::bleu::tokens_13a`].

use std::collections::HashSet;

use super::bleu::tokens_13a;
use super::ngrams;

/// Tokens of a run that counts as repetition.
const REPEATED: usize = 4;

/// Distinct runs of `n` tokens over all runs of all answers, 0 to 1; 0 where there is none.
pub fn distinct<'a>(answers: impl IntoIterator<Item = &'a [String]>, n: usize) -> f64 {
    let (mut seen, mut runs) = (HashSet::new(), 0usize);
    for tokens in answers {
        for run in tokens.windows(n) {
            seen.insert(run);
            runs += 1;
        }
    }
    seen.len() as f64 / runs.max(1) as f64
}

/// The share of an answer's 4-grams that it had before, 0 to 1.
pub fn repetition(tokens: &[String]) -> f64 {
    let runs = (tokens.len() + 1).saturating_sub(REPEATED);
    match runs {
        0 => 0.0,
        runs => 1.0 - ngrams(tokens, REPEATED).len() as f64 / runs as f64,
    }
}

/// The tokens that both are counted over.
pub fn tokens(answer: &str) -> Vec<String> {
    tokens_13a(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let (one, other) = (tokens("a b a b a b"), tokens("a c."));
        assert_eq!(distinct([&*one, &*other], 1), 4.0 / 9.0);
        assert_eq!(distinct([&*one, &*other], 2), 4.0 / 7.0);
        // abab, baba, abab: two of three are different.
        assert!((repetition(&one) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((repetition(&other), distinct([], 1)), (0.0, 0.0));
    }
}
