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

/// Whether a tensor is read together with the one before it, in the order of [`LlamaConfig::parameters`].
fn is_joined(name: &str) -> bool {
    ["k_proj.weight", "v_proj.weight", "up_proj.weight"].iter().any(|joined| name.ends_with(joined))
}

impl ParameterTable {
    /// The table of a model, from [`LlamaConfig::parameters`].
    pub fn new(config: &LlamaConfig) -> Self {
        let mut table = Self { parameters: Vec::new(), elements: 0 };
        // Tensors of one product, last first, until the first of them is met.
        let mut product = Vec::new();
        for (name, shape) in config.parameters().into_iter().rev() {
            let joined = is_joined(&name);
            product.push((name, shape));
            if !joined {
                for (place, (name, shape)) in product.drain(..).rev().enumerate() {
                    table.add(name, shape, place > 0);
                }
            }
        }
        table
    }

    fn add(&mut self, name: String, shape: Vec<usize>, joined: bool) {
        let offset = if joined { self.elements } else { self.elements.next_multiple_of(ALIGNMENT) };
        let parameter = Parameter { decay: shape.len() > 1, name, shape, offset };
        self.elements = parameter.range().end;
        self.parameters.push(parameter);
    }

    /// All parameters, in backward order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// The same from the other end: embedding, layers from the first on, norm, head.
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
        let ranges: Vec<_> = names.iter().map(|name| self.find(name).range()).collect();
        assert!(
            ranges.windows(2).all(|pair| pair[0].end == pair[1].start),
            "{names:?} do not lie side by side"
        );
        ranges[0].start..ranges[ranges.len() - 1].end
    }

    /// Rows of a matrix, elements of a vector.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub(super) fn rows(&self, name: &str) -> usize {
        self.find(name).shape[0]
    }

    fn find(&self, name: &str) -> &Parameter {
        let found = self.parameters.iter().find(|parameter| parameter.name == name);
        found.unwrap_or_else(|| panic!("the parameter table has no {name}"))
    }

    /// Runs of elements that share all that decides an update, in order; each is one optimizer call. `missed` says of each
    /// parameter how many updates it was not part of; those of which it says nothing are not in any run.
    pub fn runs(&self, missed: impl Fn(usize, &Parameter) -> Option<u64>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        // Whether the parameter before is the last one's of the last run.
        let mut goes_on = false;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let (range, decay) = (parameter.range(), parameter.decay);
            match (missed(index, parameter), runs.last_mut()) {
                (None, _) => goes_on = false,
                (Some(missed), Some(run)) if goes_on && (run.decay, run.missed) == (decay, missed) => {
                    run.range.end = range.end;
                }
                (Some(missed), _) => {
                    runs.push(Run { range, decay, missed });
                    goes_on = true;
                }
            }
        }
        runs
    }
}

/// Parameters that one optimizer call updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their elements in the flat arenas.
    pub range: Range<usize>,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Updates that they were not part of, because they were frozen.
    pub missed: u64,
}
