//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does it.

/// The Euclidean norm over all tensors together.
pub fn global_norm<'a>(tensors: impl IntoIterator<Item = &'a [f64]>) -> f64 {
    tensors.into_iter().flatten().map(|g| g * g).sum::<f64>().sqrt()
}

/// What every gradient is multiplied by: `max_norm / (norm + 1e-6)`, at most 1.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}
