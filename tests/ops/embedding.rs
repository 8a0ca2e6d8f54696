//! Rows of the table by id, and their gradient summed by id.

use std::collections::BTreeMap;

use asft::backend::{Backend, EmbeddingBackward, EmbeddingForward};

use crate::device::{Device, Levels, Storage, bits, normal, on_every_cpu, wide};
use crate::reference::embedding;
use crate::tolerance::{Comparison, EMBEDDING_BACKWARD};

/// T, H, V: a token with many rows, and more columns than a block has threads for, among them.
const CASES: [[usize; 3]; 7] =
    [[1, 1, 5], [1, 16, 5], [7, 24, 512], [67, 33, 640], [130, 64, 1031], [90, 1032, 7], [40, 131, 3]];

/// Ids that leave some tokens out and repeat others; token 0 more than any.
fn ids(seed: u64, tokens: usize, vocabulary: usize) -> Vec<u32> {
    let random = normal(seed, tokens);
    random.iter().map(|x| (x.max(0.0) * 1e4) as u32 % vocabulary as u32).collect()
}

fn check_case<B: Backend>(
    backend: &mut B,
    storage: Storage,
    [tokens, hidden, vocabulary]: [usize; 3],
) -> Vec<u32> {
    let mut device = Device::storing(backend, storage);
    let case = format!("T {tokens}, H {hidden}, V {vocabulary} {storage:?}");
    let ids = ids(1, tokens, vocabulary);
    let table = storage.normal(2, vocabulary * hidden);
    let (id_view, table_view) = (device.put(&ids), device.store(&table));
    let out = device.store_out(tokens * hidden);
    device.backend.embedding_forward(EmbeddingForward { ids: id_view, table: table_view, out, hidden });
    let expected: Vec<f32> =
        embedding::forward(&ids, &wide(&table), hidden).into_iter().map(|x| x as f32).collect();
    assert_eq!(bits(&device.stored(out)), bits(&expected), "{case}: a copy is exact");

    let mut rows = BTreeMap::<u32, Vec<u32>>::new();
    for (row, &id) in ids.iter().enumerate() {
        rows.entry(id).or_default().push(row as u32);
    }
    let token_ids: Vec<u32> = rows.keys().copied().collect();
    let mut token_offsets = vec![0];
    for rows in rows.values() {
        token_offsets.push(token_offsets[token_offsets.len() - 1] + rows.len() as u32);
    }
    let (dout, before) = (storage.normal(3, tokens * hidden), normal(4, vocabulary * hidden));
    let dtable = device.put(&before);
    let arguments = EmbeddingBackward {
        token_ids: device.put(&token_ids),
        token_offsets: device.put(&token_offsets),
        token_rows: device.put(&rows.values().flatten().copied().collect::<Vec<_>>()),
        dout: device.store(&dout),
        dtable,
        hidden,
    };
    device.backend.embedding_backward(arguments);
    let got = device.result::<f32>(dtable);
    let added = embedding::backward(&ids, &wide(&dout), vocabulary, hidden);
    let exact: Vec<f64> = added.iter().zip(&before).map(|(a, &b)| a + f64::from(b)).collect();
    let squares: Vec<f64> = dout.iter().map(|&x| f64::from(x).powi(2)).collect();
    let squares = embedding::backward(&ids, &squares, vocabulary, hidden);
    let scale: Vec<f64> =
        squares.iter().zip(&before).map(|(s, &b)| (s + f64::from(b).powi(2)).sqrt()).collect();
    let mut naive = before.clone();
    for (t, &id) in ids.iter().enumerate() {
        for h in 0..hidden {
            naive[id as usize * hidden + h] += dout[t * hidden + h];
        }
    }
    let n = rows.values().map(Vec::len).max().unwrap_or(0);
    let (got, exact, scale, naive) = (&got, &exact, &scale, Some(naive.as_slice()));
    EMBEDDING_BACKWARD.judge(Comparison { case, n, got, exact, scale, naive });
    for (row, before) in before.chunks_exact(hidden).enumerate() {
        if !rows.contains_key(&(row as u32)) {
            assert_eq!(got[row * hidden..][..hidden], *before, "row {row} has no token");
        }
    }
    device.finish()
}

/// Forward and backward of every case.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    CASES.iter().flat_map(|&case| check_case(backend, storage, case)).collect()
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}
