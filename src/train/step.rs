//! One optimizer step: every micro-batch forward, head, backward; then clip and update.
//!
//! Nothing here waits for the device: log-probs and state come back through tickets, and [`PendingStep::finish`] turns
//! them into loss and metrics when the caller likes. The loss is formed there in f64, group by group in the step's
//! order, so it does not depend on how the step was cut into micro-batches.

use crate::backend::{BAD, Backend, BackendError, GRADIENT_NORM, GradientNorm, View};
use crate::data::{Batch, BatchGroup, Step, StepTotals};
use crate::model::{Activations, HeadStep, Llama};
use crate::objective::{GroupCoefficients, GroupLogps, Metrics, Objective};
use crate::optim::AdamwOptimizer;

/// What a step works on.
#[derive(Debug)]
pub struct Trainer<B: Backend> {
    /// The device.
    pub backend: B,
    /// The model's views.
    pub model: Llama,
    /// The micro-batch's places.
    pub activations: Activations,
    /// AdamW.
    pub optimizer: AdamwOptimizer,
    /// What is minimised.
    pub objective: Box<dyn Objective>,
    /// Largest global gradient norm; none: no clipping.
    pub max_grad_norm: Option<f64>,
    /// [`crate::backend::STEP_STATE_LEN`] f64 on the device.
    pub state: View,
    /// Room for the gradient norm's partial sums.
    pub norm_partial: View,
    /// Steps so far whose update was left out: AdamW counts updates, not steps.
    pub skipped: usize,
}

/// A step that has been enqueued.
#[derive(Debug)]
pub struct PendingStep<T> {
    log_probs: Vec<(Vec<BatchGroup>, T)>,
    state: T,
    totals: StepTotals,
}

/// What a step found, from the weights before its update.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The step's loss.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// A loss or gradient was not finite, in this step or one before: nothing has been updated since.
    pub bad: bool,
    /// The objective's metrics.
    pub metrics: Metrics,
}

impl<B: Backend> Trainer<B> {
    /// Forgets that a step was not finite: updates are made again from the next one on.
    pub fn clear_bad(&mut self) {
        self.backend.zero(self.state.slice(BAD..BAD + 1));
    }

    /// Enqueues an optimizer step.
    pub fn step(&mut self, step: &Step, learning_rate: f64) -> PendingStep<B::Ticket> {
        let mut log_probs = Vec::with_capacity(step.batches.len());
        for (index, batch) in step.batches.iter().enumerate() {
            log_probs.push((batch.groups.clone(), self.micro_batch(batch, step.totals, index > 0)));
        }
        let backend = &mut self.backend;
        if let Some(gradients) = self.model.gradients() {
            let (max_norm, partial, state) = (self.max_grad_norm, self.norm_partial, self.state);
            backend.gradient_norm(GradientNorm { gradients, max_norm, partial, state });
        }
        let update = (step.index - self.skipped) as u64;
        self.optimizer.update(backend, &self.model, self.state, learning_rate, update);
        PendingStep { log_probs, state: backend.read_later(self.state), totals: step.totals }
    }

    /// Forward, head and backward of one micro-batch; its gradients replace what was there or are added to it.
    pub fn micro_batch(&mut self, batch: &Batch, totals: StepTotals, accumulate: bool) -> B::Ticket {
        let Self { backend, model, activations, objective, state, .. } = self;
        let device = activations.upload(backend, batch);
        model.forward(backend, activations, &device);
        let objective = objective.as_ref();
        let head = HeadStep { objective, totals, state: *state, accumulate };
        model.head(backend, activations, &device, &batch.groups, head);
        model.backward(backend, activations, &device, accumulate, |_, _| {});
        backend.read_later(activations.head.logp.first(batch.gather.len()))
    }

    /// Log-probs of every response row of a batch, waiting for them.
    pub fn score(&mut self, batch: &Batch) -> Result<Vec<f32>, BackendError> {
        score(&mut self.backend, &self.model, &self.activations, batch)
    }
}

/// Log-probs of every response row of a batch: the forward pass and the head without gradients.
pub fn score<B: Backend>(
    backend: &mut B,
    model: &Llama,
    activations: &Activations,
    batch: &Batch,
) -> Result<Vec<f32>, BackendError> {
    let device = activations.upload(backend, batch);
    model.forward(backend, activations, &device);
    model.score(backend, activations, &device);
    let mut logp = vec![0.0; batch.gather.len()];
    backend.read(activations.head.logp.first(logp.len()), &mut logp)?;
    Ok(logp)
}

impl<T> PendingStep<T> {
    /// Waits for the step and evaluates its loss and metrics.
    pub fn finish<B: Backend<Ticket = T>>(
        self,
        backend: &mut B,
        objective: &dyn Objective,
    ) -> Result<StepOutcome, BackendError> {
        let mut evaluation = Evaluation::new(objective, self.totals);
        for (groups, ticket) in self.log_probs {
            evaluation.add(&groups, backend.collect(ticket)?);
        }
        let state: Vec<f64> = backend.collect(self.state)?;
        let (loss, metrics) = evaluation.finish();
        Ok(StepOutcome { loss, gradient_norm: state[GRADIENT_NORM], bad: state[BAD] != 0.0, metrics })
    }
}

/// Loss and metrics from log-probs, whatever the order in which the micro-batches arrive.
#[derive(Debug)]
pub struct Evaluation<'a> {
    objective: &'a dyn Objective,
    totals: StepTotals,
    batches: Vec<Vec<f32>>,
    groups: Vec<(BatchGroup, usize)>,
}

impl<'a> Evaluation<'a> {
    /// For one step (or a whole evaluation set) with its totals.
    pub fn new(objective: &'a dyn Objective, totals: StepTotals) -> Self {
        Self { objective, totals, batches: Vec::new(), groups: Vec::new() }
    }

    /// Takes a micro-batch's log-probs.
    pub fn add(&mut self, groups: &[BatchGroup], log_probs: Vec<f32>) {
        self.groups.extend(groups.iter().map(|&group| (group, self.batches.len())));
        self.batches.push(log_probs);
    }

    /// Loss and metrics, summed in the order of the groups within the step.
    pub fn finish(mut self) -> (f64, Metrics) {
        self.groups.sort_by_key(|(group, _)| group.group);
        let mut metrics = Metrics::default();
        let mut loss = 0.0;
        for (group, batch) in &self.groups {
            let log_probs = GroupLogps::of(group, &self.batches[*batch]);
            loss += self.objective.coefficients(&log_probs, &self.totals, &mut GroupCoefficients::default());
            self.objective.metrics(&log_probs, &self.totals, &mut metrics);
        }
        (loss, metrics)
    }
}
