//! The head that keeps unit gradients and the head that computes logits twice; and how rows become chunks.

use asft::data::{Annotations, BatchGroup, Role, Span};
use asft::model::{Budget, chunks};
use asft::objective::Coupling;
use proptest::prelude::*;

use crate::fixture::*;

/// Sums over rows in parts of other sizes: f32 rounding of the head's weight gradient.
const GRADIENT: f64 = 1e-6;

#[test]
fn keeping_unit_gradients_equals_computing_logits_twice() {
    for model in MODELS {
        for name in OBJECTIVES {
            let groups = groups_for(model, objective(name).as_ref());
            let whole = budget(&groups);
            let mut kept = trainer(model, whole, objective(name));
            let entries = packed(&kept, &groups).groups;
            let kept = compute(&mut kept, &groups);
            for head_rows in [1, 4, 7] {
                let what = format!("{model}, {name}, logits of {head_rows} rows");
                let mut again = trainer(model, Budget { head_rows, ..whole }, objective(name));
                let chunks = chunks(&entries, again.objective.coupling(), head_rows);
                assert!(chunks.iter().any(|chunk| chunk.rows.len() > head_rows), "{what}: nothing to show");
                let again = compute(&mut again, &groups);
                assert_eq!(bits(&again.log_probs), bits(&kept.log_probs), "{what}: log-probs");
                assert_eq!(bits(&again.coefficients), bits(&kept.coefficients), "{what}: coefficients");
                assert_eq!(again.loss.to_bits(), kept.loss.to_bits(), "{what}: loss");
                assert_near(&what, &again.gradients, &widened(&kept.gradients), GRADIENT);
            }
        }
    }
}

/// Groups whose spans follow each other from row 0 on: with or without a prompt span (empty for a prompt of one token)
/// and a rejected one.
fn entries() -> impl Strategy<Value = Vec<BatchGroup>> {
    let lengths = (proptest::option::of(0u32..9), 1u32..20, proptest::option::of(1u32..20));
    proptest::collection::vec(lengths, 1..12).prop_map(|lengths| {
        let mut start = 0;
        let mut span = |len: u32| {
            start += len;
            Span { start: start - len, len }
        };
        let entry = |(index, (prompt, chosen, rejected)): (usize, (Option<u32>, u32, Option<u32>))| {
            let annotations = Annotations { soft_label: Some(index as f64), ..Annotations::default() };
            let mut entry = BatchGroup {
                group: index as u32,
                row: 100 + index,
                prompt: prompt.map(&mut span),
                annotations: Some(annotations.into()),
                ..BatchGroup::default()
            };
            entry.answers[Role::Chosen] = Some(span(chosen));
            entry.answers[Role::Rejected] = rejected.map(&mut span);
            entry
        };
        lengths.into_iter().enumerate().map(entry).collect()
    })
}

/// (kind, span) of every span a unit has.
fn spans(entry: &BatchGroup) -> Vec<(usize, Span)> {
    let all = [entry.prompt, entry.chosen(), entry.rejected()].into_iter().enumerate();
    all.filter_map(|(kind, span)| Some((kind, span?))).collect()
}

/// First row and end of a unit.
fn rows(unit: &BatchGroup) -> (usize, usize) {
    let all = spans(unit);
    (all[0].1.range().start, all[all.len() - 1].1.range().end)
}

proptest! {
    #[test]
    fn every_row_is_in_one_chunk_and_every_unit_whole(groups in entries(), capacity in 1usize..40) {
        let total = rows(&groups[groups.len() - 1]).1;
        for coupling in [Coupling::Group, Coupling::Sequence, Coupling::Step] {
            let chunks = chunks(&groups, coupling, capacity);
            let mut next = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.rows.start, next, "chunks cover the rows in order");
                next = chunk.rows.end;
                prop_assert!(!chunk.units.is_empty());
                let (first, last) = (rows(&chunk.units[0]), rows(&chunk.units[chunk.units.len() - 1]));
                prop_assert_eq!((first.0, last.1), (chunk.rows.start, chunk.rows.end), "units are whole");
                prop_assert!(chunk.rows.len() <= capacity || chunk.units.len() == 1, "only a unit alone exceeds");
            }
            prop_assert_eq!(next, total);
            for pair in chunks.windows(2) {
                let together = rows(&pair[1].units[0]).1 - pair[0].rows.start;
                prop_assert!(together > capacity, "a chunk ends only where the next unit does not fit");
            }
            let units: Vec<BatchGroup> = chunks.iter().flat_map(|chunk| chunk.units.clone()).collect();
            match coupling {
                Coupling::Group => prop_assert_eq!(&units, &groups),
                Coupling::Sequence | Coupling::Step => {
                    prop_assert!(units.iter().all(|unit| spans(unit).len() == 1), "one span a unit");
                    let identity = |e: &BatchGroup| (e.group, e.row, e.annotations().soft_label);
                    let each = |all: &[BatchGroup]| -> Vec<_> {
                        all.iter().flat_map(|e| spans(e).into_iter().map(|span| (identity(e), span))).collect()
                    };
                    prop_assert_eq!(each(&units), each(&groups), "every span once, with its group's facts");
                }
            }
        }
    }
}
