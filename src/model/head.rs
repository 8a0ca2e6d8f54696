//! The head: one pass over the logits, any objective.
//!
//! Every objective's gradient with respect to the logits of row t is `g[t] * (onehot - softmax)`, and `g` depends on
//! whole sequences. So the row kernel leaves the *unit* gradient U in place of the logits, the objective gives `g` once a
//! unit's rows are complete, and the coefficient is applied to H-wide rows only: `dX = g * (U W)`, `dW += U^T (g * X)`.
//! Three products, one read and one write of each logit, and one buffer of `head_rows x V`.
//!
//! A unit (a sequence or a group, as the objective couples) longer than the buffer is scored first, without keeping U,
//! and its logits are computed again once `g` is known: four products, the same numbers.
//!
//! Chunks are padded to rungs by the rows behind them: those have coefficient 0 as yet, so they add nothing to dW, and what
//! is written for them is written again, with the same bits, when their own chunk comes.

use std::ops::Range;

use super::activations::{Activations, DeviceBatch};
use super::llama::Llama;
use crate::backend::{
    Backend, GatherRows, HeadRows, HeadStatistics, ObjectiveCoefficients, SPAN_WORDS, SecondTargets,
    TargetLogits, View,
};
use crate::data::{BatchGroup, ByRole, StepTotals};
use crate::objective::{Coupling, Objective};

/// What the training head needs beside the model and the batch.
#[derive(Clone, Copy, Debug)]
pub struct HeadStep<'a> {
    /// The objective.
    pub objective: &'a dyn Objective,
    /// What is to be found out about each row, at least what the objective asks for.
    pub detail: Detail,
    /// The coefficients `[R]`, where they are known beforehand ([`Coupling::Step`]).
    pub given: Option<&'a [f32]>,
    /// What the whole optimizer step counts.
    pub totals: StepTotals,
    /// The step's state on the device.
    pub state: View,
    /// Add to the head's weight gradient instead of replacing it.
    pub accumulate: bool,
}

/// What is found out about each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The log-prob of its target.
    LogProbs,
    /// Also [`HeadStatistics`], for one more read of the logits.
    Statistics,
}

impl Detail {
    /// What an objective asks for.
    pub fn of(objective: &dyn Objective) -> Self {
        if objective.statistics() { Detail::Statistics } else { Detail::LogProbs }
    }
}

/// One pass over the logits of some rows.
#[derive(Clone, Copy)]
struct Pass {
    detail: Detail,
    /// Whether unit gradients are left in place of the logits.
    write_gradient: bool,
}

/// Rows whose units are complete, in the order in which the head works.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Response rows.
    pub rows: Range<usize>,
    /// The units they make up; spans count from the micro-batch's first row.
    pub units: Vec<BatchGroup>,
}

/// Cuts a micro-batch into chunks of at most `capacity` rows, each of whole units; a unit longer than that is a chunk
/// of its own.
pub fn chunks(groups: &[BatchGroup], coupling: Coupling, capacity: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for unit in groups.iter().flat_map(|group| units(group, coupling)) {
        let rows = unit_rows(&unit);
        match chunks.last_mut() {
            Some(last) if rows.end - last.rows.start <= capacity => {
                last.rows.end = rows.end;
                last.units.push(unit);
            }
            _ => chunks.push(Chunk { rows, units: vec![unit] }),
        }
    }
    chunks
}

/// A group as a whole, or each of its sequences alone.
fn units(group: &BatchGroup, coupling: Coupling) -> Vec<BatchGroup> {
    let alone = BatchGroup { prompt: None, answers: ByRole::default(), ..group.clone() };
    match coupling {
        Coupling::Group => vec![group.clone()],
        // With coefficients that are known beforehand every sequence is complete by itself.
        Coupling::Sequence | Coupling::Step => {
            let prompt = group.prompt.map(|span| BatchGroup { prompt: Some(span), ..alone.clone() });
            let answers = group.answers.present().map(|(role, &span)| {
                let mut unit = alone.clone();
                unit.answers[role] = Some(span);
                unit
            });
            prompt.into_iter().chain(answers).collect()
        }
    }
}

fn unit_rows(unit: &BatchGroup) -> Range<usize> {
    let start = unit.spans().map(|span| span.start).min().unwrap_or(0);
    let end = unit.spans().map(|span| span.start + span.len).max().unwrap_or(0);
    start as usize..end as usize
}

impl Llama {
    /// Gathers the rows that predict a scored token into `activations.head.x`.
    pub fn gather_head_rows<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
    ) {
        let h = self.config.hidden_size;
        backend.gather_rows(GatherRows {
            source: activations.hidden.first(batch.ids.len * h),
            rows: batch.gather,
            second: batch.mixed.map(|mixed| mixed.second_rows(0..batch.gather.len)),
            scale: None,
            out: activations.head.x.first(batch.gather.len * h),
            hidden: h,
        });
    }

    /// Rows on which the head works at a time, from `rows.start` on: up to the buffer's, and padded to the rung.
    fn parts(
        activations: &Activations,
        rows: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let (capacity, rung) = (activations.budget.head_capacity(), activations.budget.rungs.rows);
        rows.clone().step_by(capacity).map(move |start| {
            let len = capacity.min(rows.end - start);
            start..start + len.next_multiple_of(rung)
        })
    }

    /// Log-probs (`logp`, `lse`, `argmax` of `activations.head`) of every response row, without gradients.
    pub fn score<B: Backend>(&self, backend: &mut B, activations: &Activations, batch: &DeviceBatch) {
        self.score_in_detail(backend, activations, batch, Detail::LogProbs);
    }

    /// The same with whatever else is wanted of the rows.
    pub fn score_in_detail<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        detail: Detail,
    ) {
        self.gather_head_rows(backend, activations, batch);
        for rows in Self::parts(activations, 0..batch.rows) {
            self.head_logits(backend, activations, batch, rows, Pass { detail, write_gradient: false });
        }
    }

    /// The plain logits of the first of these gathered rows, as many as there is room for: where they lie, `[count, V]`, and
    /// the count. For whoever samples.
    pub fn head_product<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        rows: Range<usize>,
    ) -> (View, usize) {
        let (head, h, v) = (activations.head, self.config.hidden_size, self.config.vocab_size);
        let count = rows.len().min(head.logit_rows);
        let padded = count.next_multiple_of(activations.budget.rungs.rows).min(head.logit_rows);
        let x = head.x.rows(rows.start..rows.start + padded, h);
        self.head.forward(backend, x, head.logits.first(padded * v), padded);
        (head.logits.first(count * v), count)
    }

    /// Log-probs, coefficients, the head's weight gradient and the unit row gradients `activations.head.dx`.
    pub fn head<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        groups: &[BatchGroup],
        step: HeadStep<'_>,
    ) {
        self.gather_head_rows(backend, activations, batch);
        let (logp, coefficients) =
            (activations.head.logp.first(batch.rows), activations.head.coefficients.first(batch.rows));
        backend.zero(activations.head.coefficients.first(batch.gather.len));
        if let Some(given) = step.given {
            return self.head_with_coefficients(backend, activations, batch, given, step.accumulate);
        }
        let capacity = activations.budget.head_capacity();
        let detail = step.detail;
        let is_asked_for = Detail::of(step.objective) == Detail::Statistics;
        let statistics = is_asked_for.then(|| activations.head.statistics.map(|v| v.first(batch.rows)));
        let mut accumulate = step.accumulate;
        let mut first_span = 0;
        for chunk in chunks(groups, step.objective.coupling(), capacity) {
            let fits = chunk.rows.len() <= capacity;
            let parts = Self::parts(activations, chunk.rows.clone());
            for part in parts.clone() {
                self.head_logits(backend, activations, batch, part, Pass { detail, write_gradient: fits });
            }
            let span_count = chunk.units.iter().flat_map(BatchGroup::spans).count();
            let chunk_spans = batch.spans.rows(first_span..first_span + span_count, SPAN_WORDS);
            first_span += span_count;
            backend.objective(ObjectiveCoefficients {
                objective: step.objective,
                units: &chunk.units,
                spans: chunk_spans,
                totals: step.totals,
                logp,
                statistics,
                coefficients,
                state: step.state,
            });
            for part in parts {
                if !fits {
                    self.head_logits(
                        backend,
                        activations,
                        batch,
                        part.clone(),
                        Pass { detail: Detail::LogProbs, write_gradient: true },
                    );
                }
                self.head_gradients(backend, activations, batch, part, accumulate);
                accumulate = true;
            }
        }
    }

    /// The head where no unit has to be complete before its coefficients are known: three products always.
    fn head_with_coefficients<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        given: &[f32],
        mut accumulate: bool,
    ) {
        for part in Self::parts(activations, 0..batch.rows) {
            // Only those of the part itself: the rows that pad it come again, and count then.
            let own = part.start..(part.start + activations.budget.head_capacity()).min(batch.rows);
            backend.write(activations.head.coefficients.slice(own.clone()), &given[own]);
            self.head_logits(
                backend,
                activations,
                batch,
                part.clone(),
                Pass { detail: Detail::LogProbs, write_gradient: true },
            );
            self.head_gradients(backend, activations, batch, part, accumulate);
            accumulate = true;
        }
    }

    /// Logits of some rows and the row kernel over them, as many at a time as there is room for logits.
    fn head_logits<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        rows: Range<usize>,
        Pass { detail, write_gradient }: Pass,
    ) {
        let (head, h, v) = (activations.head, self.config.hidden_size, self.config.vocab_size);
        for start in rows.clone().step_by(head.logit_rows) {
            let part = start..(start + head.logit_rows).min(rows.end);
            let x = head.x.rows(part.clone(), h);
            let logits = head.logits.first(part.len() * v);
            let cut = |view: View| view.slice(part.clone());
            self.head.forward(backend, x, logits, part.len());
            let mut target_logits = |targets: View, out: View| {
                let (targets, out, weight) = (cut(targets), cut(out), self.head.weight);
                backend.target_logits(TargetLogits { x, weight, targets, out, hidden: h });
            };
            target_logits(batch.targets, head.target_logits);
            if let Some(mixed) = batch.mixed {
                target_logits(mixed.targets, head.second_logits);
            }
            if detail == Detail::Statistics {
                let out = head.statistics.map(cut);
                backend.head_statistics(HeadStatistics { logits, out, vocabulary: v });
            }
            let in_chunk = part.start - rows.start..part.end - rows.start;
            backend.head_rows(HeadRows {
                logits,
                unit: write_gradient.then(|| head.unit.rows(in_chunk, v)),
                target_logits: cut(head.target_logits),
                targets: cut(batch.targets),
                second: batch.mixed.map(|mixed| SecondTargets {
                    targets: cut(mixed.targets),
                    logits: cut(head.second_logits),
                    weights: cut(mixed.weights),
                }),
                logp: cut(head.logp),
                lse: cut(head.lse),
                argmax: cut(head.argmax),
                vocabulary: v,
            });
        }
    }

    /// From the unit gradients of some rows to their share of dX (unscaled) and dW.
    fn head_gradients<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        rows: Range<usize>,
        accumulate: bool,
    ) {
        let (head, h) = (activations.head, self.config.hidden_size);
        let unit = head.unit.first(rows.len() * self.config.vocab_size);
        self.head.backward_input(backend, unit, head.dx.rows(rows.clone(), h), rows.len());
        let scaled = head.scaled.first(rows.len() * h);
        backend.gather_rows(GatherRows {
            source: activations.hidden.first(batch.ids.len * h),
            rows: batch.gather.slice(rows.clone()),
            second: batch.mixed.map(|mixed| mixed.second_rows(rows.clone())),
            scale: Some(head.coefficients.slice(rows.clone())),
            out: scaled,
            hidden: h,
        });
        self.head.backward_weight(backend, scaled, unit, rows.len(), accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Role, Span};

    fn group(index: u32, start: u32, chosen: u32, rejected: u32) -> BatchGroup {
        let mut group = BatchGroup { group: index, row: index as usize, ..BatchGroup::default() };
        group.answers[Role::Chosen] = Some(Span { start, len: chosen });
        group.answers[Role::Rejected] = Some(Span { start: start + chosen, len: rejected });
        group
    }

    #[test]
    fn chunks_hold_whole_units_up_to_the_capacity() {
        let groups = [group(0, 0, 3, 2), group(1, 5, 4, 4), group(2, 13, 1, 1)];
        let by_group = chunks(&groups, Coupling::Group, 8);
        assert_eq!(
            by_group.iter().map(|chunk| chunk.rows.clone()).collect::<Vec<_>>(),
            [0..5, 5..13, 13..15]
        );
        let by_sequence = chunks(&groups, Coupling::Sequence, 9);
        assert_eq!(by_sequence.iter().map(|chunk| chunk.rows.clone()).collect::<Vec<_>>(), [0..9, 9..15]);
        assert_eq!(by_sequence[0].units.len(), 3);
        assert!(by_sequence[0].units[0].rejected().is_none());
    }

    #[test]
    fn a_unit_longer_than_the_buffer_is_a_chunk_of_its_own() {
        let groups = [group(0, 0, 30, 2), group(1, 32, 1, 1)];
        let rows: Vec<_> = chunks(&groups, Coupling::Group, 8).into_iter().map(|chunk| chunk.rows).collect();
        assert_eq!(rows, [0..32, 32..34]);
    }
}
