//! The parameter table: every trainable tensor with its place in the flat arenas. Memory plan, optimizer, gradient norm,
//! checkpoint and export all read this one list.
//!
//! The order is that of the backward pass (head first, embedding last), so that gradients become final from the front
//! of the arena on. Tensors that one product reads together (q, k, v; gate, up) lie side by side.

use std::ops::Range;

use super::LlamaConfig;
use crate::backend::{Element, MOMENT_BLOCK, View};
use crate::plan::{Arena, MemoryPlan};

/// One tensor of the model, under its Hugging Face name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape: `[out, in]` or `[H]`.
    pub shape: Vec<usize>,
    /// First element in the flat arenas.
    pub offset: usize,
    /// Whether weight decay applies: tensors of two dimensions, Hugging Face's rule.
    pub decay: bool,
}

impl Parameter {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its elements in the flat arenas.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }
}

/// All parameters of a model.
#[derive(Clone, Debug)]
pub struct ParameterTable {
    parameters: Vec<Parameter>,
    elements: usize,
}

/// Tensors start at multiples of this many elements unless they belong to the same product: blocks of 8-bit moments never
/// span two of the optimizer's runs.
const ALIGNMENT: usize = MOMENT_BLOCK;

impl ParameterTable {
    /// The table of a model.
    pub fn new(config: &LlamaConfig) -> Self {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let mut table = Self { parameters: Vec::new(), elements: 0 };
        if !config.tie_word_embeddings {
            table.add("lm_head.weight".into(), &[config.vocab_size, h], false);
        }
        table.add("model.norm.weight".into(), &[h], false);
        for layer in (0..config.num_hidden_layers).rev() {
            let mut add = |name: &str, shape: &[usize], joined: bool| {
                table.add(format!("model.layers.{layer}.{name}.weight"), shape, joined);
            };
            add("mlp.down_proj", &[h, f], false);
            add("mlp.gate_proj", &[f, h], false);
            add("mlp.up_proj", &[f, h], true);
            add("post_attention_layernorm", &[h], false);
            add("self_attn.o_proj", &[h, q], false);
            add("self_attn.q_proj", &[q, h], false);
            add("self_attn.k_proj", &[kv, h], true);
            add("self_attn.v_proj", &[kv, h], true);
            add("input_layernorm", &[h], false);
        }
        table.add("model.embed_tokens.weight".into(), &[config.vocab_size, h], false);
        table
    }

    fn add(&mut self, name: String, shape: &[usize], joined: bool) {
        let offset = if joined { self.elements } else { self.elements.next_multiple_of(ALIGNMENT) };
        let parameter = Parameter { name, shape: shape.to_vec(), offset, decay: shape.len() > 1 };
        self.elements = parameter.range().end;
        self.parameters.push(parameter);
    }

    /// All parameters, in backward order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// All parameters in Hugging Face's order: embedding, layers from the first on, norm, head.
    pub fn forward_order(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().rev()
    }

    /// Number of trainable elements.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(Parameter::elements).sum()
    }

    /// Length of a flat arena, gaps included.
    pub fn arena_elements(&self) -> usize {
        self.elements
    }

    /// Adds an arena with a place for every parameter to a plan.
    pub fn plan(&self, plan: &mut MemoryPlan, arena: Arena, element: Element) -> View {
        plan.add(arena, arena.title(), element, &[self.elements])
    }

    /// The run of elements from the first of `names` to the last: tensors that are multiplied as one.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn span(&self, names: &[String]) -> Range<usize> {
        let find = |name: &String| {
            let found = self.parameters.iter().find(|parameter| parameter.name == *name);
            found.unwrap_or_else(|| panic!("the parameter table has no {name}"))
        };
        let ranges: Vec<_> = names.iter().map(|name| find(name).range()).collect();
        assert!(
            ranges.windows(2).all(|pair| pair[0].end == pair[1].start),
            "{names:?} do not lie side by side"
        );
        ranges[0].start..ranges[ranges.len() - 1].end
    }

    /// Runs of elements that share a weight-decay rule, in order; each is one optimizer call.
    pub fn decay_runs(&self) -> Vec<(Range<usize>, bool)> {
        let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
        for parameter in &self.parameters {
            match runs.last_mut() {
                Some((range, decay)) if *decay == parameter.decay => range.end = parameter.range().end,
                _ => runs.push((parameter.range(), parameter.decay)),
            }
        }
        runs
    }
}
