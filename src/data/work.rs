//! What passes through a model: the sizes from which its operations are counted.
//!
//! Boundary: counts of tokens, rows and pairs; what each costs is [`crate::model::Flops`]'s.

use std::iter::Sum;
use std::ops::Add;

use super::batch::{Batch, Segment, Spans};
use super::group::Group;

/// Sizes of packed batches, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Packed tokens T: a prompt once for all its answers, no padding.
    pub tokens: u64,
    /// Response rows R, which reach the head.
    pub rows: u64,
    /// (query, key) pairs that attention looks at, per head and layer.
    pub attended_pairs: u64,
}

impl Work {
    /// Of a group, wherever it is packed: a prompt's token sees the prompt up to itself, an answer's the whole prompt and
    /// the answer up to itself.
    pub fn of_group(group: &Group, spans: Spans) -> Self {
        let up_to_itself = |len: usize| len as u64 * (len as u64 + 1) / 2;
        let prompt = group.prompt.len();
        let of_answer = |len: usize| (len * prompt) as u64 + up_to_itself(len);
        let answers = spans.answers(group).map(|answer| of_answer(answer.ids.len()));
        Self {
            tokens: spans.tokens(group) as u64,
            rows: spans.rows(group) as u64,
            attended_pairs: up_to_itself(prompt) + answers.sum::<u64>(),
        }
    }

    /// Of a packed micro-batch, counted from its lists.
    pub fn of_batch(batch: &Batch) -> Self {
        Self {
            tokens: batch.ids.len() as u64,
            rows: batch.gather.len() as u64,
            attended_pairs: attended_pairs(&batch.segments),
        }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            rows: self.rows + other.rows,
            attended_pairs: self.attended_pairs + other.attended_pairs,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// (query, key) pairs that attention looks at, per head and layer.
fn attended_pairs(segments: &[Segment]) -> u64 {
    let visible = |segment: &Segment| {
        let rows = 0..u64::from(segment.len);
        rows.map(|row| {
            let keys = segment
                .ranges
                .iter()
                .map(|range| u64::from(range.len).min(row + u64::from(range.causal_offset) + 1));
            keys.sum::<u64>()
        })
        .sum::<u64>()
    };
    segments.iter().map(visible).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Answer, Role, Roles, pack};

    fn group(prompt: usize, chosen: usize, rejected: usize) -> Group {
        let answer = |role, len| Answer { role, ids: vec![1; len], scored: None, text: None };
        let answers = vec![answer(Role::Chosen, chosen), answer(Role::Rejected, rejected)];
        Group { row: 0, prompt: vec![2; prompt], answers, annotations: None }
    }

    /// By hand. First pair: the prompt sees 1 + 2 keys; chosen row i sees 2 + (i + 1): 3 + 4 + 5; rejected 3. Second: 1;
    /// 2; 2 + 3.
    #[test]
    fn attended_pairs_counted_by_hand() {
        let groups = [group(2, 3, 1), group(1, 1, 2)];
        for (rejected, expected) in [(true, 3 + 12 + 3 + 1 + 2 + 5), (false, 3 + 12 + 1 + 2)] {
            let spans = Spans { prompt: false, answers: Roles::CHOSEN.with(Role::Rejected, rejected) };
            let batch = pack(&[&groups[0], &groups[1]], spans);
            assert_eq!(attended_pairs(&batch.segments), expected);
        }
    }

    #[test]
    fn groups_add_up_to_the_batch_that_holds_them() {
        let groups = [group(2, 3, 1), group(1, 1, 2), group(40, 7, 33)];
        for spans in [(false, true), (true, true), (true, false), (false, false)] {
            let spans = Spans { prompt: spans.0, answers: Roles::CHOSEN.with(Role::Rejected, spans.1) };
            let batch = pack(&groups.each_ref(), spans);
            assert_eq!(
                groups.iter().map(|group| Work::of_group(group, spans)).sum::<Work>(),
                Work::of_batch(&batch)
            );
        }
    }
}
