//! Relative PO: every chosen answer against every rejected one, weighted by how alike their prompts are (arXiv 2402.10958; it
//! calls itself RPO, as others do).
//!
//! ```text
//! L = (1 / N^2) sum over i, j of softplus(-beta w_ij (r_w,i - r_l,j))
//! w_i. = softmax over j of -(1 - cos(e_i, e_j)) / tau,   e the embeddings of the prompts
//! k_ij = -beta w_ij sigmoid(-beta w_ij (r_w,i - r_l,j)) / N^2:   dL/dr_w,i = sum_j k_ij,   dL/dr_l,j = -sum_i k_ij
//! ```
//!
//! The weights multiply the differences and not the losses, as in the authors' code.
//!
//! Data: `prompt_embedding`, of one length in all rows. Parameters: `beta` 0.1, `tau` 0.5 (the authors', with all-MiniLM-L6-v2
//! embeddings). Limits: slopes are at most beta / N. With N = 1 it is DPO. An evaluation takes time in proportion to the square of
//! its rows.
//!
//! Coupling: step: N are all pairs of the optimizer step, however it is cut. Reference: needed.

use super::{StepLoss, StepPair, Stepwise};
use crate::data::Annotation;
use crate::objective::pairwise::{BETA, DEFAULTS, PairTerm, logistic};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static TAU: Number = Number {
    name: "tau",
    default: 0.5,
    range: Range::closed(1e-3, 1e6),
    help: "how much more alike prompts count: the smaller, the more",
    slot: |parameters| &mut parameters.tau,
};

/// Relative PO in the registry.
pub static ENTRY: Entry = Entry {
    name: "relative_po",
    formula: "L = mean over i, j of softplus(-beta w_ij (r_w,i - r_l,j)),  w by the likeness of prompts i and j",
    when: "many of your prompts ask nearly the same, and you have embeddings of them",
    annotations: &[Annotation::PromptEmbedding],
    parameters: &[&BETA, &TAU],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Stepwise::boxed(&ENTRY, beta, RelativePo { beta, tau: TAU.get(parameters) }))
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct RelativePo {
    beta: f64,
    tau: f64,
}

/// Of length 1, or 0 if it was.
fn unit(embedding: &[f32]) -> Vec<f64> {
    let norm = embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    embedding.iter().map(|&x| scale * f64::from(x)).collect()
}

impl StepLoss for RelativePo {
    fn terms(&self, pairs: &[StepPair]) -> Vec<PairTerm> {
        let embeddings: Vec<Vec<f64>> =
            pairs.iter().map(|pair| unit(pair.embedding.expect("Relative PO is given embeddings"))).collect();
        let ratios: Vec<[f64; 2]> = pairs.iter().map(StepPair::log_ratios).collect();
        let share = 1.0 / pairs.len() as f64;
        let mut terms = vec![PairTerm { value: 0.0, chosen: 0.0, rejected: 0.0 }; pairs.len()];
        for (i, embedding) in embeddings.iter().enumerate() {
            // 1 - cos is at least 0 and tau at least 1e-3: no exponent overflows.
            let alike = |other: &Vec<f64>| {
                let cosine: f64 = embedding.iter().zip(other).map(|(a, b)| a * b).sum();
                ((cosine - 1.0) / self.tau).exp()
            };
            let weights: Vec<f64> = embeddings.iter().map(alike).collect();
            let sum: f64 = weights.iter().sum();
            for (j, weight) in weights.into_iter().enumerate() {
                // All weights vanish only for an embedding of 0 and a small tau: then nobody is more alike than another.
                let weight = if sum > 0.0 { weight / sum } else { share };
                let scale = self.beta * weight;
                let term = share * logistic(scale * (ratios[i][0] - ratios[j][1]), 0.0).scaled(scale);
                terms[i].value += term.value;
                terms[i].chosen += term.slope;
                terms[j].rejected -= term.slope;
            }
        }
        terms
    }
}
