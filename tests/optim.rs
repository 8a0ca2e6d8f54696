//! The optimizer's state on the host: the codes of 8-bit moments against bitsandbytes' maps, moments and master weights in
//! and out of a checkpoint, what they cost by the plan, and whole runs that stop and go on. What the kernels compute is
//! tested in `tests/ops`.

use std::collections::BTreeMap;
use std::path::Path;

use asft::backend::cpu::CpuBackend;
use asft::backend::{Backend, Element, MOMENT_BLOCK, View};
use asft::model::{Budget, LlamaConfig, OptimizerState, Precision, Recompute, Rungs};
use asft::optim::codes::{Codes, Sign};
use asft::optim::{AdamwSettings, Moment};
use asft::plan::{Arena, MemoryPlan};
use asft::train::{Layout, LayoutSettings};
use serde_json::{Value, json};

#[path = "cli/golden.rs"]
#[allow(dead_code, reason = "one of its users")]
mod golden;
mod reference;
#[path = "cli/shell.rs"]
#[allow(dead_code, reason = "one of its users")]
mod shell;
mod simulator;

use golden::{batch, checkpoint, done};
use reference::adamw::{philox, round_stochastically};
use reference::normal;
use shell::Shell;

const SIGNS: [(Sign, &str); 2] = [(Sign::Signed, "signed"), (Sign::Unsigned, "unsigned")];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn maps_are_those_of_bitsandbytes() {
    let golden: Value = serde_json::from_str(include_str!("golden/codes.json")).unwrap();
    for (sign, name) in SIGNS {
        let expected: Vec<f64> =
            golden[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        assert_eq!(expected.len(), 256);
        for (code, (&got, expected)) in Codes::new(sign).values().iter().zip(expected).enumerate() {
            // Made in f32 there: the ends of intervals, their means and a product, each rounded.
            let limit = 3e-7 * expected.abs();
            assert!((f64::from(got) - expected).abs() <= limit, "{name} {code}: {got:e}, {expected:e}");
        }
    }
}

#[test]
fn codes_are_the_nearest() {
    for (sign, name) in SIGNS {
        let map = Codes::new(sign);
        let values = map.values();
        for code in 0..255 {
            let (low, high) = (values[code], values[code + 1]);
            let middle = 0.5 * (low + high);
            for (value, expected) in [
                (low, code),
                (low + 0.499 * (high - low), code),
                (middle + 0.001 * (high - low), code + 1),
                (high, code + 1),
            ] {
                // Nothing but zero has the code of zero among second moments.
                let least = usize::from(sign == Sign::Unsigned && value > 0.0);
                let mut codes = [0; 2];
                assert_eq!(map.quantise(&[value, 1.0], &mut codes), 1.0);
                assert_eq!(usize::from(codes[0]), expected.max(least), "{name}: {value:e}");
            }
        }
    }
}

/// Blocks of moments of all sizes: (first, second).
fn blocks() -> Vec<(Vec<f32>, Vec<f32>)> {
    let sizes = [0.0, 1e-44, 2e-38, 1e-30, 1e-8, 1.0, 1e30, 2e38];
    let mut blocks = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        for len in [1, 2, 100, MOMENT_BLOCK] {
            // Magnitudes over twelve decades.
            let spread = normal(50 + seed as u64, len);
            let first: Vec<f32> = normal(seed as u64, len)
                .iter()
                .zip(&spread)
                .map(|(m, s)| (m.clamp(-1.5, 1.5) * size * 10f64.powf(-2.0 * s.abs())) as f32)
                .collect();
            blocks.push((first.clone(), first.iter().map(|m| m.abs()).collect()));
        }
    }
    // Two of the largest magnitude.
    blocks.push((vec![-0.5, 0.25, 0.5, -0.1], vec![0.5, 0.25, 0.5, 0.1]));
    blocks
}

#[test]
fn what_was_dequantised_quantises_to_the_same() {
    let mut negative = 0;
    for (first, second) in blocks() {
        for (sign, values) in [(Sign::Signed, first), (Sign::Unsigned, second)] {
            let map = Codes::new(sign);
            let mut codes = vec![0; values.len()];
            let scale = map.quantise(&values, &mut codes);
            let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            assert_eq!(scale.abs(), if largest < f32::MIN_POSITIVE { 0.0 } else { largest });
            negative += usize::from(scale < 0.0);
            let back: Vec<f32> = codes.iter().map(|&code| map.dequantise(code, scale)).collect();
            let mut again = vec![0; values.len()];
            let scale_again = map.quantise(&back, &mut again);
            assert_eq!(scale_again.to_bits(), scale.to_bits(), "{sign:?} {values:?}");
            assert_eq!(again, codes, "{sign:?} {values:?}");
            for (back, value) in back.iter().zip(&values) {
                // Half the distance of two entries: 4.5 of 10 in the lowest decade of the signed map, and all below it.
                let limit = 0.82 * value.abs() + 4e-7 * scale.abs() + f32::MIN_POSITIVE;
                assert!((back - value).abs() <= limit, "{sign:?}: {value:e} has become {back:e}");
            }
        }
    }
    assert!(negative > 5, "no block whose largest element is negative");
}

#[test]
fn what_is_not_finite_shows() {
    let mut codes = [0; 3];
    let map = Codes::new(Sign::Signed);
    assert!(map.quantise(&[1.0, f32::NAN, 0.0], &mut codes).is_nan());
    let scale = map.quantise(&[1.0, f32::NEG_INFINITY, 0.0], &mut codes);
    assert_eq!(codes.map(|code| map.dequantise(code, scale)), [0.0, f32::MIN, 0.0]);
}

#[test]
fn philox_gives_the_known_answers() {
    // The file kat_vectors of Random123, lines "philox4x32 10".
    let answers = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, answer) in answers {
        assert_eq!(philox(counter, key), answer);
    }
}

#[test]
fn the_twin_rounds_without_bias() {
    for value in [1.0f32, 1.0001, -1.003, 3.3e-39, -1e30, 0.0] {
        let all: Vec<f64> = (0..=0xffff)
            .map(|random| f64::from(f32::from_bits(u32::from(round_stochastically(value, random)) << 16)))
            .collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((mean - f64::from(value)).abs() <= 1e-11 * f64::from(value).abs(), "{value:e}: {mean:e}");
        let distinct = all.iter().map(|x| x.to_bits()).collect::<std::collections::BTreeSet<_>>();
        assert!(distinct.len() <= 2 && (distinct.len() == 1) == (value.to_bits() & 0xffff == 0));
    }
}

/// A model whose tensors end anywhere in a block: keys and values start in the middle of one.
fn layout(optimizer: OptimizerState, storage: Element) -> Layout {
    let text = json!({
        "model_type": "llama", "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 10, "intermediate_size": 33, "vocab_size": 50,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    });
    let config = LlamaConfig::from_json(&text.to_string(), Path::new("config.json")).unwrap();
    let budget = Budget { tokens: 8, rows: 8, head_rows: 8, positions: 8, rungs: Rungs::NONE, mixed: false };
    let settings = AdamwSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, seed: 0 };
    let precision = Precision { storage, operands: storage, logits: storage, optimizer };
    let recompute = Recompute::Nothing;
    Layout::new(&config, LayoutSettings { precision, recompute, ..LayoutSettings::f32(budget, settings) })
}

fn allocated(plan: &MemoryPlan) -> CpuBackend {
    let mut backend = CpuBackend::new(1).unwrap();
    plan.allocate(&mut backend).unwrap();
    backend
}

/// The bytes of all that the optimizer keeps.
fn state_bytes(backend: &mut CpuBackend, layout: &Layout) -> Vec<(String, Vec<u8>)> {
    let kept =
        [Arena::Weights, Arena::Remainders, Arena::FirstMoments, Arena::SecondMoments, Arena::MomentScales];
    let entries = layout.plan.entries().iter().filter(|entry| kept.contains(&entry.arena));
    entries
        .map(|entry| {
            let View { arena, element, offset, .. } = entry.view;
            let (offset, len) = (offset * element.bytes(), entry.view.bytes());
            let view = View { arena, element: Element::U8, offset, len };
            let mut values = vec![0; view.len];
            backend.read(view, &mut values).unwrap();
            (entry.name.clone(), values)
        })
        .collect()
}

/// Moments of a model in a training run, by name.
fn random_moments(layout: &Layout) -> BTreeMap<(bool, String), Vec<f32>> {
    let mut all = BTreeMap::new();
    for (seed, parameter) in layout.model.table.iter().enumerate() {
        let values = |seed: u64, power: i32| -> Vec<f32> {
            let values = normal(seed, parameter.elements());
            values.iter().map(|x| ((x * 1e-3).powi(power) * 10f64.powi(seed as i32 % 3)) as f32).collect()
        };
        all.insert((true, parameter.name.clone()), values(seed as u64, 1));
        all.insert((false, parameter.name.clone()), values(100 + seed as u64, 2));
    }
    all
}

fn write_moments(backend: &mut CpuBackend, layout: &Layout, moments: &BTreeMap<(bool, String), Vec<f32>>) {
    for moment in [Moment::First, Moment::Second] {
        layout
            .optimizer
            .write_moment(backend, &layout.model.table, moment, |parameter, out| {
                out.copy_from_slice(&moments[&(moment == Moment::First, parameter.name.clone())]);
                Ok::<(), std::convert::Infallible>(())
            })
            .unwrap();
    }
}

/// All moments by name, read in pieces of an odd length.
fn read_moments(backend: &mut CpuBackend, layout: &Layout) -> BTreeMap<(bool, String), Vec<f32>> {
    let mut all = BTreeMap::new();
    for moment in [Moment::First, Moment::Second] {
        for parameter in layout.model.table.iter() {
            let mut values = vec![f32::NAN; parameter.elements()];
            for (piece, out) in values.chunks_mut(77).enumerate() {
                let start = parameter.offset + 77 * piece;
                layout.optimizer.read_moment(backend, moment, start, out).unwrap();
            }
            all.insert((moment == Moment::First, parameter.name.clone()), values);
        }
    }
    all
}

#[test]
fn moments_go_out_and_come_back_as_the_same_bits() {
    for (optimizer, storage, limit) in [
        (OptimizerState::F32, Element::F32, 0.0),
        (OptimizerState::F32, Element::Bf16, 0.0),
        (OptimizerState::Bf16, Element::Bf16, 1.0 / 256.0),
        (OptimizerState::EightBit, Element::Bf16, 0.1),
    ] {
        let layout = layout(optimizer, storage);
        let table = &layout.model.table;
        let name = "model.layers.0.self_attn.v_proj.weight".to_owned();
        let start = table.span(std::slice::from_ref(&name)).start;
        assert!(!start.is_multiple_of(MOMENT_BLOCK), "the case is too easy");
        let (mut one, mut other) = (allocated(&layout.plan), allocated(&layout.plan));
        let moments = random_moments(&layout);
        write_moments(&mut one, &layout, &moments);
        let saved = read_moments(&mut one, &layout);
        write_moments(&mut other, &layout, &saved);
        assert!(state_bytes(&mut one, &layout) == state_bytes(&mut other, &layout), "{optimizer:?}");
        let again = read_moments(&mut other, &layout);
        for (key, values) in &moments {
            assert_eq!(bits(&saved[key]), bits(&again[key]), "{optimizer:?} {key:?}");
            let size = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (saved, value) in saved[key].iter().zip(values) {
                let near = (saved - value).abs() <= limit * if limit < 0.1 { value.abs() } else { size };
                assert!(near, "{optimizer:?} {key:?}: {value:e} saved as {saved:e}");
            }
        }
    }
}

#[test]
fn an_f32_master_goes_through_bf16_and_its_remainder_exactly() {
    let layout = layout(OptimizerState::F32, Element::Bf16);
    let mut backend = allocated(&layout.plan);
    for (seed, parameter) in layout.model.table.iter().enumerate() {
        let mut values: Vec<f32> =
            normal(seed as u64, parameter.elements()).iter().map(|&x| x as f32).collect();
        values[0] = f32::from_bits(0x3f80_8000);
        values[1] = f32::from_bits(0x8000_0001);
        values[2] = f32::MAX;
        layout.model.write_weight(&mut backend, parameter, &values);
        let mut back = vec![0.0; values.len()];
        layout.model.read_weight(&mut backend, &parameter.name, 0, &mut back).unwrap();
        assert_eq!(bits(&back), bits(&values), "{}", parameter.name);
        layout.model.read_weight(&mut backend, &parameter.name, 3, &mut back[..7]).unwrap();
        assert_eq!(bits(&back[..7]), bits(&values[3..10]), "{}", parameter.name);
    }
}

/// Weights, gradients and what AdamW keeps, in bytes per parameter, as `asft plan` says for Llama-3-8B.
#[test]
fn the_plan_says_what_each_format_costs() {
    let shell = Shell::new();
    let config = json!({
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128_256,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 128_000, "eos_token_id": 128_001,
    });
    shell.write("config.json", config.to_string());
    for (state, expected) in [("f32", 16.0), ("bf16", 10.0), ("8bit", 8.0)] {
        let line = format!(
            "plan --init config.json --device cuda --gpu-memory 141GB --optimizer-state {state} --json"
        );
        let plan: Value = serde_json::from_str(&done(&shell, &line).stdout).unwrap();
        assert_eq!(plan["parameters"], 8_030_261_248u64);
        let kept = [
            Arena::Weights,
            Arena::Remainders,
            Arena::Gradients,
            Arena::FirstMoments,
            Arena::SecondMoments,
            Arena::MomentScales,
        ];
        let bytes: u64 = kept.iter().map(|arena| plan["arenas"][arena.title()].as_u64().unwrap()).sum();
        let each = bytes as f64 / 8_030_261_248.0;
        println!("{state}: {each:.4} bytes per parameter");
        assert!((expected..1.01 * expected).contains(&each), "{state}: {each} bytes per parameter");
        assert_eq!(each > expected + 0.01, state == "8bit", "{state}: {each} bytes per parameter");
    }
}

/// Two steps, a save and a third step after it give the bits of three steps.
#[test]
fn a_run_that_stopped_goes_on_as_if_it_had_not() {
    let shell = Shell::new();
    let links = simulator::links();
    let asft = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ran = shell.asft_with(&[("LD_LIBRARY_PATH", links.to_str().unwrap())], &words);
        assert_eq!(ran.code, 0, "{line}\n{}", ran.stderr);
        ran.stderr
    };
    let train = format!(
        "train --model {} --data {} --batch-size 4 --learning-rate 1e-3 --weight-decay 0.1 --device cuda --dtype bf16 \
         --lr-scheduler-type constant --save-steps 1",
        checkpoint("mqa-linear-tied"),
        batch("train12")
    );
    for state in ["f32", "bf16", "8bit"] {
        let train = format!("{train} --optimizer-state {state}");
        asft(&format!("{train} --max-steps 3 --output {state}-whole"));
        asft(&format!("{train} --max-steps 2 --output {state}-cut"));
        let resumed = asft(&format!("{train} --max-steps 3 --output {state}-cut --resume"));
        assert!(resumed.contains("resuming after step 2"), "{resumed}");
        let file = |run: &str, file: &str| {
            let path = shell.path().join(format!("{state}-{run}/checkpoint-3")).join(file);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        for name in ["model.safetensors", "asft/optimizer.safetensors"] {
            assert!(file("whole", name) == file("cut", name), "{state}: another {name} after a resume");
        }
    }
}
