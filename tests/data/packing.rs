//! The packed layout, against what it stands for: each scored token with exactly the context it is predicted from.

use asft::data::{Batch, BatchGroup, ByRole, Group, Role, Roles, Segment, Span, Spans, StepTotals, pack};
use proptest::prelude::*;

use crate::fixture::group;

/// (context, target): what a batch scores, or what a group says should be scored.
type Prediction = (Vec<u32>, u32);

/// From the group alone, without any packing.
fn expected(group: &Group, spans: Spans) -> Vec<Prediction> {
    let mut predictions = Vec::new();
    if spans.prompt {
        predictions
            .extend((1..group.prompt.len()).map(|end| (group.prompt[..end].to_vec(), group.prompt[end])));
    }
    for answer in &group.answers {
        if answer.role == Role::Rejected && !spans.answers.contains(Role::Rejected) {
            continue;
        }
        for (end, target) in answer.ids.iter().enumerate() {
            if answer.scored.as_ref().is_some_and(|scored| !scored[end]) {
                continue;
            }
            predictions.push(([&group.prompt, &answer.ids[..end]].concat(), *target));
        }
    }
    predictions
}

/// From the batch, by the definition of key ranges: what hidden row `row` sees, in the order of positions.
fn context(batch: &Batch, row: u32) -> Vec<u32> {
    let segment = batch.segments.iter().find(|s| (s.start..s.start + s.len).contains(&row)).unwrap();
    let query = row - segment.start;
    let mut seen = Vec::new();
    for range in segment.ranges {
        let keys = (0..range.len).filter(|key| *key <= query + range.causal_offset);
        seen.extend(keys.map(|key| (range.row + key) as usize));
    }
    let positions: Vec<u32> = seen.iter().map(|row| batch.positions[*row]).collect();
    assert_eq!(positions, (0..seen.len() as u32).collect::<Vec<_>>(), "positions count the context");
    seen.into_iter().map(|row| batch.ids[row]).collect()
}

fn scored_tokens(group: &Group, role: Role) -> usize {
    let answer = group.answer(role).unwrap();
    (0..answer.ids.len()).filter(|at| answer.scored.as_ref().is_none_or(|scored| scored[*at])).count()
}

fn scored(batch: &Batch, span: Option<Span>) -> Vec<Prediction> {
    let rows = span.map_or(0..0, Span::range);
    rows.map(|row| (context(batch, batch.gather[row]), batch.targets[row])).collect()
}

fn ids(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0u32..12, len)
}

/// Which tokens of an answer are scored: all, or some of as many as an answer can have.
fn mask() -> impl Strategy<Value = Option<Vec<bool>>> {
    proptest::option::of(proptest::collection::vec(any::<bool>(), 9))
}

fn groups() -> impl Strategy<Value = Vec<Group>> {
    let one = (ids(1..9), ids(1..9), ids(1..9), [mask(), mask()], any::<bool>());
    proptest::collection::vec(one, 0..7).prop_map(|all| {
        let each = all.into_iter().enumerate().map(|(row, (prompt, chosen, rejected, masks, swap))| {
            let mut group = group(row * 3, &prompt, &chosen, &rejected);
            for (answer, mask) in group.answers.iter_mut().zip(masks) {
                let fitted = mask.map(|mask| mask[..answer.ids.len()].to_vec());
                answer.scored = fitted.filter(|scored| scored.contains(&true));
            }
            if swap {
                group.answers.reverse();
            }
            group.annotations_mut().soft_label = Some(row as f64);
            group
        });
        each.collect()
    })
}

fn spans() -> impl Strategy<Value = Spans> {
    (any::<bool>(), any::<bool>()).prop_map(|(prompt, rejected)| Spans {
        prompt,
        answers: Roles::CHOSEN.with(Role::Rejected, rejected),
    })
}

proptest! {
    #[test]
    fn every_scored_token_is_predicted_once_from_its_own_context(groups in groups(), spans in spans()) {
        let refs: Vec<&Group> = groups.iter().collect();
        let batch = pack(&refs, spans);
        prop_assert_eq!(batch.check(), Ok(()));
        prop_assert_eq!(batch.groups.len(), groups.len());
        let mut rows = 0;
        for (place, (entry, group)) in batch.groups.iter().zip(&groups).enumerate() {
            prop_assert_eq!((entry.group as usize, entry.row), (place, group.row));
            prop_assert_eq!(entry.annotations(), group.annotations());
            let mut found = Vec::new();
            for span in [entry.prompt, entry.chosen(), entry.rejected()] {
                found.extend(scored(&batch, span));
                rows += span.map_or(0, |span| span.len as usize);
            }
            let mut expected = expected(group, spans);
            if group.answers[0].role == Role::Rejected && spans.answers.contains(Role::Rejected) {
                // Spans are laid out chosen first, whatever the order in the group.
                let [chosen, rejected] = [Role::Chosen, Role::Rejected].map(|role| scored_tokens(group, role));
                let at = expected.len() - chosen - rejected;
                expected[at..].rotate_right(chosen);
            }
            prop_assert_eq!(found, expected);
            let role = |role| scored_tokens(group, role) as u32;
            prop_assert_eq!(entry.chosen().unwrap().len, role(Role::Chosen));
            prop_assert_eq!(entry.rejected().map(|span| span.len), spans.answers.contains(Role::Rejected).then(|| role(Role::Rejected)));
            prop_assert_eq!(entry.prompt.map(|span| span.len), spans.prompt.then(|| group.prompt.len() as u32 - 1));
        }
        prop_assert_eq!(rows, batch.gather.len(), "no response row outside a span");
        prop_assert_eq!(batch.ids.len(), groups.iter().map(|group| spans.tokens(group)).sum::<usize>());
        prop_assert_eq!(rows, groups.iter().map(|group| spans.rows(group)).sum::<usize>());
    }

    #[test]
    fn the_inverse_lists_are_inverses(groups in groups(), spans in spans()) {
        let batch = pack(&groups.iter().collect::<Vec<_>>(), spans);
        let run = |offsets: &[u32], at: usize| offsets[at] as usize..offsets[at + 1] as usize;
        for row in 0..batch.ids.len() {
            let readers: Vec<u32> = (0..batch.gather.len() as u32).filter(|r| batch.gather[*r as usize] as usize == row).collect();
            prop_assert_eq!(&batch.scatter_rows[run(&batch.scatter_offsets, row)], readers);
        }
        let mut distinct = batch.ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(&batch.token_ids, &distinct);
        for (at, id) in distinct.into_iter().enumerate() {
            let rows: Vec<u32> = (0..batch.ids.len() as u32).filter(|row| batch.ids[*row as usize] == id).collect();
            prop_assert_eq!(&batch.token_rows[run(&batch.token_offsets, at)], rows);
        }
    }

    #[test]
    fn families_share_keys_with_nobody(groups in groups(), spans in spans()) {
        let batch = pack(&groups.iter().collect::<Vec<_>>(), spans);
        let mut first_row = 0;
        for (family, group) in batch.families.iter().zip(&groups) {
            let segments = &batch.segments[family.start as usize..family.end as usize];
            let rows = first_row..first_row + spans.tokens(group) as u32;
            for range in segments.iter().flat_map(|segment| segment.ranges).filter(|range| range.len > 0) {
                prop_assert!(rows.start <= range.row && range.row + range.len <= rows.end);
            }
            first_row = rows.end;
        }
        prop_assert_eq!(first_row as usize, batch.ids.len());
    }
}

/// The lists of a batch, by number.
fn list(batch: &mut Batch, number: usize) -> Option<&mut Vec<u32>> {
    let lists = [
        &mut batch.ids,
        &mut batch.positions,
        &mut batch.gather,
        &mut batch.targets,
        &mut batch.scatter_offsets,
        &mut batch.scatter_rows,
        &mut batch.token_ids,
        &mut batch.token_offsets,
        &mut batch.token_rows,
    ];
    lists.into_iter().nth(number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// `check` must see any single number that is wrong.
    #[test]
    fn check_finds_every_changed_number(groups in groups(), spans in spans()) {
        prop_assume!(!groups.is_empty());
        let good = pack(&groups.iter().collect::<Vec<_>>(), spans);
        let mut batch = good.clone();
        let mut number = 0;
        while let Some(length) = list(&mut batch, number).map(|list| list.len()) {
            for at in 0..length {
                if let Some(list) = list(&mut batch, number) {
                    // Down where it can be: a number past the end would be found by anyone.
                    list[at] = if list[at] > 0 { list[at] - 1 } else { 1 };
                }
                prop_assert!(batch.check().is_err(), "list {} at {}", number, at);
                batch = good.clone();
            }
            number += 1;
        }
        prop_assert_eq!(number, 9);
        for at in 0..good.segments.len() {
            for change in [
                |segment: &mut Segment| segment.len += 1,
                |segment: &mut Segment| segment.start += 1,
                |segment: &mut Segment| segment.ranges[0].len += 1,
                |segment: &mut Segment| segment.ranges[1].row += 1,
                |segment: &mut Segment| segment.ranges[1].causal_offset += 1,
            ] {
                change(&mut batch.segments[at]);
                prop_assert!(batch.check().is_err(), "segment {}", at);
                batch = good.clone();
            }
        }
        for at in 0..good.groups.len() {
            for change in [
                |entry: &mut BatchGroup| entry.answers[Role::Chosen] = None,
                |entry: &mut BatchGroup| entry.answers[Role::Chosen].as_mut().unwrap().len += 1,
                |entry: &mut BatchGroup| entry.answers[Role::Chosen].as_mut().unwrap().start += 1,
            ] {
                change(&mut batch.groups[at]);
                prop_assert!(batch.check().is_err(), "group {}", at);
                batch = good.clone();
            }
        }
    }
}

#[test]
fn a_small_batch_written_out() {
    let groups = [group(4, &[10, 11], &[20, 21, 10], &[30]), group(9, &[12], &[11], &[22, 23])];
    let batch = pack(&[&groups[0], &groups[1]], Spans { prompt: true, answers: Roles::PAIR });
    assert_eq!(batch.ids, [10, 11, 20, 21, 10, 30, 12, 11, 22, 23]);
    assert_eq!(batch.positions, [0, 1, 2, 3, 4, 2, 0, 1, 1, 2]);
    assert_eq!(batch.families, [0..3, 3..6]);
    assert_eq!(batch.gather, [0, 1, 2, 3, 1, 6, 6, 8]);
    assert_eq!(batch.targets, [11, 20, 21, 10, 30, 11, 22, 23]);
    assert_eq!(batch.scatter_offsets, [0, 1, 3, 4, 5, 5, 5, 7, 7, 8, 8]);
    assert_eq!(batch.scatter_rows, [0, 1, 4, 2, 3, 5, 6, 7]);
    assert_eq!(batch.token_ids, [10, 11, 12, 20, 21, 22, 23, 30]);
    assert_eq!(batch.token_rows, [0, 4, 1, 7, 6, 2, 3, 8, 9, 5]);
    assert_eq!(batch.token_offsets, [0, 2, 4, 5, 6, 7, 8, 9, 10]);
    let answer = batch.segments[2];
    assert_eq!((answer.start, answer.len), (5, 1));
    let ranges = answer.ranges.map(|range| (range.row, range.len, range.causal_offset));
    assert_eq!(ranges, [(0, 2, 2), (5, 1, 0)]);
    assert_eq!(batch.segments[0].ranges.map(|range| range.len), [0, 2]);
    let span = |start, len| Some(Span { start, len });
    let entry = &batch.groups[0];
    assert_eq!((entry.prompt, entry.chosen(), entry.rejected()), (span(0, 1), span(1, 3), span(4, 1)));
    let entry = &batch.groups[1];
    assert_eq!((entry.prompt, entry.chosen(), entry.rejected()), (span(5, 0), span(5, 1), span(6, 2)));
    assert_eq!((entry.group, entry.row), (1, 9));
}

#[test]
fn a_masked_answer_written_out() {
    let mut group = group(0, &[10, 11], &[20, 21, 22, 23], &[30, 31]);
    group.answers[0].scored = Some(vec![false, true, false, true]);
    group.answers[1].scored = Some(vec![true, false]);
    let batch = pack(&[&group], Spans { prompt: false, answers: Roles::PAIR });
    assert_eq!(batch.ids, [10, 11, 20, 21, 22, 23, 30, 31]);
    assert_eq!((batch.gather, batch.targets), (vec![2, 4, 1], vec![21, 23, 30]));
    let span = |start, len| Some(Span { start, len });
    assert_eq!((batch.groups[0].chosen(), batch.groups[0].rejected()), (span(0, 2), span(2, 1)));
    let totals = StepTotals::of([&group]);
    assert_eq!(totals.answer_tokens, ByRole::new([2, 1, 0, 0, 0, 0]));
    assert_eq!((group.context(Role::Chosen), group.answers[0].first_turn()), (vec![10, 11, 20], 1..2));
    assert_eq!((group.context(Role::Rejected), group.answers[1].first_turn()), (vec![10, 11], 0..1));
}

#[test]
fn totals_count_what_the_groups_hold() {
    let groups = [group(0, &[1, 2, 3], &[4], &[5, 6]), group(1, &[1], &[4, 5, 6], &[7])];
    let totals = StepTotals::of(&groups);
    let answer_tokens = ByRole::new([4, 3, 0, 0, 0, 0]);
    assert_eq!(totals, StepTotals { groups: 2, prompt_tokens: 2, answer_tokens });
}
