//! Rows of the table by id or mixed from two, and their gradient summed by id.

use std::collections::BTreeMap;

use asft::backend::{Backend, EmbeddingBackward, EmbeddingForward, EmbeddingMix};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, wide};
use crate::reference::embedding;
use crate::tolerance::{Comparison, EMBEDDING_BACKWARD, EMBEDDING_MIXED, EMBEDDING_MIXED_BACKWARD, Rule};

/// T, H, V: a token with many rows, and more columns than a block has threads for, among them.
const CASES: [[usize; 3]; 7] =
    [[1, 1, 5], [1, 16, 5], [7, 24, 512], [67, 33, 640], [130, 64, 1031], [90, 1032, 7], [40, 131, 3]];

/// Ids that leave some tokens out and repeat others; token 0 more than any.
fn ids(seed: u64, tokens: usize, vocabulary: usize) -> Vec<u32> {
    let random = normal(seed, tokens);
    random.iter().map(|x| (x.max(0.0) * 1e4) as u32 % vocabulary as u32).collect()
}

/// Entries (row, share) of every token id, in the order of the rows.
type Entries = BTreeMap<u32, Vec<(u32, f32)>>;

/// The lists of the backward pass.
fn backward_arguments<B: Backend>(
    device: &mut Device<B>,
    entries: &Entries,
    scaled: bool,
    dout: &[f32],
    before: &[f32],
    hidden: usize,
) -> EmbeddingBackward {
    let mut token_offsets = vec![0];
    for entries in entries.values() {
        token_offsets.push(token_offsets[token_offsets.len() - 1] + entries.len() as u32);
    }
    let (rows, shares): (Vec<u32>, Vec<f32>) = entries.values().flatten().copied().unzip();
    EmbeddingBackward {
        token_ids: device.put(&entries.keys().copied().collect::<Vec<_>>()),
        token_offsets: device.put(&token_offsets),
        token_rows: device.put(&rows),
        scale: scaled.then(|| device.put(&shares)),
        dout: device.store(dout),
        dtable: device.put(before),
        hidden,
    }
}

/// One direction back: from the entries to what is added to the table. `exact` gives the twin's gradient of some rows.
fn check_backward<B: Backend>(
    device: &mut Device<B>,
    case: &str,
    entries: &Entries,
    rule: &Rule,
    exact: impl Fn(&[f64]) -> Vec<f64>,
    squares: impl Fn(&[f64]) -> Vec<f64>,
    [tokens, hidden, vocabulary]: [usize; 3],
) {
    let (dout, before) = (device.storage.normal(3, tokens * hidden), normal(4, vocabulary * hidden));
    let scaled = rule.name != EMBEDDING_BACKWARD.name;
    let arguments = backward_arguments(device, entries, scaled, &dout, &before, hidden);
    device.backend.embedding_backward(arguments);
    let got = device.result::<f32>(arguments.dtable);
    let sum = |added: Vec<f64>| -> Vec<f64> {
        added.iter().zip(&before).map(|(added, &before)| added + f64::from(before)).collect()
    };
    let exact = sum(exact(&wide(&dout)));
    let squared: Vec<f64> = dout.iter().map(|&x| f64::from(x).powi(2)).collect();
    let scale = squares(&squared)
        .iter()
        .zip(&before)
        .map(|(s, &b)| (s + f64::from(b).powi(2)).sqrt())
        .collect::<Vec<_>>();
    let mut naive = before.clone();
    for (&id, entries) in entries {
        for &(row, share) in entries {
            for h in 0..hidden {
                naive[id as usize * hidden + h] += share * dout[row as usize * hidden + h];
            }
        }
    }
    let n = entries.values().map(Vec::len).max().unwrap_or(0);
    let case = case.to_owned();
    rule.judge(Comparison { case, n, got: &got, exact: &exact, scale: &scale, naive: Some(&naive) });
    for (row, before) in before.chunks_exact(hidden).enumerate() {
        if !entries.contains_key(&(row as u32)) {
            assert_eq!(got[row * hidden..][..hidden], *before, "row {row} has no token");
        }
    }
}

fn check_case<B: Backend>(
    backend: &mut B,
    storage: Storage,
    sizes @ [tokens, hidden, vocabulary]: [usize; 3],
) -> Vec<u32> {
    let mut device = Device::storing(backend, storage);
    let case = format!("T {tokens}, H {hidden}, V {vocabulary} {storage:?}");
    let ids = ids(1, tokens, vocabulary);
    let table = storage.normal(2, vocabulary * hidden);
    let (id_view, table_view) = (device.put(&ids), device.store(&table));
    let out = device.store_out(tokens * hidden);
    let forward = EmbeddingForward { ids: id_view, mix: None, table: table_view, out, hidden };
    device.backend.embedding_forward(forward);
    let expected: Vec<f32> =
        embedding::forward(&ids, &wide(&table), hidden).into_iter().map(|x| x as f32).collect();
    assert_eq!(bits(&device.stored(out)), bits(&expected), "{case}: a copy is exact");
    let mut entries = Entries::new();
    for (row, &id) in ids.iter().enumerate() {
        entries.entry(id).or_default().push((row as u32, 1.0));
    }
    let gradient = |rows: &[f64]| embedding::backward(&ids, rows, vocabulary, hidden);
    check_backward(&mut device, &case, &entries, &EMBEDDING_BACKWARD, gradient, gradient, sizes);
    device.finish()
}

/// Rows of two ids: some of the same twice, with ids in common between the two and without.
fn check_mixed<B: Backend>(
    backend: &mut B,
    storage: Storage,
    sizes @ [tokens, hidden, vocabulary]: [usize; 3],
    weight: f32,
) -> Vec<u32> {
    let mut device = Device::storing(backend, storage);
    let case = format!("T {tokens}, H {hidden}, V {vocabulary}, weight {weight} {storage:?}");
    let (ids, mut others) = (ids(1, tokens, vocabulary), ids(5, tokens, vocabulary));
    others.iter_mut().zip(&ids).step_by(3).for_each(|(other, &id)| *other = id);
    let table = storage.normal(2, vocabulary * hidden);
    let (id_view, table_view) = (device.put(&ids), device.store(&table));
    let mix = Some(EmbeddingMix { ids: device.put(&others), weight });
    let out = device.store_out(tokens * hidden);
    device.backend.embedding_forward(EmbeddingForward { ids: id_view, mix, table: table_view, out, hidden });
    let got = device.stored(out);
    let share = f64::from(weight);
    let exact = embedding::mixed(&ids, &others, share, &wide(&table), hidden);
    let square = |x: f64| x * x;
    let terms = |ids: &[u32], share: f64| -> Vec<f64> {
        embedding::forward(ids, &wide(&table), hidden).iter().map(|x| square(share * x)).collect()
    };
    let scale: Vec<f64> =
        terms(&ids, 1.0 - share).iter().zip(terms(&others, share)).map(|(a, b)| (a + b).sqrt()).collect();
    let comparison =
        Comparison { case: case.clone(), n: 1, got: &got, exact: &exact, scale: &scale, naive: None };
    EMBEDDING_MIXED.judge_stored(storage, comparison);
    for (t, (id, other)) in ids.iter().zip(&others).enumerate().filter(|(_, (id, other))| id == other) {
        let row = *id as usize * hidden;
        let want = &table[row..row + hidden];
        assert_eq!(
            bits(&got[t * hidden..][..hidden]),
            bits(want),
            "{case}: row {t} is of {id} and {other}, a copy"
        );
    }

    let mut entries = Entries::new();
    for (row, (&id, &other)) in ids.iter().zip(&others).enumerate() {
        let row = row as u32;
        if id == other {
            entries.entry(id).or_default().push((row, 1.0));
        } else {
            entries.entry(id).or_default().push((row, 1.0 - weight));
            entries.entry(other).or_default().push((row, weight));
        }
    }
    let gradient = |rows: &[f64]| embedding::mixed_backward(&ids, &others, share, rows, [vocabulary, hidden]);
    // Squares of the terms: shares squared, and a row of the same id twice counts once.
    let squares = |rows: &[f64]| {
        let mut sum = vec![0.0; vocabulary * hidden];
        for (&id, entries) in &entries {
            for &(row, share) in entries {
                for h in 0..hidden {
                    sum[id as usize * hidden + h] +=
                        square(f64::from(share)) * rows[row as usize * hidden + h];
                }
            }
        }
        sum
    };
    check_backward(&mut device, &case, &entries, &EMBEDDING_MIXED_BACKWARD, gradient, squares, sizes);
    device.finish()
}

/// Forward and backward of every case.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let plain: Vec<u32> = CASES.iter().flat_map(|&case| check_case(backend, storage, case)).collect();
    let mixed = CASES.into_iter().zip([0.2, 0.5, 1.0, 0.2, 0.7, 0.2, 0.0]);
    let mixed = mixed.flat_map(|(case, weight)| check_mixed(backend, storage, case, weight));
    plain.into_iter().chain(mixed).collect()
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}
