//! Greedy decoding of a batch of prompts with a key/value cache.
//!
//! A cache is a matrix of `sequences * length` rows per layer; a decoding step is attention with one-row segments whose
//! key range lies in the cache. Prompts of different lengths decode side by side without padding, and a sequence that
//! has ended leaves the batch.

use crate::backend::{AttentionForward, Backend, BackendError, CopyRows, Element, Heads, View};
use crate::data::{Batch, KeyRange, Segment};
use crate::model::{Activations, Llama, LlamaConfig};
use crate::plan::{Arena, MemoryPlan};

/// Sequences that are answered side by side, and how long they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
}

/// Keys and values of every layer, `[sequences * length, 2 K D]`: keys in the first half of a row, values in the second.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<View>,
    rows: View,
    sequences: usize,
    length: usize,
}

impl Cache {
    /// Adds a cache to a plan; `batch_tokens` is the budget's T.
    pub fn plan(
        plan: &mut MemoryPlan,
        config: &LlamaConfig,
        CacheSize { sequences, length }: CacheSize,
        batch_tokens: usize,
        stored: Element,
    ) -> Self {
        let shape = [sequences * length, 2 * config.num_key_value_heads * config.head_dim];
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                plan.add(Arena::Constants, format!("layer {layer} / key-value cache"), stored, &shape)
            })
            .collect();
        let rows = plan.add(Arena::Constants, "cache rows", Element::U32, &[batch_tokens]);
        Self { layers, rows, sequences, length }
    }
}

/// A decoder over a planned model.
#[derive(Debug)]
pub struct Greedy<'a, B: Backend> {
    /// The device.
    pub backend: &'a mut B,
    /// The model.
    pub model: &'a Llama,
    /// Places for a batch; at least as many tokens and rows as there are sequences, and as the longest prompt has tokens.
    pub activations: &'a Activations,
    /// The cache.
    pub cache: &'a Cache,
}

/// One sequence in the cache.
struct Sequence {
    slot: usize,
    /// Tokens whose keys are cached.
    cached: usize,
    answer: Vec<u32>,
    done: bool,
}

impl<B: Backend> Greedy<'_, B> {
    /// The most probable continuation of each prompt: up to `max_new_tokens` tokens, ending with the first of `stop`
    /// (which is part of the answer). A prompt as long as the cache gets an empty answer.
    pub fn generate(
        &mut self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        let mut answers = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(self.cache.sequences.min(self.activations.budget.rows)) {
            answers.extend(self.generate_together(prompts, max_new_tokens, stop)?);
        }
        Ok(answers)
    }

    fn generate_together(
        &mut self,
        prompts: &[&[u32]],
        max_new_tokens: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        let mut sequences: Vec<Sequence> = (0..prompts.len())
            .map(|slot| Sequence { slot, cached: 0, answer: Vec::new(), done: max_new_tokens == 0 })
            .collect();
        let fits = |prompt: &[u32]| !prompt.is_empty() && prompt.len() < self.cache.length;
        sequences.iter_mut().for_each(|sequence| sequence.done |= !fits(prompts[sequence.slot]));
        let capacity = self.activations.budget.tokens;
        let mut next = 0;
        while next < sequences.len() {
            let mut tokens = 0;
            let first = next;
            while next < sequences.len() && (next == first || tokens + prompts[next].len() <= capacity) {
                tokens += prompts[next].len();
                next += 1;
            }
            let wave = &mut sequences[first..next];
            self.advance(wave, |sequence| prompts[sequence.slot], stop, max_new_tokens)?;
        }
        while sequences.iter().any(|sequence| !sequence.done) {
            let last: Vec<u32> =
                sequences.iter().map(|s| s.answer.last().copied().unwrap_or_default()).collect();
            self.advance(&mut sequences, |s| std::slice::from_ref(&last[s.slot]), stop, max_new_tokens)?;
        }
        Ok(sequences.into_iter().map(|sequence| sequence.answer).collect())
    }

    /// Runs the new tokens of every sequence that is not done and appends the most probable next one.
    fn advance<'p>(
        &mut self,
        sequences: &mut [Sequence],
        new_tokens: impl Fn(&Sequence) -> &'p [u32],
        stop: &[u32],
        max_new_tokens: usize,
    ) -> Result<(), BackendError> {
        let mut batch = Batch::default();
        let mut rows = Vec::new();
        for sequence in sequences.iter().filter(|sequence| !sequence.done) {
            let tokens = new_tokens(sequence);
            let (start, first) = (batch.ids.len() as u32, sequence.cached as u32);
            let base = (sequence.slot * self.cache.length) as u32;
            let count = tokens.len() as u32;
            batch.ids.extend_from_slice(tokens);
            batch.positions.extend(first..first + count);
            rows.extend(base + first..base + first + count);
            let seen = KeyRange { row: base, len: first + count, causal_offset: first };
            batch.segments.push(Segment { start, len: count, ranges: [seen, KeyRange::default()] });
            batch.gather.push(start + count - 1);
            batch.targets.push(0);
        }
        if batch.ids.is_empty() {
            return Ok(());
        }
        let chosen = self.most_probable(&batch, &rows)?;
        let active = sequences.iter_mut().filter(|sequence| !sequence.done);
        for (sequence, token) in active.zip(chosen) {
            sequence.cached += new_tokens(sequence).len();
            sequence.answer.push(token);
            sequence.done = stop.contains(&token)
                || sequence.answer.len() >= max_new_tokens
                || sequence.cached >= self.cache.length;
        }
        Ok(())
    }

    fn most_probable(&mut self, batch: &Batch, rows: &[u32]) -> Result<Vec<u32>, BackendError> {
        let (model, cache) = (self.model, self.cache);
        let device = self.activations.upload(self.backend, batch);
        let cache_rows = cache.rows.first(rows.len());
        self.backend.write(cache_rows, rows);
        let shape = model.attention_shape();
        let width = shape.key_heads * shape.head_dim;
        model.forward_with(self.backend, self.activations, &device, |backend, model, index, layer| {
            let [q, k, v] = model.split_qkv(layer.qkv);
            let out = cache.layers[index];
            for (heads, out_column) in [(k, 0), (v, width)] {
                backend.copy_rows(CopyRows {
                    source: heads.view,
                    source_stride: heads.stride,
                    source_column: heads.column,
                    rows: cache_rows,
                    out,
                    out_stride: 2 * width,
                    out_column,
                    width,
                });
            }
            let cached = |column| Heads { view: out, stride: 2 * width, column };
            backend.attention_forward(AttentionForward {
                q,
                k: cached(0),
                v: cached(width),
                segments: device.segments,
                query_tiles: device.query_tiles,
                out: layer.attention,
                lse: layer.attention_lse,
                shape,
            });
        });
        model.score(self.backend, self.activations, &device);
        let mut chosen = vec![0u32; batch.gather.len()];
        self.backend.read(self.activations.head.argmax.first(chosen.len()), &mut chosen)?;
        Ok(chosen)
    }
}
