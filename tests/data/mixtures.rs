//! Mixtures: which rows, in which order, with which weight; that both share a micro-batch; and how they lie in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use asft::data::{
    Batch, DataError, Dataset, Group, Halves, LoadReport, Loader, LoaderConfig, Mixing, Mixture, Role, Roles,
    Spans, Step, pack, pack_mixed,
};
use proptest::prelude::*;

use crate::fixture::group_of;

const CHOSEN: Spans = Spans { prompt: false, answers: Roles::CHOSEN };

fn group(row: usize, confidence: f64) -> Group {
    let mut group = group_of(row, 1 + row * 5 % 11, 1 + row * 3 % 7, 1 + row % 5);
    group.annotations_mut().confidence = Some(confidence);
    group
}

fn dataset(groups: usize) -> Arc<Dataset> {
    let groups = (0..groups).map(|row| group(row, -((row * 7 % groups) as f64))).collect();
    Arc::new(Dataset::new(groups, LoadReport::default()))
}

fn config(batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        seed: 5,
        shuffle: true,
        batch_size,
        token_budget: 0,
        row_budget: 0,
        parts: None,
        spans: CHOSEN,
        scored: None,
        mixing: Some(Mixing { alpha: 0.5, of: Role::Chosen }),
    }
}

fn steps(data: &Arc<Dataset>, config: &LoaderConfig, first: usize, last: usize) -> Vec<Step> {
    Loader::new(data.clone(), config.clone(), first, last).unwrap().collect()
}

/// The pairs of a step by row, with the weight of the first, whatever its cut: the mixed span stands at the second, and what it
/// reads tells the first.
fn pairs(step: &Step) -> Vec<(usize, usize, u32)> {
    let mut found = BTreeMap::new();
    for batch in &step.batches {
        let of_row: BTreeMap<u32, usize> = batch
            .groups
            .iter()
            .flat_map(|entry| entry.chosen().unwrap().range().map(|row| (batch.gather[row], entry.row)))
            .collect();
        for entry in &batch.groups {
            let Some(span) = entry.answers[Role::Mixed] else { continue };
            let mixed = batch.mixed.as_ref().unwrap();
            for row in span.range() {
                let pair =
                    (of_row[&batch.gather[row]], of_row[&mixed.gather[row]], mixed.weights[row].to_bits());
                assert_eq!(pair.1, entry.row, "the span stands at the second row");
                assert_eq!(*found.entry(entry.group).or_insert(pair), pair, "one pair a span");
            }
        }
    }
    found.into_values().collect()
}

#[test]
fn a_data_set_is_split_at_its_median() {
    let of = |confidences: &[f64]| {
        let groups: Vec<Group> = confidences.iter().enumerate().map(|(row, c)| group(row, *c)).collect();
        Halves::of(&groups).unwrap()
    };
    let halves = of(&[-3.0, -1.0, -9.0, -2.0]);
    assert_eq!((halves.confident, halves.unconfident), (vec![1, 3], vec![0, 2]));
    // Of an odd number the confident half has one more; equal ones stay in their order.
    let halves = of(&[-1.0, -1.0, -1.0, -2.0, -1.0]);
    assert_eq!((halves.confident, halves.unconfident), (vec![1, 2, 4], vec![0, 3]));
    assert_eq!(Halves::of(&[group_of(0, 1, 1, 1)]), None, "no confidence, no halves");
}

#[test]
fn every_epoch_holds_every_row_once_and_pairs_it_anew() {
    let data = dataset(23);
    let halves = Halves::of(&data.groups).unwrap();
    let all = steps(&data, &config(6), 1, 8);
    let mut partners: Vec<BTreeSet<(usize, usize)>> = Vec::new();
    for epoch in all.chunks(4) {
        let rows: BTreeSet<usize> = epoch
            .iter()
            .flat_map(|step| &step.batches)
            .flat_map(|batch| batch.groups.iter().map(|entry| entry.row))
            .collect();
        assert_eq!(rows.len(), 23);
        let pairs: Vec<_> = epoch.iter().flat_map(pairs).collect();
        assert_eq!(pairs.len(), 11, "one of an odd number is left over");
        assert!(pairs.iter().all(|(sure, unsure, _)| {
            halves.confident.contains(sure) && halves.unconfident.contains(unsure)
        }));
        assert_eq!(pairs.iter().map(|pair| pair.2).collect::<BTreeSet<_>>().len(), 11, "a weight each");
        partners.push(pairs.iter().map(|pair| (pair.0, pair.1)).collect());
    }
    assert!(partners[0].intersection(&partners[1]).count() < 5, "another partner in another epoch");
}

#[test]
fn pairs_and_weights_depend_on_seed_and_step_alone() {
    let data = dataset(20);
    let of = |config: LoaderConfig| -> Vec<_> { steps(&data, &config, 1, 7).iter().map(pairs).collect() };
    let base = of(config(8));
    for other in [
        LoaderConfig { token_budget: 40, ..config(8) },
        LoaderConfig { row_budget: 24, ..config(8) },
        LoaderConfig { parts: Some(3), ..config(8) },
    ] {
        assert_eq!(of(other.clone()), base, "{other:?}");
        let whole = steps(&data, &other, 1, 7);
        for first in 1..=8 {
            assert_eq!(steps(&data, &other, first, 7), whole[first - 1..], "from step {first}");
        }
    }
    assert_ne!(of(LoaderConfig { seed: 6, ..config(8) }), base);
    let kept = of(LoaderConfig { shuffle: false, ..config(8) });
    let rows = |step: &[(usize, usize, u32)]| step.iter().map(|pair| (pair.0, pair.1)).collect::<Vec<_>>();
    assert_eq!(rows(&kept[0]), rows(&kept[3]), "in the order of the file in every epoch");
    assert_ne!(kept[0], kept[3], "with weights of their own");
}

/// A change of these would change every run that is resumed across the change. Expected values from
/// `golden/reference_order.py`, which writes them out again.
#[test]
fn weights_are_the_documented_ones() {
    let mixing = Mixing { alpha: 0.5, of: Role::Chosen };
    let weights: Vec<f32> = mixing.of_step(6, 42, 3).iter().map(|mixture| mixture.weight).collect();
    let again: Vec<f32> = mixing.of_step(7, 42, 3).iter().map(|mixture| mixture.weight).collect();
    assert_eq!(weights, again, "one left over is in no mixture");
    let steps: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) * f64::from(1 << 24)).collect();
    assert_eq!(steps, EXPECTED, "in units of 2^-24");
}

const EXPECTED: [f64; 3] = [142_572.0, 16_317_337.0, 8_799_504.0];

#[test]
fn totals_and_extent_count_mixed_rows() {
    let data = dataset(21);
    for config in [
        config(8),
        LoaderConfig { token_budget: 45, ..config(8) },
        LoaderConfig { parts: Some(2), ..config(8) },
    ] {
        let extent = Loader::measure(data.clone(), config.clone(), 1, 6).unwrap();
        let steps = steps(&data, &config, 1, 6);
        let mixed = |batch: &Batch| -> usize {
            batch
                .groups
                .iter()
                .filter_map(|entry| entry.answers[Role::Mixed])
                .map(|span| span.len as usize)
                .sum()
        };
        for step in &steps {
            let all: usize = step.batches.iter().map(mixed).sum();
            assert_eq!(step.totals.answer_tokens[Role::Mixed], all);
        }
        let batches = || steps.iter().flat_map(|step| &step.batches);
        assert_eq!(extent.rows, batches().map(|batch| batch.gather.len()).max().unwrap());
        assert_eq!(extent.tokens, batches().map(|batch| batch.ids.len()).max().unwrap());
        assert_eq!(extent.work.rows, batches().map(|batch| batch.gather.len() as u64).sum::<u64>());
        assert_eq!(extent.all_batches, batches().count());
    }
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let data = dataset(8);
    let refused =
        |data: &Arc<Dataset>, config| Loader::measure(data.clone(), config, 1, 2).unwrap_err().to_string();
    assert_eq!(refused(&data, config(3)), "rows are mixed in pairs: --batch-size must be even");
    let unsure = Arc::new(Dataset::new(vec![group(0, -1.0), group_of(1, 1, 1, 1)], LoadReport::default()));
    assert_eq!(refused(&unsure, config(2)), "rows are mixed by their confidence, and a row has none");
    let one = Arc::new(Dataset::new(vec![group(0, -1.0)], LoadReport::default()));
    assert_eq!(refused(&one, config(2)), "rows are mixed in pairs, and there is only one row");
    // Every group fits, two do not.
    let largest = data.groups.iter().map(|group| CHOSEN.tokens(group)).max().unwrap();
    let tight = LoaderConfig { token_budget: largest, ..config(8) };
    let error = Loader::measure(data.clone(), tight.clone(), 1, 1).unwrap_err();
    assert!(matches!(error, DataError::PairTooLarge { unit: "tokens", .. }), "{error}");
    // What is said to be enough is.
    let halves = Halves::of(&data.groups).unwrap();
    let (tokens, rows) = halves.largest(&data.groups, CHOSEN, Role::Chosen);
    let enough = LoaderConfig { token_budget: tokens, row_budget: rows, ..tight };
    Loader::measure(data, enough, 1, 40).unwrap();
}

#[test]
fn a_batch_that_is_not_what_it_says_is_found() {
    let groups: Vec<Group> = (0..4).map(|row| group(row + 3, 0.0)).collect();
    let members: Vec<&Group> = groups.iter().collect();
    let mixture = |first, weight| Mixture { first, second: first + 1, weight, of: Role::Chosen };
    let good = pack_mixed(&members, CHOSEN, &[mixture(0, 0.25), mixture(2, 0.5)]);
    assert_eq!(good.check(), Ok(()));
    let row = good.groups[1].answers[Role::Mixed].unwrap().start as usize;
    let changed = |change: &dyn Fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch.check().unwrap_err()
    };
    let weights = "scatter_weights are those of the rows that read";
    assert_eq!(changed(&|batch| batch.mixed.as_mut().unwrap().weights[row] = 0.5), weights);
    assert_eq!(changed(&|batch| batch.mixed.as_mut().unwrap().scatter_weights[1] += 0.5), weights);
    let parts = "the parts of a mixture are scored rows";
    assert_eq!(changed(&|batch| batch.mixed.as_mut().unwrap().targets[row] += 100), parts);
    assert_eq!(changed(&|batch| batch.targets[row] += 100), parts);
    assert_eq!(
        changed(&|batch| batch.mixed.as_mut().unwrap().weights[0] = 0.5),
        "a row that is no mixture is its first part alone"
    );
    assert_eq!(changed(&|batch| batch.mixed = None), "a mixture follows its answers");
    assert_eq!(pack_mixed(&members, CHOSEN, &[]), pack(&members, CHOSEN), "no mixtures, no lists");
}

proptest! {
    #[test]
    fn any_mixtures_pack_into_a_batch_that_holds(
        lengths in prop::collection::vec((1usize..6, 1usize..9, 1usize..4), 2..9),
        prompt: bool,
        weights in prop::collection::vec(0u32..=1 << 24, 4),
    ) {
        let groups: Vec<Group> =
            lengths.iter().enumerate().map(|(row, &(p, c, r))| group_of(row, p, c, r)).collect();
        let members: Vec<&Group> = groups.iter().collect();
        let mixtures: Vec<Mixture> = (0..groups.len() / 2)
            .map(|pair| {
                let weight = weights[pair] as f32 / (1 << 24) as f32;
                Mixture { first: 2 * pair, second: 2 * pair + 1, weight, of: Role::Chosen }
            })
            .collect();
        let batch = pack_mixed(&members, Spans { prompt, answers: Roles::PAIR }, &mixtures);
        prop_assert_eq!(batch.check(), Ok(()));
        // What flows back to a hidden row through the list is what was read from it.
        let mixed = batch.mixed.as_ref().unwrap();
        let mut reads = vec![0.0; batch.ids.len()];
        for row in 0..batch.gather.len() {
            let weight = f64::from(mixed.weights[row]);
            reads[batch.gather[row] as usize] += weight;
            reads[mixed.gather[row] as usize] += 1.0 - weight;
        }
        for (hidden, expected) in reads.into_iter().enumerate() {
            let entries = batch.scatter_offsets[hidden] as usize..batch.scatter_offsets[hidden + 1] as usize;
            let sum: f64 = mixed.scatter_weights[entries].iter().map(|weight| f64::from(*weight)).sum();
            prop_assert_eq!(sum, expected);
        }
    }
}
