//! The whole model in f64, forward and backward, for one sequence at a time: nothing packed, nothing shared.
//!
//! Parameters and gradients go by Hugging Face's names. With tied embeddings the one tensor
//! `model.embed_tokens.weight` collects the gradient of both its uses.

use std::collections::BTreeMap;

use serde_json::Value;

use super::attention::{self, Heads, Inputs, KeyRange, Segment};
use super::rope::{self, Scaling};
use super::{embedding, head, matmul, rmsnorm, swiglu};

/// Tensors by their Hugging Face name, row-major.
pub type Tensors = BTreeMap<String, Vec<f64>>;

/// What of `config.json` the numbers depend on.
#[derive(Debug, Clone)]
pub struct Config {
    /// H.
    pub hidden: usize,
    /// F.
    pub feed_forward: usize,
    /// Number of blocks.
    pub layers: usize,
    /// N, K and D.
    pub heads: Heads,
    /// V.
    pub vocabulary: usize,
    /// Of every norm.
    pub rms_norm_eps: f64,
    /// Whether the head uses the embedding table.
    pub tied: bool,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub rope_scaling: Scaling,
}

impl Config {
    /// From `config.json`, in the layout of published Llama-3.x folders (`rope_theta`, `rope_scaling`) or
    /// transformers 5's (`rope_parameters`).
    pub fn from_json(json: &Value) -> Self {
        let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("config.json: {key}")) as usize;
        let (hidden, query) = (number("hidden_size"), number("num_attention_heads"));
        let rope = match &json["rope_parameters"] {
            Value::Null => &json["rope_scaling"],
            parameters => parameters,
        };
        let theta = rope["rope_theta"].as_f64().or(json["rope_theta"].as_f64());
        Self {
            hidden,
            feed_forward: number("intermediate_size"),
            layers: number("num_hidden_layers"),
            heads: Heads {
                query,
                key_value: number("num_key_value_heads"),
                size: json["head_dim"].as_u64().map_or(hidden / query, |size| size as usize),
            },
            vocabulary: number("vocab_size"),
            rms_norm_eps: json["rms_norm_eps"].as_f64().expect("config.json: rms_norm_eps"),
            tied: json["tie_word_embeddings"].as_bool().expect("config.json: tie_word_embeddings"),
            rope_theta: theta.expect("config.json: rope_theta"),
            rope_scaling: scaling_from_json(rope),
        }
    }

    fn head_weight(&self) -> &'static str {
        if self.tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
    }
}

fn scaling_from_json(rope: &Value) -> Scaling {
    let number = |key: &str| rope[key].as_f64().unwrap_or_else(|| panic!("config.json: rope scaling: {key}"));
    match rope["rope_type"].as_str().or(rope["type"].as_str()) {
        None | Some("default") => Scaling::None,
        Some("linear") => Scaling::Linear { factor: number("factor") },
        Some("llama3") => Scaling::Llama3 {
            factor: number("factor"),
            low_frequency_factor: number("low_freq_factor"),
            high_frequency_factor: number("high_freq_factor"),
            original_context: number("original_max_position_embeddings"),
        },
        Some(other) => panic!("config.json: rope type {other}"),
    }
}

/// One sequence run through the model, with everything the backward pass needs.
pub struct Forward<'a> {
    config: &'a Config,
    parameters: &'a Tensors,
    ids: &'a [u32],
    blocks: Vec<Block>,
    last_norm: rmsnorm::Forward,
    /// `[T, V]`.
    pub logits: Vec<f64>,
}

/// What a block's forward pass leaves behind. Queries and keys are rotated.
struct Block {
    attention_norm: rmsnorm::Forward,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    attention: Vec<f64>,
    mlp_norm: rmsnorm::Forward,
    gate: Vec<f64>,
    up: Vec<f64>,
    activation: Vec<f64>,
}

/// Runs `ids` at positions 0, 1, ...
pub fn forward<'a>(config: &'a Config, parameters: &'a Tensors, ids: &'a [u32]) -> Forward<'a> {
    let run = Run { config, parameters, tokens: ids.len() };
    let mut hidden = embedding::forward(ids, &parameters["model.embed_tokens.weight"], config.hidden);
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        let (block, out) = run.block_forward(layer, &hidden);
        blocks.push(block);
        hidden = out;
    }
    let last_norm = rmsnorm::forward(&hidden, None, &parameters["model.norm.weight"], config.rms_norm_eps);
    let logits = run.linear(config.head_weight(), &last_norm.out);
    Forward { config, parameters, ids, blocks, last_norm, logits }
}

impl Forward<'_> {
    /// `[T - 1]`: entry `t` is `log p(ids[t + 1])` after `ids[..= t]`.
    pub fn log_probs(&self) -> Vec<f64> {
        self.head_rows().iter().map(|row| row.logp).collect()
    }

    /// The next token by the largest logit after the whole sequence.
    pub fn greedy(&self) -> u32 {
        let last = &self.logits[self.logits.len() - self.config.vocabulary..];
        head::rows(last, self.config.vocabulary, &[head::plain(0)])[0].argmax
    }

    /// Gradients of a loss by every parameter, with `coefficients [T - 1]` = d loss / d [`Self::log_probs`].
    pub fn backward(&self, coefficients: &[f64]) -> Tensors {
        let config = self.config;
        let run = Run { config, parameters: self.parameters, tokens: self.ids.len() };
        let mut gradients: Tensors =
            self.parameters.iter().map(|(name, p)| (name.clone(), vec![0.0; p.len()])).collect();
        let rows = self.head_rows();
        assert_eq!(rows.len(), coefficients.len());
        let mut d_logits: Vec<f64> = rows
            .iter()
            .zip(coefficients)
            .flat_map(|(row, g)| row.unit_gradient.iter().map(move |u| g * u))
            .collect();
        d_logits.resize(self.logits.len(), 0.0); // the last token predicts nothing
        let d_normed =
            run.linear_backward(config.head_weight(), &self.last_norm.out, &d_logits, &mut gradients);
        let mut d_hidden =
            run.norm_backward("model.norm.weight", &self.last_norm, &d_normed, None, &mut gradients);
        for (layer, block) in self.blocks.iter().enumerate().rev() {
            d_hidden = run.block_backward(layer, block, d_hidden, &mut gradients);
        }
        let d_table = embedding::backward(self.ids, &d_hidden, config.vocabulary, config.hidden);
        add(&mut gradients, "model.embed_tokens.weight", &d_table);
        gradients
    }

    fn head_rows(&self) -> Vec<head::Row> {
        let targets: Vec<_> = self.ids[1..].iter().map(|&id| head::plain(id)).collect();
        let vocabulary = self.config.vocabulary;
        head::rows(&self.logits[..targets.len() * vocabulary], vocabulary, &targets)
    }
}

/// What every step of one pass shares.
struct Run<'a> {
    config: &'a Config,
    parameters: &'a Tensors,
    tokens: usize,
}

impl Run<'_> {
    fn block_forward(&self, layer: usize, hidden: &[f64]) -> (Block, Vec<f64>) {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let (heads, eps) = (self.config.heads, self.config.rms_norm_eps);
        let attention_norm = rmsnorm::forward(hidden, None, &self.parameters[&name("input_layernorm")], eps);
        let (positions, frequencies) = self.rope();
        let q = self.linear(&name("self_attn.q_proj"), &attention_norm.out);
        let k = self.linear(&name("self_attn.k_proj"), &attention_norm.out);
        let v = self.linear(&name("self_attn.v_proj"), &attention_norm.out);
        let q = rope::forward(&q, &positions, heads.query, &frequencies);
        let k = rope::forward(&k, &positions, heads.key_value, &frequencies);
        let attention = attention::forward(heads, &self.segments(), Inputs { q: &q, k: &k, v: &v }).out;
        let projected = self.linear(&name("self_attn.o_proj"), &attention);
        let norm_weight = &self.parameters[&name("post_attention_layernorm")];
        let mlp_norm = rmsnorm::forward(&projected, Some(hidden), norm_weight, eps);
        let gate = self.linear(&name("mlp.gate_proj"), &mlp_norm.out);
        let up = self.linear(&name("mlp.up_proj"), &mlp_norm.out);
        let activation = swiglu::forward(&gate, &up);
        let down = self.linear(&name("mlp.down_proj"), &activation);
        let out = mlp_norm.sum.iter().zip(&down).map(|(s, d)| s + d).collect();
        (Block { attention_norm, q, k, v, attention, mlp_norm, gate, up, activation }, out)
    }

    /// From the gradient by the block's output to that by its input.
    fn block_backward(
        &self,
        layer: usize,
        block: &Block,
        d_out: Vec<f64>,
        gradients: &mut Tensors,
    ) -> Vec<f64> {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let heads = self.config.heads;
        let d_activation = self.linear_backward(&name("mlp.down_proj"), &block.activation, &d_out, gradients);
        let (d_gate, d_up) = swiglu::backward(&block.gate, &block.up, &d_activation);
        let x = &block.mlp_norm.out;
        let d_gate = self.linear_backward(&name("mlp.gate_proj"), x, &d_gate, gradients);
        let d_up = self.linear_backward(&name("mlp.up_proj"), x, &d_up, gradients);
        let d_normed = sum(&[&d_gate, &d_up]);
        let norm = name("post_attention_layernorm");
        let d_middle = self.norm_backward(&norm, &block.mlp_norm, &d_normed, Some(&d_out), gradients);

        let d_attention =
            self.linear_backward(&name("self_attn.o_proj"), &block.attention, &d_middle, gradients);
        let inputs = Inputs { q: &block.q, k: &block.k, v: &block.v };
        let d = attention::backward(heads, &self.segments(), inputs, &d_attention);
        let (positions, frequencies) = self.rope();
        let dq = rope::backward(&d.dq, &positions, heads.query, &frequencies);
        let dk = rope::backward(&d.dk, &positions, heads.key_value, &frequencies);
        let x = &block.attention_norm.out;
        let d_normed = sum(&[
            &self.linear_backward(&name("self_attn.q_proj"), x, &dq, gradients),
            &self.linear_backward(&name("self_attn.k_proj"), x, &dk, gradients),
            &self.linear_backward(&name("self_attn.v_proj"), x, &d.dv, gradients),
        ]);
        let norm = name("input_layernorm");
        self.norm_backward(&norm, &block.attention_norm, &d_normed, Some(&d_middle), gradients)
    }

    fn rope(&self) -> (Vec<u32>, Vec<f64>) {
        let config = self.config;
        let frequencies =
            rope::inverse_frequencies(config.heads.size, config.rope_theta, &config.rope_scaling);
        ((0..self.tokens as u32).collect(), frequencies)
    }

    /// One causal sequence.
    fn segments(&self) -> [Segment; 1] {
        let len = self.tokens;
        [Segment { query_row: 0, len, ranges: vec![KeyRange { kv_row: 0, len, causal_offset: 0 }] }]
    }

    /// `y [T, out] = x [T, in] W^T`, with `W [out, in]`.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.parameters[name];
        let inputs = x.len() / self.tokens;
        matmul::nt(x, weight, self.tokens, weight.len() / inputs, inputs)
    }

    /// Gives `dx` and adds `dW` to the gradients.
    fn linear_backward(&self, name: &str, x: &[f64], dy: &[f64], gradients: &mut Tensors) -> Vec<f64> {
        let weight = &self.parameters[name];
        let (inputs, outputs) = (x.len() / self.tokens, dy.len() / self.tokens);
        add(gradients, name, &matmul::tn(dy, x, outputs, inputs, self.tokens));
        matmul::nn(dy, weight, self.tokens, inputs, outputs)
    }

    fn norm_backward(
        &self,
        name: &str,
        saved: &rmsnorm::Forward,
        d_out: &[f64],
        d_sum: Option<&[f64]>,
        gradients: &mut Tensors,
    ) -> Vec<f64> {
        let (d_input, d_weight) = rmsnorm::backward(saved, &self.parameters[name], d_out, d_sum);
        add(gradients, name, &d_weight);
        d_input
    }
}

fn add(gradients: &mut Tensors, name: &str, more: &[f64]) {
    let gradient = gradients.get_mut(name).unwrap_or_else(|| panic!("no parameter {name}"));
    assert_eq!(gradient.len(), more.len(), "{name}");
    for (g, m) in gradient.iter_mut().zip(more) {
        *g += m;
    }
}

fn sum(parts: &[&[f64]]) -> Vec<f64> {
    (0..parts[0].len()).map(|i| parts.iter().map(|part| part[i]).sum()).collect()
}
