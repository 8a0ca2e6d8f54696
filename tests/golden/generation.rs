//! Answers: greedy ones against transformers, and what must not change them.

use std::path::Path;

use asft::backend::Backend;
use asft::checkpoint::ModelFolder;
use asft::config::FormatConfig;
use asft::generate::{
    Answer, Decoder, Demand, End, GenerationLayout, Request, Sampling, Settings, Unwatched,
};
use asft::train::Target;
use serde_json::Value;

use super::harness::{Engine, golden};
use super::simulator::on_cuda;
use super::step::manifest;
use super::{cuda, harness, skip};

/// How much is decoded at a time.
#[derive(Clone, Copy)]
struct Shape {
    /// Answers side by side.
    sequences: usize,
    threads: usize,
}

const WIDE: Shape = Shape { sequences: 64, threads: 2 };

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The answers of a checkpoint to prompts with the keys of their places.
fn answers<B: Backend>(
    mut backend: B,
    folder: &Path,
    prompts: &[(u64, Vec<u32>)],
    settings: &Settings,
    sequences: usize,
) -> Vec<Vec<Answer>> {
    let folder = ModelFolder::open(folder).unwrap();
    let demand = Demand {
        prompts: prompts.len(),
        longest_prompt: prompts.iter().map(|(_, prompt)| prompt.len()).max().unwrap(),
        prompt_tokens: prompts.iter().map(|(_, prompt)| prompt.len()).sum(),
        samples: settings.samples,
        max_new_tokens: settings.max_new_tokens,
        sequences: Some(sequences),
    };
    let target = Target::new(B::KIND, None);
    let layout = GenerationLayout::fit(folder.config(), target, FormatConfig::default(), demand).unwrap();
    layout.allocate(&mut backend).unwrap();
    layout.model.load(&mut backend, &folder).unwrap();
    let requests: Vec<Request> = prompts.iter().map(|(key, prompt)| Request { prompt, key: *key }).collect();
    let mut decoder = Decoder::new(&mut backend, &layout.model, &layout.activations, &layout.cache);
    decoder.generate(&requests, settings, &mut Unwatched).unwrap()
}

fn on_cpu(folder: &Path, prompts: &[(u64, Vec<u32>)], settings: &Settings, shape: Shape) -> Vec<Vec<Answer>> {
    let backend = asft::backend::cpu::CpuBackend::new(shape.threads).unwrap();
    answers(backend, folder, prompts, settings, shape.sequences)
}

/// Every stored continuation: its checkpoint's folder, the prompts, what follows them.
fn stored() -> Vec<(std::path::PathBuf, Vec<Vec<u32>>, Vec<Value>)> {
    let manifest = manifest();
    let all = manifest["generations"].as_array().unwrap();
    let names: std::collections::BTreeSet<&str> =
        all.iter().map(|case| case["checkpoint"].as_str().unwrap()).collect();
    let of = |name: &str| {
        let cases: Vec<Value> = all.iter().filter(|case| case["checkpoint"] == name).cloned().collect();
        let prompts = cases.iter().map(|case| ids(&case["prompt"])).collect();
        (golden().join("checkpoints").join(name), prompts, cases)
    };
    names.into_iter().map(of).collect()
}

fn numbered(prompts: &[Vec<u32>]) -> Vec<(u64, Vec<u32>)> {
    prompts.iter().enumerate().map(|(key, prompt)| (key as u64, prompt.clone())).collect()
}

fn greedy(max_new_tokens: usize, stop: Vec<u32>) -> Settings {
    Settings { sampling: Sampling::GREEDY, samples: 1, max_new_tokens, stop }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for (folder, prompts, cases) in stored() {
        let stop = ModelFolder::open(&folder).unwrap().config().eos_token_ids.clone();
        for shape in [WIDE, Shape { sequences: 1, threads: 1 }] {
            let longest = cases.iter().map(|case| ids(&case["continuation"]).len()).max().unwrap();
            let ours = on_cpu(&folder, &numbered(&prompts), &greedy(longest, stop.clone()), shape);
            for (case, answer) in cases.iter().zip(ours.concat()) {
                let theirs = ids(&case["continuation"]);
                assert_eq!(answer.ids, theirs, "{}: {}", folder.display(), case["prompt"]);
                let end = if case["ended_by"] == "eos" { End::Stop } else { End::Length };
                assert_eq!(answer.end, end);
            }
        }
    }
}
