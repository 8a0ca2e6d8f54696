//! One optimizer step: every micro-batch forward, head, backward; then clip and update.
//!
//! Nothing here waits for the device, unless the objective couples the groups of a step: log-probs and state come back through tickets, and [`PendingStep::finish`] turns
//! them into loss and metrics when the caller likes. The loss is formed there in f64, group by group in the step's
//! order, so it does not depend on how the step was cut into micro-batches.

use crate::backend::{BAD, Backend, BackendError, GRADIENT_NORM, GradientNorm, StatisticsViews, View};
use crate::data::{Batch, BatchGroup, Step, StepTotals};
use crate::model::{Activations, Detail, HeadStep, Llama};
use crate::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, RowScores};
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
    log_probs: Vec<(Vec<BatchGroup>, LogProbs<T>)>,
    state: T,
    totals: StepTotals,
}

/// What the head finds of a micro-batch's response rows.
#[derive(Debug)]
enum LogProbs<T> {
    Pending(RowTickets<T>),
    Known(RowScores),
}

/// The same on its way to the host.
#[derive(Debug)]
struct RowTickets<T> {
    logp: T,
    statistics: Option<[T; 3]>,
}

impl<T> RowTickets<T> {
    /// Of the first `rows` rows that the head has just worked on.
    fn read_later<B: Backend<Ticket = T>>(
        backend: &mut B,
        activations: &Activations,
        rows: usize,
        detail: Detail,
    ) -> Self {
        let head = &activations.head;
        let logp = backend.read_later(head.logp.first(rows));
        let statistics = (detail == Detail::Statistics).then(|| {
            let StatisticsViews { log_sum_squares, entropy, mean_logit } = head.statistics;
            [log_sum_squares, entropy, mean_logit].map(|view| backend.read_later(view.first(rows)))
        });
        Self { logp, statistics }
    }

    fn collect<B: Backend<Ticket = T>>(self, backend: &mut B) -> Result<RowScores, BackendError> {
        let logp = backend.collect(self.logp)?;
        let statistics = match self.statistics {
            None => None,
            Some([a, b, c]) => Some([backend.collect(a)?, backend.collect(b)?, backend.collect(c)?]),
        };
        Ok(RowScores { logp, statistics })
    }
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

    /// Enqueues an optimizer step. Waits for the device only where the objective couples the groups of a step: then every
    /// group is scored first, without gradients, and the coefficients follow from all of them.
    pub fn step(&mut self, step: &Step, learning_rate: f64) -> Result<PendingStep<B::Ticket>, BackendError> {
        let mut log_probs = Vec::with_capacity(step.batches.len());
        if self.objective.coupling() == Coupling::Step {
            let (losses, scored) = self.score_step(step)?;
            log_probs = scored;
            for (index, batch) in step.batches.iter().enumerate() {
                let mut coefficients = vec![0.0; batch.gather.len()];
                for entry in &batch.groups {
                    losses[entry.group as usize].write(entry, &mut coefficients);
                }
                self.gradients(batch, step.totals, index > 0, Some(&coefficients));
            }
        } else {
            for (index, batch) in step.batches.iter().enumerate() {
                self.gradients(batch, step.totals, index > 0, None);
                let (rows, detail) = (batch.gather.len(), Detail::of(self.objective.as_ref()));
                let tickets = RowTickets::read_later(&mut self.backend, &self.activations, rows, detail);
                log_probs.push((batch.groups.clone(), LogProbs::Pending(tickets)));
            }
        }
        let backend = &mut self.backend;
        if let Some(gradients) = self.model.gradients() {
            let (max_norm, partial, state) = (self.max_grad_norm, self.norm_partial, self.state);
            backend.gradient_norm(GradientNorm { gradients, max_norm, partial, state });
        }
        let update = (step.index - self.skipped) as u64;
        self.optimizer.update(backend, &self.model, self.state, learning_rate, update);
        Ok(PendingStep { log_probs, state: backend.read_later(self.state), totals: step.totals })
    }

    /// Scores all groups of a step and evaluates the objective on them together: the loss and slopes of each, by its
    /// position in the step, and the log-probs.
    fn score_step(&mut self, step: &Step) -> Result<ScoredStep<B::Ticket>, BackendError> {
        let Self { backend, model, activations, objective, state, .. } = self;
        let batches = if step.scoring.is_empty() { &step.batches } else { &step.scoring };
        let detail = Detail::of(objective.as_ref());
        let tickets: Vec<RowTickets<B::Ticket>> =
            batches.iter().map(|batch| enqueue_score(backend, model, activations, batch, detail)).collect();
        let mut evaluation = Evaluation::new(objective.as_ref(), step.totals);
        for (batch, ticket) in batches.iter().zip(tickets) {
            evaluation.add(&batch.groups, ticket.collect(backend)?);
        }
        let losses = evaluation.losses();
        if losses.iter().any(|loss| !loss.value.is_finite()) {
            backend.write(state.slice(BAD..BAD + 1), &[1.0f64]);
        }
        let known = batches.iter().zip(evaluation.batches);
        let known = known.map(|(batch, scores)| (batch.groups.clone(), LogProbs::Known(scores)));
        Ok((losses, known.collect()))
    }

    /// Forward, head and backward of one micro-batch; its gradients replace what was there or are added to it. Not for
    /// objectives that couple the groups of a step.
    pub fn micro_batch(&mut self, batch: &Batch, totals: StepTotals, accumulate: bool) -> B::Ticket {
        self.gradients(batch, totals, accumulate, None);
        self.backend.read_later(self.activations.head.logp.first(batch.gather.len()))
    }

    fn gradients(&mut self, batch: &Batch, totals: StepTotals, accumulate: bool, given: Option<&[f32]>) {
        let Self { backend, model, activations, objective, state, .. } = self;
        let device = activations.upload(backend, batch);
        model.forward(backend, activations, &device);
        let objective = objective.as_ref();
        let head = HeadStep { objective, given, totals, state: *state, accumulate };
        model.head(backend, activations, &device, &batch.groups, head);
        model.backward(backend, activations, &device, accumulate, |_, _| {});
    }

    /// Log-probs of every response row of a batch, waiting for them.
    pub fn score(&mut self, batch: &Batch) -> Result<Vec<f32>, BackendError> {
        score(&mut self.backend, &self.model, &self.activations, batch)
    }
}

/// The loss and slopes of every group of a step, and the log-probs of its micro-batches.
type ScoredStep<T> = (Vec<GroupLoss>, Vec<(Vec<BatchGroup>, LogProbs<T>)>);

/// Log-probs of every response row of a batch: the forward pass and the head without gradients.
pub fn score<B: Backend>(
    backend: &mut B,
    model: &Llama,
    activations: &Activations,
    batch: &Batch,
) -> Result<Vec<f32>, BackendError> {
    Ok(score_in_detail(backend, model, activations, batch, Detail::LogProbs)?.logp)
}

/// The same with whatever else is wanted of the rows.
pub fn score_in_detail<B: Backend>(
    backend: &mut B,
    model: &Llama,
    activations: &Activations,
    batch: &Batch,
    detail: Detail,
) -> Result<RowScores, BackendError> {
    enqueue_score(backend, model, activations, batch, detail).collect(backend)
}

fn enqueue_score<B: Backend>(
    backend: &mut B,
    model: &Llama,
    activations: &Activations,
    batch: &Batch,
    detail: Detail,
) -> RowTickets<B::Ticket> {
    let device = activations.upload(backend, batch);
    model.forward(backend, activations, &device);
    model.score_in_detail(backend, activations, &device, detail);
    RowTickets::read_later(backend, activations, batch.gather.len(), detail)
}

impl<T> PendingStep<T> {
    /// Waits for the step and evaluates its loss and metrics.
    pub fn finish<B: Backend<Ticket = T>>(
        self,
        backend: &mut B,
        objective: &dyn Objective,
    ) -> Result<StepOutcome, BackendError> {
        let mut evaluation = Evaluation::new(objective, self.totals);
        for (groups, log_probs) in self.log_probs {
            let log_probs = match log_probs {
                LogProbs::Pending(tickets) => tickets.collect(backend)?,
                LogProbs::Known(log_probs) => log_probs,
            };
            evaluation.add(&groups, log_probs);
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
    batches: Vec<RowScores>,
    groups: Vec<(BatchGroup, usize)>,
}

impl<'a> Evaluation<'a> {
    /// For one step (or a whole evaluation set) with its totals.
    pub fn new(objective: &'a dyn Objective, totals: StepTotals) -> Self {
        Self { objective, totals, batches: Vec::new(), groups: Vec::new() }
    }

    /// Takes what was found of a micro-batch's rows.
    pub fn add(&mut self, groups: &[BatchGroup], scores: impl Into<RowScores>) {
        self.groups.extend(groups.iter().map(|group| (group.clone(), self.batches.len())));
        self.batches.push(scores.into());
    }

    /// Loss and slopes of every group, in the order of the groups within the step.
    pub fn losses(&self) -> Vec<GroupLoss> {
        self.objective.evaluate(&self.in_order(), &self.totals)
    }

    /// Loss and metrics of each group by itself, for intervals: of groups chosen otherwise, the loss is the sum of theirs
    /// and a metric the weighted mean.
    pub fn each(&self) -> Vec<(f64, Metrics)> {
        let losses = self.losses().into_iter().map(|loss| loss.value);
        let metrics = self.in_order().into_iter().map(|group| {
            let mut metrics = Metrics::default();
            self.objective.metrics(&group, &self.totals, &mut metrics);
            metrics
        });
        losses.zip(metrics).collect()
    }

    /// Loss and metrics, summed in the order of the groups within the step.
    pub fn finish(self) -> (f64, Metrics) {
        let loss = self.losses().iter().fold(0.0, |sum, loss| sum + loss.value);
        let groups = self.in_order();
        let mut metrics = Metrics::default();
        for group in &groups {
            self.objective.metrics(group, &self.totals, &mut metrics);
        }
        self.objective.step_metrics(&groups, &self.totals, &mut metrics);
        (loss, metrics)
    }

    fn in_order(&self) -> Vec<GroupLogps<'_>> {
        let mut groups: Vec<&(BatchGroup, usize)> = self.groups.iter().collect();
        groups.sort_by_key(|(group, _)| group.group);
        groups.into_iter().map(|(group, batch)| GroupLogps::of(group, self.batches[*batch].rows())).collect()
    }
}
