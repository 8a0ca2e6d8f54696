//! Steps: what is in them, in which order, cut how; and that a resumed loader goes on where it would have been.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use asft::data::order::permutation;
use asft::data::{
    DataError, Dataset, FileRows, LoadReport, Loader, LoaderConfig, Role, Roles, Spans, Step, StepTotals,
    Work,
};
use proptest::prelude::*;

use crate::fixture::group_of;

const BOTH: Spans = Spans { prompt: false, answers: Roles::PAIR };

fn config(batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        seed: 3,
        shuffle: true,
        batch_size,
        token_budget: 0,
        row_budget: 0,
        parts: None,
        spans: BOTH,
        scored: None,
        mixing: None,
    }
}

/// Groups of varied lengths; a row's tokens depend on its number.
fn dataset(groups: usize) -> Arc<Dataset> {
    let group = |row: usize| group_of(row, 1 + row * 5 % 11, 1 + row * 3 % 7, 1 + row % 5);
    Arc::new(Dataset::new((0..groups).map(group).collect(), LoadReport::default()))
}

fn steps(data: &Arc<Dataset>, config: &LoaderConfig, first: usize, last: usize) -> Vec<Step> {
    Loader::new(data.clone(), config.clone(), first, last).unwrap().collect()
}

/// Rows of a step in its order, put together from its micro-batches.
fn rows(step: &Step) -> Vec<usize> {
    let mut places: Vec<(u32, usize)> = step
        .batches
        .iter()
        .flat_map(|batch| batch.groups.iter().map(|entry| (entry.group, entry.row)))
        .collect();
    places.sort_unstable();
    assert!(places.iter().map(|(place, _)| *place as usize).eq(0..places.len()), "every place once");
    places.into_iter().map(|(_, row)| row).collect()
}

#[test]
fn an_epoch_holds_every_row_once_and_ends_with_a_short_step() {
    let data = dataset(23);
    let all = steps(&data, &config(5), 1, 10);
    assert_eq!(Loader::steps_per_epoch(23, 5), 5);
    let indices: Vec<_> = all.iter().map(|step| step.index).collect();
    assert_eq!(indices, (1..=10).collect::<Vec<_>>());
    let sizes: Vec<_> = all.iter().map(|step| step.totals.groups).collect();
    assert_eq!(sizes, [5, 5, 5, 5, 3, 5, 5, 5, 5, 3]);
    let epochs: Vec<_> = all.iter().map(|step| step.epoch).collect();
    assert_eq!(epochs, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]);
    let orders: Vec<Vec<usize>> = all.chunks(5).map(|epoch| epoch.iter().flat_map(rows).collect()).collect();
    for order in &orders {
        assert_eq!(order.len(), 23);
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 23);
    }
    assert_ne!(orders[0], orders[1], "each epoch has its own order");
}

#[test]
fn the_order_depends_on_the_seed_alone() {
    let data = dataset(40);
    let order = |config: &LoaderConfig| steps(&data, config, 1, 5).iter().flat_map(rows).collect::<Vec<_>>();
    let base = order(&config(8));
    assert_eq!(base, order(&config(8)));
    assert_eq!(base, order(&LoaderConfig { token_budget: 40, ..config(8) }));
    assert_eq!(base, order(&LoaderConfig { parts: Some(3), ..config(8) }));
    assert_ne!(base, order(&LoaderConfig { seed: 4, ..config(8) }));
    assert_eq!(order(&LoaderConfig { shuffle: false, ..config(8) }), (0..40).collect::<Vec<_>>());
}

/// A change of this order would change every run that is resumed across the change. Expected values from
/// `golden/reference_order.py`, which writes ChaCha8 and the shuffle out again.
#[test]
fn the_order_is_the_documented_one() {
    assert_eq!(permutation(10, 42, 0), [7, 6, 5, 1, 0, 4, 8, 9, 2, 3]);
    let expected = [
        39, 34, 28, 14, 13, 6, 27, 20, 38, 10, 24, 22, 21, 4, 23, 32, 19, 26, 7, 12, 11, 3, 16, 15, 35, 25,
        33, 9, 0, 37, 17, 30, 8, 1, 5, 2, 29, 31, 36, 18,
    ];
    assert_eq!(permutation(40, u64::MAX, 3), expected);
}

#[test]
fn a_resumed_loader_yields_the_tail_of_the_whole_run() {
    let data = dataset(17);
    for config in
        [LoaderConfig { token_budget: 30, ..config(4) }, LoaderConfig { parts: Some(2), ..config(4) }]
    {
        let whole = steps(&data, &config, 1, 13);
        for first in 1..=14 {
            assert_eq!(steps(&data, &config, first, 13), whole[first - 1..], "from step {first}");
        }
    }
}

#[test]
fn parts_are_as_equal_as_can_be() {
    let sizes = |groups, batch_size, parts| -> Vec<usize> {
        let config = LoaderConfig { parts: Some(parts), ..config(batch_size) };
        let steps = steps(&dataset(groups), &config, 1, 1);
        steps[0].batches.iter().map(|batch| batch.groups.len()).collect()
    };
    assert_eq!(sizes(20, 10, 4), [3, 3, 2, 2]);
    assert_eq!(sizes(20, 8, 4), [2, 2, 2, 2]);
    assert_eq!(sizes(20, 8, 1), [8]);
    assert_eq!(sizes(3, 8, 4), [1, 1, 1], "an epoch's short step has fewer groups than parts");
    let config = LoaderConfig { parts: Some(3), ..config(8) };
    for step in steps(&dataset(20), &config, 1, 3) {
        let places: Vec<u32> =
            step.batches.iter().flat_map(|batch| batch.groups.iter().map(|e| e.group)).collect();
        assert!(places.is_sorted(), "parts are runs of the step's order");
    }
}

#[test]
fn first_fit_by_decreasing_length() {
    // Lengths 6, 9, 2, 4, 3, 5 in the step's order, at most 10 a micro-batch: 9 | 6+4 | 5+3+2.
    let lengths = [6, 9, 2, 4, 3, 5];
    let groups = lengths.iter().enumerate().map(|(row, length)| group_of(row, length - 1, 1, 1)).collect();
    let data = Arc::new(Dataset::new(groups, LoadReport::default()));
    let spans = Spans { prompt: false, answers: Roles::CHOSEN };
    let config = LoaderConfig { shuffle: false, token_budget: 10, spans, ..config(6) };
    let step = &steps(&data, &config, 1, 1)[0];
    let batches: Vec<Vec<u32>> =
        step.batches.iter().map(|batch| batch.groups.iter().map(|entry| entry.group).collect()).collect();
    assert_eq!(batches, [vec![0, 3], vec![1], vec![2, 4, 5]]);
}

#[test]
fn a_row_that_fits_nowhere_is_named_when_the_loader_is_made() {
    let groups = vec![group_of(0, 3, 2, 1), group_of(4, 9, 4, 5), group_of(7, 10, 9, 1)];
    let file = FileRows {
        path: PathBuf::from("train.jsonl"),
        first_row: 0,
        lines: (1..=8).map(|line| 2 * line).collect(),
        ..FileRows::default()
    };
    let report = LoadReport { files: vec![file], ..LoadReport::default() };
    let data = Arc::new(Dataset::new(groups, report));
    let refused = |config: LoaderConfig| Loader::new(data.clone(), config, 1, 1).unwrap_err().to_string();
    assert_eq!(
        refused(LoaderConfig { token_budget: 17, ..config(2) }),
        "row 4 (train.jsonl:10) needs a micro-batch of 18 tokens, the budget is 17; \
         20 would be enough for every row, or lower the maximum length"
    );
    assert_eq!(
        refused(LoaderConfig { row_budget: 8, ..config(2) }),
        "row 4 (train.jsonl:10) needs a micro-batch of 9 scored rows, the budget is 8; \
         10 would be enough for every row, or lower the maximum length"
    );
    // Without rejected answers the same row fits.
    let chosen_only = Spans { prompt: false, answers: Roles::CHOSEN };
    assert_eq!(
        refused(LoaderConfig { token_budget: 18, spans: chosen_only, ..config(2) }),
        "row 7 (train.jsonl:16) needs a micro-batch of 19 tokens, the budget is 18; \
         19 would be enough for every row, or lower the maximum length"
    );
    assert_eq!(
        refused(LoaderConfig { token_budget: 20, parts: Some(1), shuffle: false, ..config(2) }),
        "step 1 cut into 1 parts makes a micro-batch of 24 tokens, the budget is 20; \
         use more parts, or leave the cutting to the budget"
    );
}

#[test]
fn senseless_settings_are_refused() {
    let refused =
        |data: Arc<Dataset>, config, first| Loader::new(data, config, first, 9).unwrap_err().to_string();
    assert_eq!(refused(dataset(0), config(1), 1), "the data set has no rows to make steps of");
    for hollow in [group_of(0, 0, 1, 1), group_of(0, 1, 0, 1), group_of(0, 1, 1, 0)] {
        let data = Arc::new(Dataset::new(vec![group_of(0, 1, 1, 1), hollow], LoadReport::default()));
        let expected = "the data set has a prompt without tokens or an answer without scored tokens";
        assert_eq!(refused(data, config(1), 1), expected);
    }
    assert_eq!(refused(dataset(1), config(0), 1), "the batch size must be at least 1");
    let no_parts = LoaderConfig { parts: Some(0), ..config(1) };
    assert_eq!(refused(dataset(1), no_parts, 1), "a step must have at least 1 micro-batch");
    assert_eq!(refused(dataset(1), config(1), 0), "steps are counted from 1");
    assert!(matches!(Loader::new(dataset(1), config(0), 1, 1), Err(DataError::LoaderSetting(_))));
}

#[test]
fn a_loader_dropped_early_ends_its_thread() {
    let data = dataset(50);
    let mut loader = Loader::new(data.clone(), config(2), 1, 1_000).unwrap();
    assert!(loader.next().is_some());
    drop(loader);
    assert_eq!(Arc::strong_count(&data), 1, "the thread and its share of the data are gone");
    let mut loader = Loader::new(data.clone(), config(2), 1, 2).unwrap();
    assert_eq!(loader.by_ref().count(), 2);
    assert!(loader.next().is_none() && loader.next().is_none());
    assert_eq!(Loader::new(data, config(2), 3, 2).unwrap().count(), 0);
}

#[test]
fn the_cut_does_not_change_the_totals() {
    let data = dataset(31);
    let whole = steps(&data, &config(8), 1, 8);
    let cut = steps(&data, &LoaderConfig { token_budget: 25, ..config(8) }, 1, 8);
    assert!(cut.iter().all(|step| step.batches.len() > 1));
    for (whole, cut) in whole.iter().zip(&cut) {
        assert_eq!(whole.batches.len(), 1);
        assert_eq!(whole.totals, cut.totals);
        assert_eq!(rows(whole), rows(cut));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn steps_keep_their_budgets_and_totals(
        lengths in proptest::collection::vec((1usize..9, 1usize..9, 1usize..9), 1..40),
        batch_size in 1usize..12,
        slack in (0usize..30, 0usize..30),
        spans in (any::<bool>(), any::<bool>()).prop_map(|(prompt, rejected)| Spans { prompt, answers: Roles::CHOSEN.with(Role::Rejected, rejected) }),
        seed in any::<u64>(),
    ) {
        let groups: Vec<_> = lengths.iter().enumerate().map(|(row, (p, c, r))| group_of(row, *p, *c, *r)).collect();
        let largest = |size: &dyn Fn(&asft::data::Group) -> usize| groups.iter().map(size).max().unwrap();
        let token_budget = largest(&|group| spans.tokens(group)) + slack.0;
        let row_budget = largest(&|group| spans.rows(group)) + slack.1;
        let data = Arc::new(Dataset::new(groups.clone(), LoadReport::default()));
        let config = LoaderConfig { seed, shuffle: true, batch_size, token_budget, row_budget, parts: None, spans, scored: None, mixing: None };
        let per_epoch = Loader::steps_per_epoch(groups.len(), batch_size);
        let extent = Loader::measure(data.clone(), config.clone(), 1, 2 * per_epoch).unwrap();
        let loader = Loader::new(data, config, 1, 2 * per_epoch).unwrap();
        let (mut largest, mut all_batches, mut work) = ((0, 0, 0, 0), 0, Work::default());
        let mut seen = vec![0; groups.len()];
        for step in loader {
            let rows = rows(&step);
            prop_assert!(rows.len() <= batch_size);
            let of_step: Vec<_> = rows.iter().map(|row| &groups[*row]).collect();
            prop_assert_eq!(step.totals, StepTotals::of(of_step.iter().copied()));
            let chosen: usize = of_step.iter().map(|group| group.answer(Role::Chosen).unwrap().ids.len()).sum();
            prop_assert_eq!(step.totals.answer_tokens[Role::Chosen], chosen);
            for batch in &step.batches {
                prop_assert_eq!(batch.check(), Ok(()));
                prop_assert!(batch.ids.len() <= token_budget && batch.gather.len() <= row_budget);
                prop_assert!(!batch.groups.is_empty() && batch.groups.is_sorted_by(|a, b| a.group < b.group));
                largest.0 = largest.0.max(batch.ids.len());
                largest.1 = largest.1.max(batch.gather.len());
                largest.2 = largest.2.max(batch.groups.len());
                all_batches += 1;
                work = work + Work::of_batch(batch);
            }
            largest.3 = largest.3.max(step.batches.len());
            for row in rows {
                seen[row] += 1;
            }
        }
        prop_assert!(seen.iter().all(|times| *times == 2), "two epochs");
        prop_assert_eq!((extent.tokens, extent.rows, extent.groups, extent.batches), largest);
        prop_assert_eq!((extent.all_batches, extent.work), (all_batches, work));
    }
}
