//! Rotary position embedding in place, and back.

use asft::backend::{Backend, Rope, Rotation};

use crate::device::{Device, Levels, Storage, bits, on_every_cpu, wide};
use crate::reference::rope::{self, Scaling};
use crate::tolerance::{Comparison, ROPE};

/// T, heads, D, columns beyond the heads.
const CASES: [[usize; 4]; 8] = [
    [1, 1, 16, 0],
    [1, 3, 32, 32],
    [7, 6, 64, 128],
    [33, 7, 96, 96],
    [65, 5, 128, 128],
    [19, 4, 2, 3],
    // More heads than turn at once; more values of half a head than lanes.
    [9, 37, 16, 16],
    [5, 2, 128, 1],
];

/// Positions that restart as in a packed batch, the last of the table among them.
fn positions(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|t| if t == 0 { 299 } else { (t * 7) % 23 }).collect()
}

fn check_case<B: Backend>(
    backend: &mut B,
    storage: Storage,
    case: [usize; 4],
    rotation: Rotation,
) -> Vec<u32> {
    let [tokens, heads, head_dim, rest] = case;
    let (turning, stride) = (heads * head_dim, heads * head_dim + rest);
    let positions = positions(tokens);
    let frequencies = rope::inverse_frequencies(head_dim, 500_000.0, &Scaling::None);
    let angles = (0..300).flat_map(|p| frequencies.iter().map(move |f| f64::from(p) * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) =
        angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
    let rows = storage.normal(1, tokens * stride);

    let mut device = Device::storing(backend, storage);
    let x = device.store(&rows);
    let arguments = Rope {
        x,
        stride,
        heads,
        head_dim,
        positions: device.put(&positions),
        cos: device.put(&cos),
        sin: device.put(&sin),
        rotation,
    };
    device.backend.rope(arguments);
    let got = device.stored(x);

    let turned = |rows: &[f32]| rows.chunks_exact(stride).flat_map(|row| row[..turning].to_vec()).collect();
    let beside = |rows: &[f32]| -> Vec<f32> {
        rows.chunks_exact(stride).flat_map(|row| row[turning..].to_vec()).collect()
    };
    assert_eq!(bits(&beside(&got)), bits(&beside(&rows)), "{case:?}: columns beyond the heads");
    let (input, got): (Vec<f32>, Vec<f32>) = (turned(&rows), turned(&got));
    let twin = match rotation {
        Rotation::Forward => rope::forward,
        Rotation::Backward => rope::backward,
    };
    let exact = twin(&wide(&input), &positions, heads, &frequencies);
    let half = head_dim / 2;
    let pair = |i: usize| if i % head_dim < half { i + half } else { i - half };
    // The two terms of an element, for a scale, and in f32.
    let term = |i: usize| {
        let position = positions[i / turning] as usize;
        let at = position * half + i % half;
        let sign = if (i % head_dim < half) == (rotation == Rotation::Forward) { -1.0 } else { 1.0 };
        (input[i] * cos[at], sign * input[pair(i)] * sin[at])
    };
    let naive: Vec<f32> = (0..input.len()).map(|i| term(i).0 + term(i).1).collect();
    let scale: Vec<f64> =
        (0..input.len()).map(|i| f64::from(term(i).0.hypot(term(i).1)).max(1e-30)).collect();
    ROPE.judge_stored(
        storage,
        Comparison {
            case: format!("{case:?} {rotation:?} {storage:?}"),
            n: 1,
            got: &got,
            exact: &exact,
            scale: &scale,
            naive: Some(&naive),
        },
    );
    device.finish()
}

/// Every case both ways.
pub fn check<B: Backend>(backend: &mut B, storage: Storage) -> Vec<u32> {
    let mut all = Vec::new();
    for case in CASES {
        for rotation in [Rotation::Forward, Rotation::Backward] {
            all.extend(check_case(backend, storage, case, rotation));
        }
    }
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, |backend| check(backend, Storage::F32));
}
