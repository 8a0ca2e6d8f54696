//! Answers to many prompts side by side.
//!
//! The keys and values of a prompt's tokens but the last are computed once, whatever the number of samples; each sample
//! begins with the prompt's last token in rows of its own, so that its first token is a decoding step like all others. A
//! decoding step is attention with one-row segments over two key ranges in the cache: the prompt's rows, then the
//! sample's. Prompts of different lengths decode together without padding; a sample that has ended leaves its rows to the
//! next one. A row's result does not depend on what else is in the batch, so neither does an answer.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use rayon::prelude::*;

use super::cache::FreeRows;
use super::sampling::uniform;
use super::{Cache, DecodeError, Sampling};
use crate::backend::{Backend, Element, View};
use crate::data::{Batch, KeyRange, Segment};
use crate::model::{Activations, DeviceBatch, Llama};

/// One prompt.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its tokens.
    pub prompt: &'a [u32],
    /// Its part in the key of random numbers: the same in any selection of prompts.
    pub key: u64,
}

/// What holds for all requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Answers to each prompt.
    pub samples: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that end an answer and belong to it.
    pub stop: Vec<u32>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A stop token, or whoever watches.
    Stop,
    /// The number of tokens asked for.
    Length,
    /// The model's positions, or the cache.
    Context,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its tokens, the stop token included.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub end: End,
}

/// Whoever looks at tokens when they are there.
pub trait Watcher {
    /// A token of a request's sample; `Break` ends this answer.
    fn token(&mut self, request: usize, sample: usize, token: u32) -> ControlFlow<()>;
    /// An answer has ended; `Break` ends everything.
    fn ended(&mut self, request: usize, sample: usize, answer: &Answer) -> ControlFlow<()>;
}

/// Nobody looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn token(&mut self, _: usize, _: usize, _: u32) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn ended(&mut self, _: usize, _: usize, _: &Answer) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What was done, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Seconds for them.
    pub prompt_seconds: f64,
    /// Tokens chosen.
    pub new_tokens: usize,
    /// Seconds for them.
    pub decode_seconds: f64,
    /// Passes in which they were chosen, each for every sequence under way.
    pub passes: usize,
    /// Bytes that these passes cannot but read: all weights once, and the keys and values that each sequence sees.
    pub decode_bytes: f64,
}

/// A decoder over a planned model.
#[derive(Debug)]
pub struct Decoder<'a, B: Backend> {
    /// The device.
    pub backend: &'a mut B,
    /// The model.
    pub model: &'a Llama,
    /// Places for a batch; the budget's rows and tokens bound how many sequences are decoded side by side.
    pub activations: &'a Activations,
    /// The cache.
    pub cache: &'a Cache,
    /// What was done so far.
    pub statistics: Statistics,
    /// Tokens whose keys and values lie in the first rows of the cache, if they are to be used again.
    resident: Option<Vec<u32>>,
}

/// A prompt in the cache.
struct Loaded {
    request: usize,
    rows: Range<usize>,
    /// Tokens whose keys are there.
    cached: usize,
    /// Samples under way.
    users: usize,
    /// Samples that have not begun.
    waiting: usize,
}

/// A sample under way.
struct Sequence {
    request: usize,
    sample: usize,
    prompt_rows: Range<usize>,
    rows: Range<usize>,
    /// Tokens in `rows` whose keys are there.
    cached: usize,
    /// The token to be run next.
    last: u32,
    limit: usize,
    /// What ends it at `limit`.
    end: End,
    ids: Vec<u32>,
    /// Distinct tokens of prompt and answer, where a penalty needs them.
    seen: Vec<u32>,
}

/// What one call works on.
struct Work<'r> {
    requests: &'r [Request<'r>],
    settings: &'r Settings,
    free: FreeRows,
    /// Requests that are not in the cache yet.
    queue: VecDeque<usize>,
    loaded: Vec<Loaded>,
    active: Vec<Sequence>,
    /// Most sequences side by side.
    width: usize,
}

impl<'a, B: Backend> Decoder<'a, B> {
    /// A decoder that has done nothing yet.
    pub fn new(backend: &'a mut B, model: &'a Llama, activations: &'a Activations, cache: &'a Cache) -> Self {
        Self { backend, model, activations, cache, statistics: Statistics::default(), resident: None }
    }

    /// Keeps the keys and values of each call for the next one, whose first prompt need not be computed as far as it begins
    /// like the last prompt and answer: a conversation that grows.
    pub fn remember(&mut self) {
        self.resident.get_or_insert_default();
    }

    /// The answers to every request, `settings.samples` each, in the order of the requests. A prompt that leaves no room in
    /// the model's positions or in the cache gets empty answers.
    ///
    /// # Errors
    /// A device that fails, or logits that are not finite.
    pub fn generate(
        &mut self,
        requests: &[Request<'_>],
        settings: &Settings,
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<Vec<Answer>>, DecodeError> {
        let empty = Answer { ids: Vec::new(), end: End::Context };
        let mut answers = vec![vec![empty; settings.samples]; requests.len()];
        let budget = self.activations.budget;
        let mut work = Work {
            requests,
            settings,
            free: FreeRows::new(self.cache.rows()),
            queue: (0..requests.len()).collect(),
            loaded: Vec::new(),
            active: Vec::new(),
            width: budget.rows.min(budget.tokens),
        };
        loop {
            for request in self.admit(&mut work) {
                for (sample, answer) in answers[request].iter().enumerate() {
                    if watcher.ended(request, sample, answer).is_break() {
                        return Ok(answers);
                    }
                }
            }
            if self.prompts(&mut work)? {
                continue;
            }
            if work.active.is_empty() {
                return Ok(answers);
            }
            for (sequence, end) in self.decode(&mut work, watcher)? {
                let answer = Answer { ids: sequence.ids, end };
                let ended = watcher.ended(sequence.request, sequence.sample, &answer);
                answers[sequence.request][sequence.sample] = answer;
                if ended.is_break() {
                    return Ok(answers);
                }
            }
        }
    }

    /// Begins as many samples as there is room for, in order. Gives the requests that there never is room for.
    fn admit(&mut self, work: &mut Work<'_>) -> Vec<usize> {
        let mut hopeless = Vec::new();
        loop {
            if let Some(place) = work.loaded.iter().position(|loaded| loaded.waiting > 0) {
                let prompt = work.requests[work.loaded[place].request].prompt;
                if work.active.len() >= work.width || !work.begin_sample(place, self.room(prompt)) {
                    return hopeless;
                }
                continue;
            }
            let Some(&request) = work.queue.front() else { return hopeless };
            let prompt = work.requests[request].prompt;
            let room = self.room(prompt);
            if room == 0 || work.settings.max_new_tokens == 0 || work.settings.samples == 0 {
                work.queue.pop_front();
                hopeless.push(request);
                continue;
            }
            // Together with the first sample's, so that a prompt in the cache never waits for rows that others hold.
            let needed = prompt.len() - 1 + work.settings.max_new_tokens.min(room);
            if work.active.len() >= work.width {
                return hopeless;
            }
            let Some(both) = work.free.take(needed) else { return hopeless };
            work.queue.pop_front();
            let split = both.start + prompt.len() - 1;
            work.free.give(split..both.end);
            let cached = self.take_resident(prompt, both.start);
            let rows = both.start..split;
            let waiting = work.settings.samples;
            work.loaded.push(Loaded { request, rows, cached, users: 0, waiting });
        }
    }

    /// Tokens that an answer to this prompt may have, by the model's positions and the cache.
    fn room(&self, prompt: &[u32]) -> usize {
        if prompt.is_empty() {
            return 0;
        }
        let positions = self.activations.budget.positions.saturating_sub(prompt.len());
        positions.min((self.cache.rows() + 1).saturating_sub(prompt.len()))
    }

    /// Tokens of a prompt that begins at this row whose keys are there already.
    fn take_resident(&mut self, prompt: &[u32], row: usize) -> usize {
        let Some(resident) = &mut self.resident else { return 0 };
        let resident = std::mem::take(resident);
        if row != 0 {
            return 0;
        }
        let shared = prompt.iter().zip(&resident).take_while(|(a, b)| a == b).count();
        shared.min(prompt.len() - 1)
    }

    /// Runs the next tokens of prompts that are not wholly cached. Says whether there were any.
    fn prompts(&mut self, work: &mut Work<'_>) -> Result<bool, DecodeError> {
        let start = Instant::now();
        let (mut batch, mut rows) = (Batch::default(), Vec::new());
        let capacity = self.activations.budget.tokens;
        for loaded in &mut work.loaded {
            let count = (loaded.rows.len() - loaded.cached).min(capacity - batch.ids.len());
            if count == 0 {
                continue;
            }
            let (first, prompt) = (loaded.cached, work.requests[loaded.request].prompt);
            let seen = KeyRange {
                row: loaded.rows.start as u32,
                len: (first + count) as u32,
                causal_offset: first as u32,
            };
            let start = batch.ids.len() as u32;
            batch.ids.extend_from_slice(&prompt[first..first + count]);
            batch.positions.extend(first as u32..(first + count) as u32);
            batch.segments.push(Segment { start, len: count as u32, ranges: [KeyRange::default(), seen] });
            rows.extend((loaded.rows.start + first..loaded.rows.start + first + count).map(|row| row as u32));
            loaded.cached += count;
        }
        if batch.ids.is_empty() {
            return Ok(false);
        }
        self.forward(&batch, &rows);
        // Nothing is read from this pass; waiting for it keeps the times apart.
        self.backend.read(self.activations.last_rstd.first(1), &mut [0f32])?;
        self.statistics.prompt_tokens += batch.ids.len();
        self.statistics.prompt_seconds += start.elapsed().as_secs_f64();
        Ok(true)
    }

    /// One token for every sample under way. Gives those that end with it.
    fn decode(
        &mut self,
        work: &mut Work<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<(Sequence, End)>, DecodeError> {
        let start = Instant::now();
        let (mut batch, mut rows) = (Batch::default(), Vec::new());
        let mut keys = 0;
        for (place, sequence) in work.active.iter().enumerate() {
            let (prompt, own) = (sequence.prompt_rows.len() as u32, sequence.cached as u32);
            let shared =
                KeyRange { row: sequence.prompt_rows.start as u32, len: prompt, causal_offset: prompt };
            let own_keys = KeyRange { row: sequence.rows.start as u32, len: own + 1, causal_offset: own };
            batch.ids.push(sequence.last);
            batch.positions.push(prompt + own);
            let place = place as u32;
            batch.segments.push(Segment { start: place, len: 1, ranges: [shared, own_keys] });
            batch.gather.push(place);
            batch.targets.push(0);
            rows.push(sequence.rows.start as u32 + own);
            keys += prompt + own + 1;
        }
        let device = self.forward(&batch, &rows);
        let tokens = self.choose(&device, work)?;
        let statistics = &mut self.statistics;
        statistics.new_tokens += tokens.len();
        statistics.passes += 1;
        statistics.decode_bytes +=
            weight_bytes(self.model) as f64 + f64::from(keys) * self.cache.token_bytes() as f64;
        let mut ended = Vec::new();
        let stop = &work.settings.stop;
        let mut place = 0;
        for token in tokens {
            let sequence = &mut work.active[place];
            sequence.push(token, work.settings.sampling.repetition_penalty != 1.0);
            let broken = watcher.token(sequence.request, sequence.sample, token).is_break();
            let end = match sequence.ids.len() == sequence.limit {
                _ if broken || stop.contains(&token) => End::Stop,
                true => sequence.end,
                false => {
                    place += 1;
                    continue;
                }
            };
            ended.push((work.end_sample(place), end));
        }
        if let (Some(resident), [(only, _)]) = (&mut self.resident, &ended[..])
            && only.prompt_rows.start == 0
            && (only.prompt_rows.end == only.rows.start)
        {
            let prompt = work.requests[only.request].prompt;
            // The last token has been chosen and not run.
            *resident = [prompt, &only.ids[..only.ids.len() - 1]].concat();
        }
        self.statistics.decode_seconds += start.elapsed().as_secs_f64();
        Ok(ended)
    }

    /// A batch through all layers, its keys and values to these rows of the cache.
    fn forward(&mut self, batch: &Batch, rows: &[u32]) -> DeviceBatch {
        let (model, cache) = (self.model, self.cache);
        let device = self.activations.upload(self.backend, batch);
        let destinations = cache.aim(self.backend, rows);
        model.forward_with(self.backend, self.activations, &device, |backend, model, index, layer| {
            cache.attend(backend, model, &device, destinations, index, layer);
        });
        device
    }

    /// The next token of each row of the batch.
    fn choose(&mut self, batch: &DeviceBatch, work: &Work<'_>) -> Result<Vec<u32>, DecodeError> {
        let sampling = &work.settings.sampling;
        let head = self.activations.head;
        if sampling.is_plain_greedy() {
            self.model.score(self.backend, self.activations, batch);
            let (mut tokens, mut sums) = (vec![0u32; batch.rows], vec![0f32; batch.rows]);
            self.backend.read(head.argmax.first(batch.rows), &mut tokens)?;
            self.backend.read(head.lse.first(batch.rows), &mut sums)?;
            let finite = sums.iter().all(|sum| sum.is_finite());
            return if finite { Ok(tokens) } else { Err(DecodeError::NotFinite) };
        }
        let vocabulary = self.model.config.vocab_size;
        let mut tokens = Vec::with_capacity(batch.rows);
        let mut logits = Vec::new();
        self.model.gather_head_rows(self.backend, self.activations, batch);
        while tokens.len() < batch.rows {
            let rows = tokens.len()..batch.rows;
            let (view, count) = self.model.head_product(self.backend, self.activations, rows.clone());
            read_floats(self.backend, view, &mut logits)?;
            let part = logits.par_chunks_exact_mut(vocabulary).zip(&work.active[rows][..count]);
            let chosen: Option<Vec<u32>> = part
                .map(|(logits, sequence)| {
                    let key = work.requests[sequence.request].key;
                    let (sample, position) = (sequence.sample as u64, sequence.ids.len() as u64);
                    sampling.choose(logits, &sequence.seen, uniform(sampling.seed, key, sample, position))
                })
                .collect();
            tokens.extend(chosen.ok_or(DecodeError::NotFinite)?);
        }
        Ok(tokens)
    }
}

impl Work<'_> {
    /// Begins the next sample of a prompt in the cache, if there is room now.
    fn begin_sample(&mut self, place: usize, room: usize) -> bool {
        let loaded = &mut self.loaded[place];
        let limit = self.settings.max_new_tokens.min(room);
        let Some(rows) = self.free.take(limit) else { return false };
        let prompt = self.requests[loaded.request].prompt;
        let mut seen = Vec::new();
        if self.settings.sampling.repetition_penalty != 1.0 {
            seen = prompt.to_vec();
            seen.sort_unstable();
            seen.dedup();
        }
        self.active.push(Sequence {
            request: loaded.request,
            sample: self.settings.samples - loaded.waiting,
            prompt_rows: loaded.rows.clone(),
            rows,
            cached: 0,
            last: prompt[prompt.len() - 1],
            limit,
            end: if limit == self.settings.max_new_tokens { End::Length } else { End::Context },
            ids: Vec::new(),
            seen,
        });
        loaded.waiting -= 1;
        loaded.users += 1;
        true
    }

    /// Takes a sample out and gives its rows back, the prompt's with the last sample of it.
    fn end_sample(&mut self, place: usize) -> Sequence {
        let sequence = self.active.remove(place);
        self.free.give(sequence.rows.clone());
        let owner = self.loaded.iter().position(|loaded| loaded.request == sequence.request);
        if let Some(owner) = owner {
            self.loaded[owner].users -= 1;
            if self.loaded[owner].users == 0 && self.loaded[owner].waiting == 0 {
                self.free.give(self.loaded.remove(owner).rows);
            }
        }
        sequence
    }
}

impl Sequence {
    fn push(&mut self, token: u32, penalised: bool) {
        self.cached += 1;
        self.last = token;
        self.ids.push(token);
        if penalised && let Err(place) = self.seen.binary_search(&token) {
            self.seen.insert(place, token);
        }
    }
}

/// Bytes of the weights that a decoding pass reads: all but the rows of an embedding table that is not the head.
fn weight_bytes(model: &Llama) -> usize {
    let embedding = if model.config.tie_word_embeddings { 0 } else { model.embedding.len };
    (model.table.count() - embedding) * model.embedding.element.bytes()
}

/// A view of f32 or bf16 as f32.
fn read_floats<B: Backend>(backend: &mut B, view: View, out: &mut Vec<f32>) -> Result<(), DecodeError> {
    out.resize(view.len, 0.0);
    if view.element == Element::Bf16 {
        let mut stored = vec![half::bf16::ZERO; view.len];
        backend.read(view, &mut stored)?;
        out.iter_mut().zip(stored).for_each(|(out, value)| *out = value.to_f32());
    } else {
        backend.read(view, out)?;
    }
    Ok(())
}
