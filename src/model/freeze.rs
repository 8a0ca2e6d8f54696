//! Parameters that are left as they are: none of the backward pass's work is done for them alone.
//!
//! Boundary: that they are frozen; which, and when, is [`crate::train::half`]'s.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Linear, Llama, Norm, ParameterTable};

/// Names of parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen(BTreeSet<String>);

impl Frozen {
    /// Whether the parameter is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// All of them, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromIterator<String> for Frozen {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// The full name of a part of a layer.
pub(super) fn name(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

impl Llama {
    /// Freezes these parameters of the layers and no others: their weight gradients are not computed, and where they lie
    /// nothing is written.
    ///
    /// # Panics
    /// If the model was planned without gradients.
    pub fn freeze(&mut self, frozen: &Frozen) {
        let Some(gradients) = self.gradients() else { panic!("planned for inference: nothing is learnt") };
        let table = &self.table;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let learn = |linear: &mut Linear, parts: &[&str]| {
                let names: Vec<String> = parts.iter().map(|part| name(index, part)).collect();
                linear.learn(learnt_rows(table, &names, frozen));
            };
            learn(&mut layer.qkv, &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
            learn(&mut layer.output, &["self_attn.o_proj"]);
            learn(&mut layer.gate_up, &["mlp.gate_proj", "mlp.up_proj"]);
            learn(&mut layer.down, &["mlp.down_proj"]);
            let learn = |norm: &mut Norm, part: &str| {
                let name = name(index, part);
                let place = gradients.slice(table.span(std::slice::from_ref(&name)));
                norm.gradient = (!frozen.contains(&name)).then_some(place);
            };
            learn(&mut layer.input_norm, "input_layernorm");
            learn(&mut layer.post_norm, "post_attention_layernorm");
        }
    }
}

/// The rows of weights that lie one below the other which are not frozen, as runs.
fn learnt_rows(table: &ParameterTable, names: &[String], frozen: &Frozen) -> Vec<Range<usize>> {
    let (mut runs, mut start): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
    for name in names {
        let end = start + table.rows(name);
        match runs.last_mut() {
            _ if frozen.contains(name) => {}
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
        start = end;
    }
    runs
}
