//! `training-dynamics`: how sure the checkpoints of a training run were of each answer, as the column `confidence`.
//!
//! ```text
//! confidence = -mean over checkpoints of exp(-mean over scored tokens of log p)
//! ```
//!
//! Minus the mean perplexity, as SFTMix takes it (arXiv 2410.05248; the formula from a digest of the paper). Which checkpoints, how
//! many and of which run is the user's choice. Boundary: log-probs come from whoever runs the models; every other column
//! stays as it is.

use serde_json::json;

use super::{PrepareError, Report, Task};
use crate::progress::Progress;

/// The column.
const COLUMN: &str = "confidence";

/// The confidence of one answer from its mean log-prob per token under each checkpoint; `None` where a perplexity is more than
/// f64 holds, or none.
pub fn confidence(mean_logps: &[f64]) -> Option<f64> {
    let perplexities = mean_logps.iter().map(|mean| (-mean).exp());
    let confidence = -(perplexities.sum::<f64>() / mean_logps.len() as f64);
    confidence.is_finite().then_some(confidence)
}

/// Writes every row with its confidence; rows that have a reason instead are left out. `confidences` has one entry for each row of
/// the file, in order.
///
/// # Errors
/// A file of another number of rows, [`Report::check`], or files that cannot be read or written.
pub fn training_dynamics(
    task: &Task,
    confidences: &[Result<f64, String>],
    progress: &mut dyn Progress,
) -> Result<Report, PrepareError> {
    task.write(progress, |input, lines, report| {
        let mut confidences = confidences.iter();
        while let Some(mut row) = input.next().transpose()? {
            let Some(confidence) = confidences.next() else { return Err(changed(task)) };
            match confidence {
                Ok(confidence) => {
                    row.columns.insert(COLUMN.to_owned(), json!(confidence));
                    lines.write(&row.columns)?;
                }
                Err(reason) => report.drop_row(reason.clone(), input.place(&row)),
            }
        }
        if confidences.next().is_some() { Err(changed(task)) } else { Ok(()) }
    })
}

fn changed(task: &Task) -> PrepareError {
    PrepareError::Changed { path: task.data.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_minus_the_mean_perplexity() {
        let means = [(0.5f64).ln(), (0.125f64).ln()];
        assert!((confidence(&means).unwrap() + 5.0).abs() < 1e-14);
        assert_eq!(confidence(&[0.0]), Some(-1.0));
        assert_eq!(confidence(&[-800.0, 0.0]), None, "more than f64 holds");
        assert_eq!(confidence(&[f64::NAN]), None);
    }
}
