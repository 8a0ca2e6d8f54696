//! Which elements of two sequences are common to both, as Python's `difflib.SequenceMatcher` finds them.
//!
//! The longest common run is found, then the longest on either side of it, and so on (Ratcliff and Obershelp's "gestalt"
//! matching); of runs of one length, the first in the first sequence, then in the second. In a second sequence of 200
//! elements or more, those that make up over 1% of it (and one) start no run, though a run may go on over them: difflib's
//! `autojunk`, which is on unless somebody turns it off.
//!
//! This is written out because the result is what matters: the released code of BMC diffs with difflib, and a diff with the
//! fewest edits (what the crates compute) marks other tokens. Time: O(n m) for sequences of few distinct elements, near
//! linear for text. Boundary: sequences in memory; golden results are in `tests/prepare/golden`.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

/// Length of the second sequence from which frequent elements start no run.
const LONG: usize = 200;

/// A run that both sequences have: where in the first, where in the second, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Its start in the first sequence.
    pub first: usize,
    /// Its start in the second.
    pub second: usize,
    /// Elements, at least 1.
    pub len: usize,
}

/// The runs that two sequences have in common, in order: difflib's `get_matching_blocks`, adjacent ones not yet joined and
/// without the empty one at the end.
pub fn common_runs<T: Eq + Hash>(first: &[T], second: &[T]) -> Vec<Run> {
    let mut matcher = Matcher::new(first, second);
    let mut runs = Vec::new();
    let mut open = vec![(0..first.len(), 0..second.len())];
    while let Some((ours, theirs)) = open.pop() {
        let Some(run) = matcher.longest(ours.clone(), theirs.clone()) else { continue };
        open.push((ours.start..run.first, theirs.start..run.second));
        open.push((run.first + run.len..ours.end, run.second + run.len..theirs.end));
        runs.push(run);
    }
    runs.sort_unstable();
    runs
}

/// For each element of both sequences, whether it is outside of every common run: what difflib's opcodes `replace`, `delete`
/// and `insert` cover.
pub fn changed<T: Eq + Hash>(first: &[T], second: &[T]) -> (Vec<bool>, Vec<bool>) {
    let (mut ours, mut theirs) = (vec![true; first.len()], vec![true; second.len()]);
    for Run { first, second, len } in common_runs(first, second) {
        ours[first..first + len].fill(false);
        theirs[second..second + len].fill(false);
    }
    (ours, theirs)
}

struct Matcher<'a, T> {
    first: &'a [T],
    second: &'a [T],
    /// Where an element is in the second sequence, in order; frequent ones are left out.
    places: HashMap<&'a T, Vec<usize>>,
    /// At `place + 1`, the length of the longest run that ends with the second sequence's element at `place` and the element of
    /// the first sequence before the current one. All zero between two searches.
    before: Vec<usize>,
    /// The same with the current one.
    current: Vec<usize>,
}

impl<'a, T: Eq + Hash> Matcher<'a, T> {
    fn new(first: &'a [T], second: &'a [T]) -> Self {
        let mut places: HashMap<&T, Vec<usize>> = HashMap::new();
        for (place, element) in second.iter().enumerate() {
            places.entry(element).or_default().push(place);
        }
        if second.len() >= LONG {
            let most = second.len() / 100 + 1;
            places.retain(|_, places| places.len() <= most);
        }
        let lengths = vec![0; second.len() + 1];
        Self { first, second, places, before: lengths.clone(), current: lengths }
    }

    /// The longest common run within these ranges.
    fn longest(&mut self, ours: Range<usize>, theirs: Range<usize>) -> Option<Run> {
        let Self { first, second, places, before, current } = self;
        let mut best = Run { first: ours.start, second: theirs.start, len: 0 };
        let mut entered: &[usize] = &[];
        for place in ours.clone() {
            let found = places.get(&first[place]).map_or(&[][..], Vec::as_slice);
            let found = &found[found.partition_point(|other| *other < theirs.start)..];
            let found = &found[..found.partition_point(|other| *other < theirs.end)];
            for &other in found {
                let len = before[other] + 1;
                current[other + 1] = len;
                if len > best.len {
                    best = Run { first: place + 1 - len, second: other + 1 - len, len };
                }
            }
            entered.iter().for_each(|other| before[other + 1] = 0);
            std::mem::swap(before, current);
            entered = found;
        }
        entered.iter().for_each(|other| before[other + 1] = 0);
        // Frequent elements start no run, but belong to one that they touch.
        while best.first > ours.start
            && best.second > theirs.start
            && first[best.first - 1] == second[best.second - 1]
        {
            best = Run { first: best.first - 1, second: best.second - 1, len: best.len + 1 };
        }
        let end = |best: Run| (best.first + best.len, best.second + best.len);
        while end(best).0 < ours.end && end(best).1 < theirs.end && first[end(best).0] == second[end(best).1]
        {
            best.len += 1;
        }
        (best.len > 0).then_some(best)
    }
}
