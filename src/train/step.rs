//! One optimizer step: every micro-batch forward, head, backward; then clip and update.
//!
//! Nothing here waits for the device, unless the objective couples the groups of a step or a reference model on the device
//! scores them: log-probs and state come back through tickets, and [`PendingStep::finish`] turns them into loss and metrics
//! when the caller likes. The loss is formed there in f64, group by group in the step's order, so it does not depend on how
//! the step was cut into micro-batches.

use crate::backend::{BAD, Backend, BackendError, GRADIENT_NORM, GradientNorm, StatisticsViews, View};
use crate::data::{Batch, BatchGroup, Step, StepTotals};
use crate::model::{Activations, Detail, HeadStep, Llama};
use crate::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, RowScores, Scored};
use crate::optim::AdamwOptimizer;
use crate::train::half::HalfFineTuning;
use crate::train::resident::with_references;
use crate::train::{InferenceLayout, token_metrics};

/// What a step works on.
#[derive(Debug)]
pub struct Trainer<B: Backend> {
    /// The device.
    pub backend: B,
    /// The model's views.
    pub model: Llama,
    /// The micro-batch's places.
    pub activations: Activations,
    /// Reference models that score every micro-batch before it is learnt from; none where their log-probs are known.
    pub references: Vec<InferenceLayout>,
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
    /// Whether the next steps also measure what costs one more read of the logits: entropy and mean logits.
    pub measures_logits: bool,
    /// Steps so far whose update was left out: AdamW counts updates, not steps.
    pub skipped: usize,
    /// What is frozen when; nothing ever where there is none.
    pub half: Option<HalfFineTuning>,
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
    argmax: T,
    targets: Vec<u32>,
    statistics: Option<[T; 3]>,
}

impl<T> RowTickets<T> {
    /// Of the rows of a batch that the head has just worked on.
    fn read_later<B: Backend<Ticket = T>>(
        backend: &mut B,
        activations: &Activations,
        batch: &Batch,
        detail: Detail,
    ) -> Self {
        let (head, rows) = (&activations.head, batch.gather.len());
        let logp = backend.read_later(head.logp.first(rows));
        let argmax = backend.read_later(head.argmax.first(rows));
        let statistics = (detail == Detail::Statistics).then(|| {
            let StatisticsViews { log_sum_squares, entropy, mean_logit } = head.statistics;
            [log_sum_squares, entropy, mean_logit].map(|view| backend.read_later(view.first(rows)))
        });
        Self { logp, argmax, targets: batch.targets.clone(), statistics }
    }

    fn collect<B: Backend<Ticket = T>>(self, backend: &mut B) -> Result<RowScores, BackendError> {
        let logp = backend.collect(self.logp)?;
        let argmax: Vec<u32> = backend.collect(self.argmax)?;
        let is_top1 = argmax.iter().zip(&self.targets).map(|(most, target)| most == target).collect();
        let statistics = match self.statistics {
            None => None,
            Some([a, b, c]) => Some([backend.collect(a)?, backend.collect(b)?, backend.collect(c)?]),
        };
        Ok(RowScores { logp, is_top1, statistics })
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
        self.freeze(step);
        let mut log_probs = Vec::with_capacity(step.batches.len());
        if self.objective.coupling() == Coupling::Step {
            let (losses, scored) = self.score_step(step)?;
            log_probs = scored;
            for (index, batch) in step.batches.iter().enumerate() {
                let mut coefficients = vec![0.0; batch.gather.len()];
                for entry in &batch.groups {
                    losses[entry.group as usize].write(entry, &mut coefficients);
                }
                self.gradients(batch, &batch.groups, step.totals, index > 0, Some(&coefficients))?;
            }
        } else {
            for (index, batch) in step.batches.iter().enumerate() {
                let need = self.objective.reference();
                let groups = with_references(&mut self.backend, &self.references, batch, need)?;
                self.gradients(batch, &groups, step.totals, index > 0, None)?;
                let detail = self.detail();
                let tickets = RowTickets::read_later(&mut self.backend, &self.activations, batch, detail);
                log_probs.push((groups, LogProbs::Pending(tickets)));
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

    /// What is to be found out about every row.
    fn detail(&self) -> Detail {
        if self.measures_logits { Detail::Statistics } else { Detail::of(self.objective.as_ref()) }
    }

    /// Freezes what is not to be learnt in this step.
    fn freeze(&mut self, step: &Step) {
        let Self { backend, model, optimizer, half: Some(half), skipped, .. } = self else { return };
        if let Some(gradients) = model.gradients() {
            half.enter(
                backend,
                (model, optimizer),
                gradients,
                step.index,
                (step.index - 1 - *skipped) as u64,
            );
        }
    }

    /// Scores all groups of a step and evaluates the objective on them together: the loss and slopes of each, by its
    /// position in the step, and the log-probs.
    fn score_step(&mut self, step: &Step) -> Result<ScoredStep<B::Ticket>, BackendError> {
        let detail = self.detail();
        let Self { backend, model, activations, references, objective, state, .. } = self;
        let batches = if step.scoring.is_empty() { &step.batches } else { &step.scoring };
        let need = objective.reference();
        let mut pending = Vec::with_capacity(batches.len());
        for batch in batches {
            let groups = with_references(backend, references, batch, need)?;
            pending.push((groups, enqueue_score(backend, model, activations, batch, detail)));
        }
        let mut evaluation = Evaluation::new(objective.as_ref(), step.totals);
        let mut members = Vec::with_capacity(batches.len());
        for (groups, tickets) in pending {
            evaluation.add(&groups, tickets.collect(backend)?);
            members.push(groups);
        }
        let losses = evaluation.losses();
        if losses.iter().any(|loss| !loss.value.is_finite()) {
            backend.write(state.slice(BAD..BAD + 1), &[1.0f64]);
        }
        let known = members.into_iter().zip(evaluation.batches);
        let known = known.map(|(groups, scores)| (groups, LogProbs::Known(scores)));
        Ok((losses, known.collect()))
    }

    /// Forward, head and backward of one micro-batch; its gradients replace what was there or are added to it. Not for
    /// objectives that couple the groups of a step, nor for reference models on the device.
    pub fn micro_batch(
        &mut self,
        batch: &Batch,
        totals: StepTotals,
        accumulate: bool,
    ) -> Result<B::Ticket, BackendError> {
        self.gradients(batch, &batch.groups, totals, accumulate, None)?;
        Ok(self.backend.read_later(self.activations.head.logp.first(batch.gather.len())))
    }

    /// `groups` are the batch's with everything that the objective is to know of them.
    fn gradients(
        &mut self,
        batch: &Batch,
        groups: &[BatchGroup],
        totals: StepTotals,
        accumulate: bool,
        given: Option<&[f32]>,
    ) -> Result<(), BackendError> {
        let detail = self.detail();
        let Self { backend, model, activations, objective, state, .. } = self;
        let mut device = activations.upload(backend, batch);
        let objective = objective.as_ref();
        let predicted = model.mix_inputs(backend, activations, batch, &mut device, objective.inputs());
        model.forward(backend, activations, &device);
        let head = HeadStep { objective, given, detail, totals, state: *state, accumulate };
        model.head(backend, activations, &device, groups, head);
        if let Some(predicted) = predicted {
            // They came before the log-probs for which the head has waited, unless the device formed the coefficients.
            let predicted = backend.collect(predicted)?;
            activations.sort_mixed_tokens(backend, batch, &predicted, &mut device);
        }
        model.backward(backend, activations, &device, accumulate, |_, _| {});
        Ok(())
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
    RowTickets::read_later(backend, activations, batch, detail)
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

    /// Loss and metrics of each held-out group by itself, for intervals: of groups chosen otherwise, the loss is the sum of theirs
    /// and a metric the weighted mean.
    pub fn each(&self) -> Vec<(f64, Metrics)> {
        let losses = self.losses().into_iter().map(|loss| loss.value);
        let groups = self.in_order().into_iter().zip(self.sorted());
        let metrics = groups.map(|(logps, (group, batch))| {
            let mut metrics = Metrics::default();
            self.objective.metrics(&logps, &self.totals, &mut metrics);
            token_metrics::add(group, &self.batches[*batch], &mut metrics);
            add_likelihoods(&logps, &mut metrics);
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
        for (group, batch) in self.sorted() {
            token_metrics::add(group, &self.batches[*batch], &mut metrics);
        }
        (loss, metrics)
    }

    /// Loss and metrics of held-out rows: beside the objective's own the length-normalised log-probs of both answers, which are
    /// the same measure whatever is trained for, under the names of `asft eval pairs`.
    pub fn finish_held_out(self) -> (f64, Metrics) {
        let mut likelihoods = Metrics::default();
        self.in_order().iter().for_each(|group| add_likelihoods(group, &mut likelihoods));
        let (loss, mut metrics) = self.finish();
        metrics.merge(&likelihoods);
        (loss, metrics)
    }

    fn in_order(&self) -> Vec<GroupLogps<'_>> {
        let groups = self.sorted().into_iter();
        groups.map(|(group, batch)| GroupLogps::of(group, self.batches[*batch].rows())).collect()
    }

    /// The groups in the order of the step, each with the number of its micro-batch.
    fn sorted(&self) -> Vec<&(BatchGroup, usize)> {
        let mut groups: Vec<&(BatchGroup, usize)> = self.groups.iter().collect();
        groups.sort_by_key(|(group, _)| group.group);
        groups
    }
}

/// The length-normalised log-probs of both answers of a valid group.
fn add_likelihoods(group: &GroupLogps<'_>, metrics: &mut Metrics) {
    if !group.is_valid() {
        return;
    }
    let (chosen, rejected) = (group.chosen().map(Scored::mean), group.rejected().map(Scored::mean));
    let mut add = |name, value: Option<f64>| {
        if let Some(value) = value {
            metrics.add(name, value, 1.0);
        }
    };
    add("mean_logps/chosen", chosen);
    add("mean_logps/rejected", rejected);
    add("mean_logps/margins", chosen.zip(rejected).map(|(w, l)| w - l));
}
