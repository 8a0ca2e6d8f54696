//! ROUGE-1, ROUGE-2 and ROUGE-L (Lin, ACL 2004 workshop) of one answer against one reference, as the Python package
//! rouge_score computes them: lower case, letters a to z and digits alone, words of more than three letters stemmed if asked
//! for, F measure with equal weights.

use super::porter;
use super::shared;

/// F measures, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Of single words.
    pub one: f64,
    /// Of pairs.
    pub two: f64,
    /// Of the longest common subsequence.
    pub l: f64,
}

impl Rouge {
    /// The scores of an answer.
    pub fn of(answer: &str, reference: &str, stem: bool) -> Self {
        let (answer, reference) = (tokens(answer, stem), tokens(reference, stem));
        let n = |n: usize| {
            let runs = |tokens: &[String]| (tokens.len() + 1).saturating_sub(n);
            f_measure(shared(&answer, &reference, n), runs(&answer), runs(&reference))
        };
        let l = f_measure(longest_common(&answer, &reference), answer.len(), reference.len());
        Self { one: n(1), two: n(2), l }
    }
}

/// The harmonic mean of `hits / answer` and `hits / reference`.
fn f_measure(hits: usize, answer: usize, reference: usize) -> f64 {
    let (precision, recall) = (hits as f64 / answer.max(1) as f64, hits as f64 / reference.max(1) as f64);
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// The words of a text.
fn tokens(text: &str, stem: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| if stem && word.len() > 3 { porter::stem(word) } else { word.to_owned() }).collect()
}

/// The length of the longest common subsequence, one row of the table at a time.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut corner = 0;
        for (j, other) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { corner + 1 } else { above.max(row[j]) };
            corner = above;
        }
    }
    row[b.len()]
}
