//! Answers: greedy ones against transformers, and what must not change them.

use std::path::Path;

use asft::backend::Backend;
use asft::checkpoint::ModelFolder;
use asft::config::FormatConfig;
use asft::data::Tokenizer;
use asft::generate::{
    Answer, AnswerText, Decoder, Demand, End, GenerationLayout, Request, Sampling, Settings, Unwatched,
};
use asft::train::Target;
use serde_json::Value;

use super::harness::golden;
use super::simulator::on_cuda;
use super::skip;
use super::step::manifest;

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
    backend: B,
    folder: &Path,
    prompts: &[(u64, Vec<u32>)],
    settings: &Settings,
    sequences: usize,
) -> Vec<Vec<Answer>> {
    answers_in(backend, folder, prompts, settings, sequences, FormatConfig::default())
}

/// The same in given number formats.
fn answers_in<B: Backend>(
    mut backend: B,
    folder: &Path,
    prompts: &[(u64, Vec<u32>)],
    settings: &Settings,
    sequences: usize,
    formats: FormatConfig,
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
    let layout = GenerationLayout::fit(folder.config(), target, formats, demand).unwrap();
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

/// The continuations of `generations.json` of one origin, by checkpoint and penalty, against this engine's.
fn compare_256<B: Backend>(
    backend: impl Fn() -> B,
    checkpoints: &Path,
    origin: &str,
    wanted: impl Fn(&str, f64) -> bool,
) -> usize {
    let bytes = std::fs::read(golden().join("generations.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let number = |case: &Value| case["repetition_penalty"].as_f64().unwrap();
    let name = |case: &Value| case["checkpoint"].as_str().unwrap().to_owned();
    let mut runs: Vec<(String, f64)> = all
        .iter()
        .filter(|case| case["origin"] == origin)
        .map(|case| (name(case), number(case)))
        .filter(|(checkpoint, penalty)| wanted(checkpoint, *penalty))
        .collect();
    runs.dedup();
    for (checkpoint, penalty) in &runs {
        let cases: Vec<&Value> =
            all.iter().filter(|case| name(case) == *checkpoint && number(case) == *penalty).collect();
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt"])).collect();
        let sampling = Sampling { repetition_penalty: *penalty, ..Sampling::GREEDY };
        let settings = Settings { sampling, ..greedy(256, Vec::new()) };
        let ours = answers(backend(), &checkpoints.join(checkpoint), &numbered(&prompts), &settings, 2);
        for (case, answer) in cases.iter().zip(ours.concat()) {
            let theirs = ids(&case["continuation"]);
            assert_eq!(theirs.len(), 256);
            assert_eq!(answer.ids, theirs, "{checkpoint}, penalty {penalty}, {}", case["prompt"]);
        }
    }
    runs.len()
}

fn cpu() -> asft::backend::cpu::CpuBackend {
    asft::backend::cpu::CpuBackend::new(2).unwrap()
}

#[test]
fn answers_of_256_tokens_are_those_of_transformers() {
    assert_eq!(compare_256(cpu, &golden().join("checkpoints"), "golden", |_, _| true), 14);
}

#[test]
fn answers_of_256_tokens_of_the_oracle() {
    let test = "answers_of_256_tokens_of_the_oracle";
    let Some(oracle) = skip::outside(test, "ASFT_ORACLE", "oracle") else { return };
    assert_eq!(compare_256(cpu, &oracle.join("checkpoints"), "oracle", |_, _| true), 16);
}

/// The same on a CUDA device, in f32 as transformers computed them.
#[test]
fn answers_on_cuda() {
    on_cuda("generation::answers_on_cuda", &[("CUDA_SIM_CHECK", "off")], || {
        let long = std::env::var_os("ASFT_TEST_LONG").is_some();
        let mut compared = 0;
        for (folder, prompts, cases) in stored() {
            if !long && !folder.ends_with("mqa-linear-tied") {
                continue;
            }
            let stop = ModelFolder::open(&folder).unwrap().config().eos_token_ids.clone();
            let formats =
                FormatConfig { dtype: Some(asft::backend::Element::F32), ..FormatConfig::default() };
            for sampling in [Sampling::GREEDY, drawn(7)] {
                let settings = Settings { sampling, samples: 2, ..greedy(24, stop.clone()) };
                let on_gpu = answers_in(cuda_backend(), &folder, &numbered(&prompts), &settings, 3, formats);
                let on_cpu = on_cpu(&folder, &numbered(&prompts), &settings, WIDE);
                assert_eq!(on_gpu, on_cpu, "{}", folder.display());
                if sampling == Sampling::GREEDY {
                    for (case, answers) in cases.iter().zip(&on_gpu) {
                        assert!(answers.iter().all(|answer| answer.ids == ids(&case["continuation"])));
                    }
                }
                compared += on_gpu.len();
            }
        }
        assert!(compared >= 4);
    });
}

fn cuda_backend() -> asft::backend::cuda::CudaBackend {
    asft::backend::cuda::CudaBackend::new(asft::backend::probe::cuda(true).unwrap()).unwrap()
}

fn drawn(seed: u64) -> Sampling {
    Sampling { temperature: 1.3, top_k: Some(40), top_p: 0.95, min_p: 0.01, repetition_penalty: 1.1, seed }
}

/// The same seed, the same text: whatever is answered with it, however many side by side, whatever the threads.
#[test]
fn a_drawn_answer_depends_on_seed_prompt_and_sample_alone() {
    let folder = golden().join("checkpoints/gqa-llama3");
    let prompt =
        |key: u64, len: u32| (key, (0..len).map(|i| (i * 31 + key as u32) % 96).collect::<Vec<u32>>());
    // Longer than a pass, and of one token.
    let prompts = [prompt(0, 9), prompt(1, 1), prompt(2, 140), prompt(3, 20), prompt(4, 3)];
    let settings = Settings { sampling: drawn(11), samples: 3, max_new_tokens: 40, stop: vec![2, 3] };
    let all = on_cpu(&folder, &prompts, &settings, WIDE);
    assert!(all[0][0] != all[0][1] && all[0][1] != all[0][2], "samples differ");
    assert!(all.concat().iter().any(|answer| answer.end == End::Stop), "some end early and leave their rows");
    for (sequences, threads) in [(1, 1), (2, 2), (4, 1), (7, 2)] {
        let again = on_cpu(&folder, &prompts, &settings, Shape { sequences, threads });
        assert_eq!(all, again, "{sequences} sequences, {threads} threads");
    }
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = on_cpu(&folder, std::slice::from_ref(prompt), &settings, WIDE);
        assert_eq!(alone[0], all[index], "prompt {index} alone");
    }
    let fewer = Settings { samples: 1, ..settings.clone() };
    let first = on_cpu(&folder, &prompts, &fewer, WIDE);
    assert!(
        first.iter().zip(&all).all(|(one, three)| one[0] == three[0]),
        "the first of three is the only one"
    );
    let other = on_cpu(&folder, &prompts, &Settings { sampling: drawn(12), ..fewer }, WIDE);
    assert_ne!(first, other, "another seed");
}

/// A prompt with room for some tokens gets those; one that fills the positions gets none.
#[test]
fn positions_bound_an_answer() {
    let folder = golden().join("checkpoints/mqa-linear-tied");
    let vocabulary = ModelFolder::open(&folder).unwrap().config().vocab_size as u32;
    let prompts = [(0, (0..509).map(|i| i % vocabulary).collect()), (1, vec![5; 512]), (2, vec![5, 6])];
    let ours = on_cpu(&folder, &prompts, &greedy(8, Vec::new()), WIDE);
    let ends: Vec<(usize, End)> = ours.concat().iter().map(|answer| (answer.ids.len(), answer.end)).collect();
    assert_eq!(ends, [(3, End::Context), (0, End::Context), (8, End::Length)]);
}

/// What a conversation keeps in the cache gives the answers of one that is computed anew.
#[test]
fn a_growing_conversation_goes_on_where_it_was() {
    let path = golden().join("checkpoints/gqa-llama3");
    let folder = ModelFolder::open(&path).unwrap();
    let demand = Demand {
        prompts: 1,
        longest_prompt: 60,
        prompt_tokens: 60,
        samples: 1,
        max_new_tokens: 10,
        sequences: None,
    };
    let target = Target::new(asft::backend::DeviceKind::Cpu, None);
    let layout = GenerationLayout::fit(folder.config(), target, FormatConfig::default(), demand).unwrap();
    let mut backend = cpu();
    layout.allocate(&mut backend).unwrap();
    layout.model.load(&mut backend, &folder).unwrap();
    let mut decoder = Decoder::new(&mut backend, &layout.model, &layout.activations, &layout.cache);
    decoder.remember();
    let settings = greedy(10, Vec::new());
    let mut ask = |prompt: &[u32]| {
        let before = decoder.statistics.prompt_tokens;
        let answer = decoder.generate(&[Request { prompt, key: 0 }], &settings, &mut Unwatched).unwrap();
        (answer[0][0].ids.clone(), decoder.statistics.prompt_tokens - before)
    };
    let mut conversation = vec![1, 20, 21, 22];
    let (first, computed) = ask(&conversation);
    assert_eq!(computed, 3, "all but the last token, which the answer begins with");
    conversation.extend(&first);
    conversation.extend([7, 8]);
    let (second, computed) = ask(&conversation);
    assert_eq!(
        computed, 2,
        "the answer's last token, which had not been run, and the turn's tokens but the last"
    );
    assert_eq!(second, on_cpu(&path, &[(0, conversation.clone())], &settings, WIDE)[0][0].ids);
    let (other, computed) = ask(&[1, 20, 9, 9, 9]);
    assert_eq!(computed, 2, "what begins alike is kept");
    assert_eq!(other, on_cpu(&path, &[(0, vec![1, 20, 9, 9, 9])], &settings, WIDE)[0][0].ids);
}

/// Which tokens may be drawn, and with which logits, against transformers' own processors.
#[test]
fn processors_are_those_of_transformers() {
    let bytes = std::fs::read(golden().join("sampling.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for case in &cases {
        names.extend(case["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()));
        let setting = |key: &str, default: f64| case["settings"][key].as_f64().unwrap_or(default);
        let sampling = Sampling {
            temperature: setting("temperature", 1.0),
            top_k: case["settings"]["top_k"].as_u64().map(|k| k as usize),
            top_p: setting("top_p", 1.0),
            min_p: setting("min_p", 0.0),
            repetition_penalty: setting("repetition_penalty", 1.0),
            seed: 0,
        };
        let floats = |value: &Value| -> Vec<Option<f32>> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
        };
        let mut logits: Vec<f32> = floats(&case["logits"]).into_iter().flatten().collect();
        let mut seen = ids(&case["seen"]);
        seen.sort_unstable();
        seen.dedup();
        let kept = sampling.process(&mut logits, &seen);
        let theirs = floats(&case["processed"]);
        let allowed: Vec<u32> =
            (0..theirs.len() as u32).filter(|&id| theirs[id as usize].is_some()).collect();
        assert_eq!(kept, allowed, "{}", case["settings"]);
        for &id in &kept {
            let (ours, theirs) = (logits[id as usize], theirs[id as usize].unwrap());
            assert!(
                (ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0),
                "{}: {ours} {theirs}",
                case["settings"]
            );
        }
    }
    assert_eq!(cases.len(), 28);
    assert_eq!(names.len(), 5, "{names:?}");
}

/// Characters that are spread over tokens come when they are whole, stop strings that are spread over tokens end the text
/// before them, and what is shown piece by piece is the text of the whole.
#[test]
fn text_comes_in_whole_characters_and_ends_before_stop_strings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/folder");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap().unwrap();
    let text = "naïve 北京 👍🏽 привет, END of it";
    let tokens = tokenizer.encode(text).unwrap();
    assert!(tokens.len() > text.chars().count(), "a character is spread over tokens");
    let run = |tokens: &[u32], stops: &[String]| {
        let mut answer = AnswerText::new(&tokenizer, stops);
        let mut shown = String::new();
        let mut stopped = false;
        for &token in tokens {
            let piece = answer.push(token).unwrap();
            assert!(!piece.text.contains('\u{fffd}'), "half a character: {:?}", piece.text);
            shown += &piece.text;
            stopped = piece.stopped;
            if stopped {
                break;
            }
        }
        shown += &answer.finish().unwrap();
        assert_eq!(shown, answer.text());
        (shown, stopped)
    };
    assert_eq!(run(&tokens, &[]), (text.to_owned(), false));
    let stops = ["never".to_owned(), "京 👍".to_owned(), "END".to_owned()];
    assert_eq!(run(&tokens, &stops), ("naïve 北".to_owned(), true));
    // The end of the text begins like a stop string, and is no more than that.
    assert_eq!(run(&tokens, &["of it at all".to_owned()]), (text.to_owned(), false));
    // Cut inside a character, only the end says so.
    let cut =
        (1..tokens.len()).find(|&end| tokenizer.decode(&tokens[..end], true).unwrap().ends_with('\u{fffd}'));
    let (shown, _) = run(&tokens[..cut.unwrap()], &[]);
    assert!(shown.ends_with('\u{fffd}'), "{shown:?}");
}
