//! Figures about all rows of the data: lengths, and what packing saves.
//!
//! Boundary: counts over groups as they are trained on; what was dropped, cut or changed on the way is in the
//! [`LoadReport`](crate::data::LoadReport).

use crate::data::{Group, Role, Spans};

/// Lengths in tokens of one part of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Rows that have the part.
    pub rows: usize,
    /// The shortest.
    pub min: usize,
    /// Half of them are no longer.
    pub median: usize,
    /// 90% of them are no longer.
    pub p90: usize,
    /// 99% of them are no longer.
    pub p99: usize,
    /// The longest.
    pub max: usize,
    /// All of them together.
    pub total: usize,
}

impl Lengths {
    /// Of these lengths. A percentile is one of them (the nearest rank): the smallest that this share does not exceed.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let rank = |percent: usize| {
            let rank = (percent * lengths.len()).div_ceil(100).max(1);
            lengths.get(rank - 1).copied().unwrap_or(0)
        };
        Self {
            rows: lengths.len(),
            min: rank(0),
            median: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: rank(100),
            total: lengths.iter().sum(),
        }
    }
}

/// How many lengths lie in each interval of one width.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Lengths in an interval: interval i goes from `i * width` to `(i + 1) * width - 1`.
    pub width: usize,
    /// How many lie in each, from the interval of the shortest to that of the longest.
    pub counts: Vec<usize>,
    /// The interval of the first count.
    pub first: usize,
}

impl Histogram {
    /// Of these lengths, in about ten intervals of a round width.
    pub fn of(lengths: &[usize]) -> Self {
        const INTERVALS: usize = 10;
        let (Some(min), Some(max)) = (lengths.iter().min(), lengths.iter().max()) else {
            return Self::default();
        };
        let width = round_up((max - min) / INTERVALS + 1);
        let first = min / width;
        let mut counts = vec![0; max / width - first + 1];
        for length in lengths {
            counts[length / width - first] += 1;
        }
        Self { width, counts, first }
    }
}

/// 1, 2 or 5 times a power of ten, at least `width`.
fn round_up(width: usize) -> usize {
    let powers = std::iter::successors(Some(1usize), |power| power.checked_mul(10));
    let round = powers.flat_map(|power| [1, 2, 5].map(|digit| power.saturating_mul(digit)));
    round.into_iter().find(|round| *round >= width).unwrap_or(width)
}

/// Figures about the rows that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Of the prompts.
    pub prompt: Lengths,
    /// Of the answers in each role that occurs.
    pub answers: Vec<(Role, Lengths)>,
    /// Of prompt + longest answer: what the maximum length bounds.
    pub sequence: Lengths,
    /// The same.
    pub sequences: Histogram,
    /// Tokens that the model learns to predict.
    pub scored: usize,
    /// Tokens of an epoch as they are packed, each prompt once.
    pub packed: usize,
    /// Tokens of an epoch if each answer had a copy of its prompt.
    pub separate: usize,
}

impl Stats {
    /// Figures of these groups under an objective that scores `spans`.
    pub fn of<'a>(groups: impl IntoIterator<Item = &'a Group>, spans: Spans) -> Self {
        let (mut prompts, mut sequences) = (Vec::new(), Vec::new());
        let mut answers: Vec<(Role, Vec<usize>)> = Vec::new();
        let mut stats = Self::default();
        for group in groups {
            prompts.push(group.prompt.len());
            let longest = group.answers.iter().map(|answer| answer.ids.len()).max();
            sequences.push(group.prompt.len() + longest.unwrap_or(0));
            for answer in &group.answers {
                match answers.iter_mut().find(|(role, _)| *role == answer.role) {
                    Some((_, lengths)) => lengths.push(answer.ids.len()),
                    None => answers.push((answer.role, vec![answer.ids.len()])),
                }
            }
            let packed = spans.tokens(group);
            // Every answer that is packed beside the prompt brings the prompt once more if it stands alone.
            let alone = group.answers.iter().filter(|answer| spans.answers.contains(answer.role)).count();
            stats.packed += packed;
            stats.separate += packed + alone.saturating_sub(1) * group.prompt.len();
            stats.scored += spans.rows(group);
        }
        answers.sort_by_key(|(role, _)| *role);
        Self {
            prompt: Lengths::of(prompts),
            answers: answers.into_iter().map(|(role, lengths)| (role, Lengths::of(lengths))).collect(),
            sequences: Histogram::of(&sequences),
            sequence: Lengths::of(sequences),
            ..stats
        }
    }

    /// The share of tokens that sharing prompts saves, from 0 to 1.
    pub fn saved(&self) -> f64 {
        if self.separate == 0 { 0.0 } else { 1.0 - self.packed as f64 / self.separate as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Answer, Roles};

    #[test]
    fn percentiles_are_lengths_that_occur() {
        let lengths = Lengths::of((1..=200).rev().collect());
        let expected = Lengths { rows: 200, min: 1, median: 100, p90: 180, p99: 198, max: 200, total: 20100 };
        assert_eq!(lengths, expected);
        let one = Lengths::of(vec![7]);
        assert_eq!(one, Lengths { rows: 1, min: 7, median: 7, p90: 7, p99: 7, max: 7, total: 7 });
        assert_eq!(Lengths::of(vec![4, 1, 3, 2]).median, 2);
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }

    #[test]
    fn a_histogram_has_about_ten_intervals_of_a_round_width() {
        let of = |lengths: &[usize]| Histogram::of(lengths);
        assert_eq!(of(&[]), Histogram::default());
        assert_eq!(of(&[7, 7]), Histogram { width: 1, counts: vec![2], first: 7 });
        assert_eq!(
            of(&[0, 9, 10, 19]),
            Histogram { width: 2, counts: vec![1, 0, 0, 0, 1, 1, 0, 0, 0, 1], first: 0 }
        );
        let wide = of(&[130, 999, 1024]);
        assert_eq!((wide.width, wide.first, wide.counts.len()), (100, 1, 10));
        assert_eq!(wide.counts.iter().sum::<usize>(), 3);
    }

    #[test]
    fn sharing_a_prompt_saves_a_copy_for_each_further_answer() {
        let answer = |role, length| Answer { role, ids: vec![1; length], scored: None, text: None };
        let group = |prompt, chosen, rejected| Group {
            row: 0,
            prompt: vec![1; prompt],
            answers: vec![answer(Role::Chosen, chosen), answer(Role::Rejected, rejected)],
            annotations: None,
        };
        let groups = [group(10, 5, 3), group(20, 1, 1)];
        let both = Stats::of(&groups, Spans { prompt: false, answers: Roles::PAIR });
        assert_eq!((both.packed, both.separate, both.scored), (40, 70, 10));
        assert!((both.saved() - 30.0 / 70.0).abs() < 1e-12);
        assert_eq!((both.prompt.total, both.sequence.max, both.answers.len()), (30, 21, 2));
        let chosen = Stats::of(&groups, Spans { prompt: true, answers: Roles::CHOSEN });
        assert_eq!((chosen.packed, chosen.separate, chosen.scored), (36, 36, 9 + 5 + 19 + 1));
        assert_eq!(Stats::of([], Spans::default()).saved(), 0.0);
    }
}
