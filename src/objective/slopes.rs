//! Coefficients of objectives that see a span only through the sum or mean of its log-probs.

use super::GroupCoefficients;

/// `d loss / d logp`, the same for every token of a span. Kept in f64 until it is written, so that several terms
/// add up before the one rounding to f32.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slopes {
    pub prompt: f64,
    pub chosen: f64,
    pub rejected: f64,
}

impl Slopes {
    pub fn write(self, out: &mut GroupCoefficients) {
        fill(&mut out.prompt, self.prompt);
        fill(&mut out.chosen, self.chosen);
        fill(&mut out.rejected, self.rejected);
    }
}

fn fill(span: &mut Option<&mut [f32]>, slope: f64) {
    if let Some(span) = span {
        span.fill(slope as f32);
    }
}

/// 1 / count; 0 for a count of 0, whose sum has no terms.
pub(super) fn reciprocal(count: usize) -> f64 {
    if count == 0 { 0.0 } else { 1.0 / count as f64 }
}
