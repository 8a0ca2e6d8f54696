//! Groups -> one packed micro-batch: flat, without padding, each prompt once with its answers after it.
//!
//! Layout, group by group: the prompt's tokens, then each answer's, in the order of their roles. An answer
//! attends to its prompt and causally to itself; its positions go on where the prompt ended. The row that
//! predicts a token is the one before it, which for every answer's first token is the prompt's last row. All tokens of
//! an answer are packed; its span holds the scored ones, in order. Where two groups are mixed ([`super::mixture`]), the rows
//! of their mixture come behind those of the later one.
//!
//! Boundary: pure integer bookkeeping ([`pack`]) and its proof ([`Batch::check`]). Which groups share a
//! micro-batch is decided in [`super::loader`].

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::annotations::{Annotations, Reference};
use super::group::{Answer, Group};
use super::mixture::Mixture;
use super::role::{ByRole, Role, Roles};

/// Keys that a query segment sees: query i sees key j of the range iff `j < len && j <= i + causal_offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// First key row.
    pub row: u32,
    /// Keys; 0 where the range is not used.
    pub len: u32,
    /// `len` for a range seen in full, 0 for a segment's own.
    pub causal_offset: u32,
}

/// A prompt or an answer: query rows `start..start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: u32,
    /// Rows.
    pub len: u32,
    /// The prompt's keys (unused in a prompt), then the segment's own.
    pub ranges: [KeyRange; 2],
}

/// A run of response rows, in `0..R`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First response row.
    pub start: u32,
    /// Response rows.
    pub len: u32,
}

impl Span {
    /// The span as indices.
    pub fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// Where the scored tokens of one group are. Spans follow each other: the prompt's, then the answers' in the order of
/// their roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchGroup {
    /// Position of the group in its optimizer step, whatever the cut into micro-batches.
    pub group: u32,
    /// [`Group::row`].
    pub row: usize,
    /// The prompt's tokens 1..P, where they are scored.
    pub prompt: Option<Span>,
    /// The scored tokens of each answer that is packed. [`Role::Mixed`]: what it has in common with a group before it.
    pub answers: ByRole<Option<Span>>,
    /// [`Group::annotations`].
    pub annotations: Option<Arc<Annotations>>,
}

impl BatchGroup {
    /// Every span, in order.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.prompt.into_iter().chain(self.answers.present().map(|(_, span)| *span))
    }

    /// The chosen answer's scored tokens.
    pub fn chosen(&self) -> Option<Span> {
        self.answers[Role::Chosen]
    }

    /// The rejected answer's scored tokens.
    pub fn rejected(&self) -> Option<Span> {
        self.answers[Role::Rejected]
    }

    /// What is known of the group beside its tokens.
    pub fn annotations(&self) -> &Annotations {
        self.annotations.as_deref().unwrap_or(Annotations::NONE)
    }

    /// Adds the log-probs of the answers under one more reference model.
    pub fn push_references(&mut self, references: ByRole<Option<Reference>>) {
        Arc::make_mut(self.annotations.get_or_insert_default()).push_references(references);
    }
}

/// One packed micro-batch of T tokens and R response rows (scored tokens).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[T]` token ids.
    pub ids: Vec<u32>,
    /// `[T]` positions within prompt + answer.
    pub positions: Vec<u32>,
    /// Prompts and answers, in the order of the rows, covering `0..T`.
    pub segments: Vec<Segment>,
    /// Runs of segments, one group each, that share keys with nobody else.
    pub families: Vec<Range<u32>>,
    /// `[R]` the hidden row that predicts.
    pub gather: Vec<u32>,
    /// `[R]` the token predicted.
    pub targets: Vec<u32>,
    /// `[T + 1]` borders in [`Self::scatter_rows`].
    pub scatter_offsets: Vec<u32>,
    /// `[R]` the response rows that read hidden row t, ascending: the inverse of [`Self::gather`]. A mixed row is here twice.
    pub scatter_rows: Vec<u32>,
    /// What mixed rows read beside; `None` where there is none.
    pub mixed: Option<MixedRows>,
    /// `[U]` distinct token ids, ascending.
    pub token_ids: Vec<u32>,
    /// `[U + 1]` borders in [`Self::token_rows`].
    pub token_offsets: Vec<u32>,
    /// `[T]` packed rows by token id, ascending within an id: a fixed order for the embedding's gradient.
    pub token_rows: Vec<u32>,
    /// The groups in the order packed.
    pub groups: Vec<BatchGroup>,
}

/// The second part of response rows that are mixtures of two: of the hidden rows that predict, and of the tokens predicted. Of
/// any other row it is the first part again, which then has the whole weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MixedRows {
    /// `[R]` the other hidden row.
    pub gather: Vec<u32>,
    /// `[R]` the other token.
    pub targets: Vec<u32>,
    /// `[R]` k, the weight of [`Batch::gather`] and [`Batch::targets`]; the rest is of these.
    pub weights: Vec<f32>,
    /// `[R + mixed rows]` the weight with which each of [`Batch::scatter_rows`] reads.
    pub scatter_weights: Vec<f32>,
}

/// Which spans are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// Whether the prompt's tokens 1..P are, each predicted by the row before.
    pub prompt: bool,
    /// Which answers are, as far as a group has them; the others are not packed at all.
    pub answers: Roles,
}

impl Spans {
    /// The answers of a group that are packed, in the order of their roles.
    pub(super) fn answers(self, group: &Group) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter_map(|role| group.answer(role))
    }

    /// Packed tokens of a group: its share of T.
    pub fn tokens(self, group: &Group) -> usize {
        group.prompt.len() + self.answers(group).map(|answer| answer.ids.len()).sum::<usize>()
    }

    /// Scored tokens of a group: its share of R.
    pub fn rows(self, group: &Group) -> usize {
        let prompt = if self.prompt { group.prompt.len().saturating_sub(1) } else { 0 };
        prompt + self.answers(group).map(Answer::scored_tokens).sum::<usize>()
    }
}

/// The denominators of an optimizer step, known before its first backward pass. They count what the groups
/// hold, whether or not [`Spans`] score it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Groups.
    pub groups: usize,
    /// Prompt tokens that have a predictor: the sum of P - 1.
    pub prompt_tokens: usize,
    /// Scored tokens of the answers in each role.
    pub answer_tokens: ByRole<usize>,
}

impl StepTotals {
    /// The totals of these groups.
    pub fn of<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Self {
        let mut totals = Self::default();
        for group in groups {
            totals.groups += 1;
            totals.prompt_tokens += group.prompt.len().saturating_sub(1);
            for answer in &group.answers {
                totals.answer_tokens[answer.role] += answer.scored_tokens();
            }
        }
        totals
    }
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// 1-based.
    pub index: usize,
    /// Epochs completed once this step is done.
    pub epoch: f64,
    /// Its micro-batches.
    pub batches: Vec<Batch>,
    /// The same groups with more answers, for a pass without gradients before; empty where [`Self::batches`] hold all that
    /// is scored.
    pub scoring: Vec<Batch>,
    /// Its denominators, over all micro-batches.
    pub totals: StepTotals,
}

/// Packs groups into a micro-batch, in this order; `BatchGroup::group` is the place in `groups`.
///
/// Every group needs a prompt of at least one token and answers of at least one scored token, as loading guarantees,
/// and T must fit in 32 bits.
pub fn pack(groups: &[&Group], spans: Spans) -> Batch {
    pack_mixed(groups, spans, &[])
}

/// The same with mixtures of these groups, whose places are those in `groups`; the mixed rows come behind the answers of the
/// later one. The answers that are mixed must be among those that are packed.
pub fn pack_mixed(groups: &[&Group], spans: Spans, mixtures: &[Mixture]) -> Batch {
    let tokens = groups.iter().map(|group| spans.tokens(group)).sum();
    let mixed: usize = mixtures.iter().map(|mixture| mixture.rows(groups)).sum();
    let rows = mixed + groups.iter().map(|group| spans.rows(group)).sum::<usize>();
    let mut batch = Batch {
        ids: Vec::with_capacity(tokens),
        positions: Vec::with_capacity(tokens),
        gather: Vec::with_capacity(rows),
        targets: Vec::with_capacity(rows),
        mixed: (!mixtures.is_empty()).then(MixedRows::default),
        ..Batch::default()
    };
    for (place, group) in groups.iter().enumerate() {
        batch.add(place as u32, group, spans);
        for mixture in mixtures.iter().filter(|mixture| mixture.first.max(mixture.second) == place) {
            batch.mix(mixture);
        }
    }
    let (offsets, rows, weights) = batch.readers();
    (batch.scatter_offsets, batch.scatter_rows) = (offsets, rows);
    if let Some(mixed) = &mut batch.mixed {
        mixed.fill(&batch.gather, &batch.targets);
        mixed.scatter_weights = weights;
    }
    batch.sort_tokens();
    debug_assert_eq!(batch.check(), Ok(()));
    batch
}

impl Batch {
    /// `[R]` the packed row of the token that each response row predicts; all distinct.
    pub fn places(&self) -> Vec<u32> {
        let mut places = vec![0; self.gather.len()];
        for (entry, family) in self.groups.iter().zip(&self.families) {
            let segments = &self.segments[family.start as usize..family.end as usize];
            let prompt_end = segments[0].start + segments[0].len;
            let mut place = |span: Span, start: u32| {
                for row in span.range() {
                    // An answer's first token is predicted where the prompt ends.
                    let before = self.gather[row] + 1;
                    places[row] = if before == prompt_end { start } else { before };
                }
            };
            if let Some(span) = entry.prompt {
                place(span, prompt_end);
            }
            for ((_, &span), segment) in entry.answers.present().zip(&segments[1..]) {
                place(span, segment.start);
            }
        }
        places
    }

    fn add(&mut self, place: u32, group: &Group, spans: Spans) {
        let family = self.segments.len() as u32;
        let prompt = self.add_segment(&group.prompt, None);
        let last = prompt.start + prompt.len - 1;
        let mut entry = BatchGroup {
            group: place,
            row: group.row,
            annotations: group.annotations.clone(),
            ..BatchGroup::default()
        };
        if spans.prompt {
            entry.prompt = Some(self.score((prompt.start..last).zip(group.prompt[1..].iter().copied())));
        }
        for answer in spans.answers(group) {
            let segment = self.add_segment(&answer.ids, Some(prompt));
            let before_each = std::iter::once(last).chain(segment.start..segment.start + segment.len - 1);
            let predictions = before_each.zip(answer.ids.iter().copied()).enumerate();
            let scored = predictions.filter(|(position, _)| answer.is_scored(*position));
            entry.answers[answer.role] = Some(self.score(scored.map(|(_, prediction)| prediction)));
        }
        self.families.push(family..self.segments.len() as u32);
        self.groups.push(entry);
    }

    fn add_segment(&mut self, ids: &[u32], prompt: Option<Segment>) -> Segment {
        let (start, len) = (self.ids.len() as u32, ids.len() as u32);
        let own = KeyRange { row: start, len, causal_offset: 0 };
        let shared = prompt.map_or_else(KeyRange::default, |prompt| KeyRange {
            row: prompt.start,
            len: prompt.len,
            causal_offset: prompt.len,
        });
        self.ids.extend_from_slice(ids);
        self.positions.extend(shared.len..shared.len + len);
        let segment = Segment { start, len, ranges: [shared, own] };
        self.segments.push(segment);
        segment
    }

    /// Scores tokens, given as (the row that predicts, the token).
    fn score(&mut self, predictions: impl Iterator<Item = (u32, u32)>) -> Span {
        let start = self.gather.len() as u32;
        for (row, target) in predictions {
            self.gather.push(row);
            self.targets.push(target);
        }
        Span { start, len: self.gather.len() as u32 - start }
    }

    /// Scores what two groups that are packed have in common; the later one, packed last, gets the span.
    fn mix(&mut self, mixture: &Mixture) {
        let span = |place: usize| self.groups[place].answers[mixture.of];
        let (Some(first), Some(second)) = (span(mixture.first), span(mixture.second)) else { return };
        let len = first.len.min(second.len);
        let (start, rows) = (self.gather.len() as u32, |span: Span| Span { len, ..span }.range());
        let Some(mixed) = &mut self.mixed else { return };
        mixed.fill(&self.gather, &self.targets);
        mixed.gather.extend_from_within(rows(second));
        mixed.targets.extend_from_within(rows(second));
        mixed.weights.extend(rows(second).map(|_| mixture.weight));
        self.gather.extend_from_within(rows(first));
        self.targets.extend_from_within(rows(first));
        if let Some(entry) = self.groups.last_mut() {
            entry.answers[Role::Mixed] = Some(Span { start, len });
        }
    }

    /// For each hidden row, the response rows that read it, ascending, as (offsets, rows), and how much each of it.
    fn readers(&self) -> (Vec<u32>, Vec<u32>, Vec<f32>) {
        let Some(mixed) = &self.mixed else {
            let (offsets, rows) = invert(&self.gather, self.ids.len());
            return (offsets, rows, Vec::new());
        };
        let (mut hidden, mut reads) = (Vec::new(), Vec::new());
        for (row, &first) in self.gather.iter().enumerate() {
            // Rows behind the last mixture have not been filled in yet.
            let part = mixed.gather.get(row).zip(mixed.weights.get(row));
            let (second, weight) = part.map_or((first, 1.0), |(second, weight)| (*second, *weight));
            hidden.push(first);
            reads.push((row as u32, weight));
            if second != first {
                hidden.push(second);
                reads.push((row as u32, 1.0 - weight));
            }
        }
        let (offsets, places) = invert(&hidden, self.ids.len());
        let (rows, weights) = places.into_iter().map(|place| reads[place as usize]).unzip();
        (offsets, rows, weights)
    }

    fn sort_tokens(&mut self) {
        self.token_rows = (0..self.ids.len() as u32).collect();
        let ids = &self.ids;
        self.token_rows.sort_unstable_by_key(|row| (ids[*row as usize], *row));
        for (place, row) in self.token_rows.iter().enumerate() {
            let id = ids[*row as usize];
            if self.token_ids.last() != Some(&id) {
                self.token_ids.push(id);
                self.token_offsets.push(place as u32);
            }
        }
        self.token_offsets.push(ids.len() as u32);
    }

    /// Proves the layout: every relation between the fields that their documentation promises.
    ///
    /// # Errors
    /// The first relation that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        let (tokens, rows) = (self.ids.len(), self.gather.len());
        ensure(self.positions.len() == tokens, "one position a token")?;
        ensure(self.targets.len() == rows, "one target a response row")?;
        self.check_segments(tokens)?;
        self.check_spans(rows)?;
        self.check_mixed(rows)?;
        let (offsets, inverse, weights) = self.readers();
        ensure(self.scatter_offsets == offsets, "scatter_offsets count the readers of each row")?;
        ensure(self.scatter_rows == inverse, "scatter_rows is the inverse of gather")?;
        let stored = self.mixed.as_ref().map_or(&[][..], |mixed| &mixed.scatter_weights);
        ensure(stored == weights, "scatter_weights are those of the rows that read")?;
        self.check_tokens(tokens)
    }

    fn check_segments(&self, tokens: usize) -> Result<(), String> {
        ensure(self.families.len() == self.groups.len(), "one family a group")?;
        let (mut row, mut first) = (0, 0);
        for family in &self.families {
            ensure(family.start == first && family.end > first, "families cover the segments in order")?;
            first = family.end;
            let segments = self.segments.get(family.start as usize..family.end as usize);
            let segments = segments.ok_or("families lie within the segments")?;
            let prompt = segments[0];
            for (place, segment) in segments.iter().enumerate() {
                ensure(segment.start == row && segment.len > 0, "segments cover the rows in order")?;
                row += segment.len;
                ensure(row as usize <= tokens, "segments lie within the rows")?;
                let shared = match place {
                    0 => KeyRange::default(),
                    _ => KeyRange { row: prompt.start, len: prompt.len, causal_offset: prompt.len },
                };
                let own = KeyRange { row: segment.start, len: segment.len, causal_offset: 0 };
                ensure(
                    segment.ranges == [shared, own],
                    "a segment sees its prompt in full and itself causally",
                )?;
                let positions = &self.positions[segment.start as usize..row as usize];
                let expected = shared.len..shared.len + segment.len;
                ensure(positions.iter().copied().eq(expected), "positions go on where the prompt ended")?;
            }
        }
        ensure(first as usize == self.segments.len(), "families cover all segments")?;
        ensure(row as usize == tokens, "segments cover all rows")
    }

    fn check_spans(&self, rows: usize) -> Result<(), String> {
        let mut row = 0;
        for (entry, family) in self.groups.iter().zip(&self.families) {
            let prompt = self.segments[family.start as usize];
            let mut answers = self.segments[family.start as usize + 1..family.end as usize].iter();
            if let Some(span) = entry.prompt {
                ensure(span.len == prompt.len - 1, "a prompt's first token is not scored")?;
                self.check_span(span, &mut row, prompt.start..prompt.start + prompt.len)?;
            }
            for (role, &span) in entry.answers.present() {
                if role == Role::Mixed {
                    ensure(span.start == row && self.mixed.is_some(), "a mixture follows its answers")?;
                    row += span.len;
                    continue;
                }
                let answer = answers.next().ok_or("one segment a scored answer")?;
                ensure(span.len > 0, "an answer has a scored token")?;
                let last = prompt.start + prompt.len - 1;
                let path = std::iter::once(last).chain(answer.start..answer.start + answer.len);
                self.check_span(span, &mut row, path)?;
            }
            ensure(answers.next().is_none(), "every packed answer is scored")?;
        }
        ensure(row as usize == rows, "spans cover all response rows")
    }

    /// Every part of a mixed row is a row that is scored by itself too; any other row is one thing alone.
    fn check_mixed(&self, rows: usize) -> Result<(), String> {
        let Some(mixed) = &self.mixed else { return Ok(()) };
        let lists = [mixed.gather.len(), mixed.targets.len(), mixed.weights.len()];
        ensure(lists == [rows; 3], "one second part a response row")?;
        ensure(mixed.weights.iter().all(|weight| (0.0..=1.0).contains(weight)), "weights lie in 0..=1")?;
        let spans = self.groups.iter().filter_map(|entry| entry.answers[Role::Mixed]);
        let is_mixed: HashSet<usize> = spans.flat_map(Span::range).collect();
        let first = |row: usize| (self.gather[row], self.targets[row]);
        let second = |row: usize| (mixed.gather[row], mixed.targets[row]);
        let alone: HashSet<(u32, u32)> = (0..rows).filter(|row| !is_mixed.contains(row)).map(first).collect();
        for row in 0..rows {
            if is_mixed.contains(&row) {
                let both = [first(row), second(row)];
                ensure(
                    both.iter().all(|part| alone.contains(part)),
                    "the parts of a mixture are scored rows",
                )?;
            } else {
                let one = first(row) == second(row) && mixed.weights[row] == 1.0;
                ensure(one, "a row that is no mixture is its first part alone")?;
            }
        }
        Ok(())
    }

    /// Along `path`, each row predicts the next one's token, and the span holds such predictions in their order; how
    /// many of them, only the prompt's span says.
    fn check_span(&self, span: Span, row: &mut u32, path: impl Iterator<Item = u32>) -> Result<(), String> {
        ensure(span.start == *row, "spans follow each other")?;
        *row += span.len;
        let rows = span.range();
        ensure(rows.end <= self.gather.len(), "spans lie within the response rows")?;
        let path: Vec<u32> = path.collect();
        let mut steps = path.windows(2);
        for (row, target) in self.gather[rows.clone()].iter().zip(&self.targets[rows]) {
            let step = steps.find(|step| step[0] == *row);
            let step = step.ok_or("rows that predict lie in their own segments, in order")?;
            ensure(self.ids[step[1] as usize] == *target, "the target is the next token")?;
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: usize) -> Result<(), String> {
        ensure(self.token_rows.len() == tokens, "every row is in token_rows once")?;
        ensure(self.token_ids.is_sorted_by(|a, b| a < b), "token_ids are distinct and ascend")?;
        ensure(self.token_offsets.len() == self.token_ids.len() + 1, "one border more than token ids")?;
        ensure(self.token_offsets.first() == Some(&0), "token_offsets begin at 0")?;
        ensure(self.token_offsets.last() == Some(&(tokens as u32)), "token_offsets end at T")?;
        for (id, borders) in self.token_ids.iter().zip(self.token_offsets.windows(2)) {
            let run = self.token_rows.get(borders[0] as usize..borders[1] as usize);
            let run = run.filter(|run| !run.is_empty()).ok_or("every token id has rows")?;
            ensure(run.is_sorted_by(|a, b| a < b), "rows of one id ascend")?;
            ensure(run.iter().all(|row| self.ids.get(*row as usize) == Some(id)), "rows have their id")?;
        }
        Ok(())
    }
}

impl MixedRows {
    /// Makes the rows that have no second part yet rows of one part.
    fn fill(&mut self, gather: &[u32], targets: &[u32]) {
        let known = self.gather.len();
        self.gather.extend_from_slice(&gather[known..]);
        self.targets.extend_from_slice(&targets[known..]);
        self.weights.resize(gather.len(), 1.0);
    }
}

fn ensure(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

/// For each of `0..len`, the places of `values` that hold it, ascending, as (offsets, places).
fn invert(values: &[u32], len: usize) -> (Vec<u32>, Vec<u32>) {
    let mut offsets = vec![0u32; len + 1];
    for value in values {
        offsets[*value as usize + 1] += 1;
    }
    for place in 0..len {
        offsets[place + 1] += offsets[place];
    }
    let mut next = offsets.clone();
    let mut places = vec![0u32; values.len()];
    for (place, value) in values.iter().enumerate() {
        let slot = &mut next[*value as usize];
        places[*slot as usize] = place as u32;
        *slot += 1;
    }
    (offsets, places)
}
