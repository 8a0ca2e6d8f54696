//! BLEU-4 (Papineni et al., ACL 2002) of a corpus with one reference for each answer, as sacrebleu computes it by default
//! (Post, arXiv 1804.08771; signature `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp`): tokens of mteval-v13a, and precisions
//! without a match halved again and again (NIST's smoothing).

use super::shared;

/// The longest run of tokens that counts.
const ORDER: usize = 4;

/// What one answer contributes; contributions add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bleu {
    /// Tokens of the answer.
    pub tokens: usize,
    /// Tokens of the reference.
    pub reference_tokens: usize,
    /// Runs of 1 to 4 tokens that both have.
    pub matches: [usize; ORDER],
    /// Runs of 1 to 4 tokens of the answer.
    pub runs: [usize; ORDER],
}

impl Bleu {
    /// The contribution of one answer.
    pub fn of(answer: &str, reference: &str) -> Self {
        let (answer, reference) = (tokens_13a(answer), tokens_13a(reference));
        Self {
            tokens: answer.len(),
            reference_tokens: reference.len(),
            matches: std::array::from_fn(|n| shared(&answer, &reference, n + 1)),
            runs: std::array::from_fn(|n| answer.len().saturating_sub(n)),
        }
    }

    /// Adds another answer's contribution.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.reference_tokens += other.reference_tokens;
        for n in 0..ORDER {
            self.matches[n] += other.matches[n];
            self.runs[n] += other.runs[n];
        }
    }

    /// The score, 0 to 100.
    pub fn score(&self) -> f64 {
        if self.matches.iter().all(|&matches| matches == 0) || self.runs.contains(&0) {
            return 0.0;
        }
        let mut halving = 1.0;
        let logs = self.matches.iter().zip(self.runs).map(|(&matches, runs)| {
            let precision = match matches {
                0 => {
                    halving *= 2.0;
                    1.0 / (halving * runs as f64)
                }
                _ => matches as f64 / runs as f64,
            };
            precision.ln()
        });
        let mean = logs.sum::<f64>() / ORDER as f64;
        let brevity = (1.0 - self.reference_tokens as f64 / self.tokens as f64).min(0.0);
        100.0 * (brevity + mean).exp()
    }
}

/// The tokens of mteval-v13a: punctuation apart, except between digits.
pub fn tokens_13a(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let mut spaced = String::with_capacity(2 * text.len());
    for c in format!(" {text} ").chars() {
        match c {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => spaced.extend([' ', c, ' ']),
            _ => spaced.push(c),
        }
    }
    let is_stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let spaced = spread(&spaced, |a, b| !digit(a) && is_stop(b), |a, b| [a, ' ', b, ' ']);
    let spaced = spread(&spaced, |a, b| is_stop(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let spaced = spread(&spaced, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    spaced.split(is_space).filter(|token| !token.is_empty()).map(str::to_owned).collect()
}

/// Replaces pairs of characters from left to right; what was replaced is not looked at again.
fn spread(
    text: &str,
    matches: impl Fn(char, char) -> bool,
    with: impl Fn(char, char) -> [char; 4],
) -> String {
    let mut spread = String::with_capacity(2 * text.len());
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        match rest.next_if(|&second| matches(first, second)) {
            Some(second) => spread.extend(with(first, second)),
            None => spread.push(first),
        }
    }
    spread
}

/// White space to Python's `str.split`: Unicode's, and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
