//! The forward pass of a Llama, block by block, over the operations of a [`Backend`].
//!
//! `llama_backward.rs` is its mirror; `head.rs` takes over at the final hidden state. Nothing here knows a device or an
//! objective.

use super::activations::{Activations, DeviceBatch, LayerActivations};
use super::freeze::name;
use super::linear::Linear;
use super::parameters::ParameterTable;
use super::{LlamaConfig, Precision};
use crate::backend::{
    AttentionForward, AttentionShape, Backend, Element, EmbeddingForward, Heads, RmsnormForward, Rope,
    Rotation, SwigluForward, View,
};
use crate::plan::{Arena, MemoryPlan};

/// A normalisation's weight and the place of its gradient.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[H]`.
    pub weight: View,
    /// `[H]`.
    pub gradient: Option<View>,
}

/// One transformer block.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Before attention.
    pub input_norm: Norm,
    /// Queries, keys and values in one product, `[(N + 2K) D, H]`.
    pub qkv: Linear,
    /// Attention's output projection.
    pub output: Linear,
    /// Before the feed-forward.
    pub post_norm: Norm,
    /// Gate and up in one product, `[2F, H]`.
    pub gate_up: Linear,
    /// Back to H.
    pub down: Linear,
}

/// A model: views of its weights and gradients, and its constants. The values are in the backend.
#[derive(Clone, Debug)]
pub struct Llama {
    /// The sizes.
    pub config: LlamaConfig,
    /// The parameter table the views come from.
    pub table: ParameterTable,
    /// `[V, H]`.
    pub embedding: View,
    /// `[V, H]`; with tied embeddings the head's gradient as well. Absent where inputs give the table no gradient.
    pub embedding_gradient: Option<View>,
    /// L blocks.
    pub layers: Vec<Layer>,
    /// After the last block.
    pub final_norm: Norm,
    /// The language-model head; with tied embeddings a view of the same memory as `embedding`.
    pub head: Linear,
    /// u16, at the weights' offsets: what master weights have beyond them.
    pub remainders: Option<View>,
    cos: View,
    sin: View,
    positions: usize,
}

/// What a model is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To be run.
    Inference,
    /// To be trained: with gradients, and with what the precision keeps of master weights.
    Training,
}

impl Llama {
    /// Adds weights, gradients (if they are to be trained) and rotary tables for `positions` positions to a plan.
    pub fn plan(
        plan: &mut MemoryPlan,
        config: &LlamaConfig,
        positions: usize,
        precision: Precision,
        purpose: Use,
    ) -> Self {
        let trainable = purpose == Use::Training;
        let table = ParameterTable::new(config);
        let weights = table.plan(plan, Arena::Weights, precision.storage);
        let remainders = (trainable && precision.has_remainder())
            .then(|| table.plan(plan, Arena::Remainders, Element::U16));
        let gradients = trainable.then(|| table.plan(plan, Arena::Gradients, Element::F32));
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let attention = config.num_attention_heads * config.head_dim;
        let views = |names: &[String]| {
            let range = table.span(names);
            (weights.slice(range.clone()), gradients.map(|gradients| gradients.slice(range)))
        };
        let norm = |name: String| {
            let (weight, gradient) = views(&[name]);
            Norm { weight, gradient }
        };
        let linear = |names: &[String], inputs, outputs| {
            let (weight, gradient) = views(names);
            Linear::new(weight, gradient, inputs, outputs)
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let name = |part: &str| name(index, part);
                let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(name);
                Layer {
                    input_norm: norm(name("input_layernorm")),
                    qkv: linear(&qkv, h, config.qkv_width()),
                    output: linear(&[name("self_attn.o_proj")], attention, h),
                    post_norm: norm(name("post_attention_layernorm")),
                    gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"].map(name), h, 2 * f),
                    down: linear(&[name("mlp.down_proj")], f, h),
                }
            })
            .collect();
        let (embedding, embedding_gradient) = views(&["model.embed_tokens.weight".to_string()]);
        let head_name =
            if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let head = linear(&[head_name.to_string()], h, config.vocab_size);
        let final_norm = norm("model.norm.weight".to_string());
        let half = config.head_dim / 2;
        let cos = plan.add(Arena::Constants, "rotary cosines", Element::F32, &[positions, half]);
        let sin = plan.add(Arena::Constants, "rotary sines", Element::F32, &[positions, half]);
        let config = config.clone();
        Self {
            config,
            table,
            embedding,
            embedding_gradient,
            layers,
            final_norm,
            head,
            remainders,
            cos,
            sin,
            positions,
        }
    }

    /// The weights as one run, in the parameter table's order.
    pub fn weights(&self) -> View {
        View { offset: 0, len: self.table.arena_elements(), ..self.embedding }
    }

    /// The gradients as one run.
    pub fn gradients(&self) -> Option<View> {
        self.final_norm.gradient.map(|view| View { offset: 0, len: self.table.arena_elements(), ..view })
    }

    /// Fills the rotary tables; angles are computed in f64.
    pub fn write_constants<B: Backend>(&self, backend: &mut B) {
        let frequencies = self.config.rope.inverse_frequencies(self.config.head_dim);
        let angles = (0..self.positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        backend.write(self.cos, &cos);
        backend.write(self.sin, &sin);
    }

    /// Heads as attention sees them.
    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            query_heads: self.config.num_attention_heads,
            key_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    /// Queries, keys and values side by side in `[T, (N + 2K) D]`.
    pub fn split_qkv(&self, qkv: View) -> [Heads; 3] {
        let shape = self.attention_shape();
        let (q, k) = (shape.query_heads * shape.head_dim, shape.key_heads * shape.head_dim);
        [0, q, q + k].map(|column| Heads { view: qkv, stride: self.config.qkv_width(), column })
    }

    /// Rotates queries and keys in place.
    pub fn rotate<B: Backend>(&self, backend: &mut B, qkv: View, positions: View, rotation: Rotation) {
        let shape = self.attention_shape();
        backend.rope(Rope {
            x: qkv,
            stride: self.config.qkv_width(),
            heads: shape.query_heads + shape.key_heads,
            head_dim: shape.head_dim,
            positions,
            cos: self.cos,
            sin: self.sin,
            rotation,
        });
    }

    /// Token ids to the final hidden state, `activations.hidden`.
    pub fn forward<B: Backend>(&self, backend: &mut B, activations: &Activations, batch: &DeviceBatch) {
        self.forward_with(backend, activations, batch, |backend, model, _, layer| {
            model.attend(backend, batch, layer);
        });
    }

    /// Attention within the batch.
    pub(super) fn attend<B: Backend>(&self, backend: &mut B, batch: &DeviceBatch, keep: &LayerActivations) {
        let [q, k, v] = self.split_qkv(keep.qkv);
        backend.attention_forward(AttentionForward {
            q,
            k,
            v,
            segments: batch.segments,
            query_tiles: batch.query_tiles,
            out: keep.attention,
            lse: keep.attention_lse,
            shape: self.attention_shape(),
        });
    }

    /// The forward pass with attention given: training attends within the batch, generation to a cache.
    pub fn forward_with<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        attend: impl Fn(&mut B, &Self, usize, &LayerActivations),
    ) {
        let tokens = batch.ids.len;
        let cut = activations.cut(&self.config, tokens);
        let first = cut.layers[0];
        backend.embedding_forward(EmbeddingForward {
            ids: batch.ids,
            mix: batch.mix,
            table: self.embedding,
            out: first.stream,
            hidden: self.config.hidden_size,
        });
        for (index, (layer, keep)) in self.layers.iter().zip(&cut.layers).enumerate() {
            // The stream after a block is the sum that the next norm forms on its way.
            let residual = (index > 0).then(|| cut.layers[index - 1].middle);
            let x = if index > 0 { cut.branch } else { keep.stream };
            let (normed, rstd) = (keep.input_normed, keep.input_rstd);
            self.norm(backend, layer.input_norm, x, residual, keep.stream, normed, rstd);
            self.block(backend, layer, keep, batch.positions, cut.branch, |backend| {
                attend(backend, self, index, keep);
            });
            layer.down.forward(backend, keep.swiglu, cut.branch, tokens);
        }
        let residual = cut.layers.last().map(|layer| layer.middle);
        self.norm(backend, self.final_norm, cut.branch, residual, cut.last_stream, cut.hidden, cut.last_rstd);
    }

    /// A block from its first norm's output to the input of its last product; `branch` is overwritten.
    pub(super) fn block<B: Backend>(
        &self,
        backend: &mut B,
        layer: &Layer,
        keep: &LayerActivations,
        positions: View,
        branch: View,
        attend: impl FnOnce(&mut B),
    ) {
        let tokens = positions.len;
        layer.qkv.forward(backend, keep.input_normed, keep.qkv, tokens);
        self.rotate(backend, keep.qkv, positions, Rotation::Forward);
        attend(backend);
        layer.output.forward(backend, keep.attention, branch, tokens);
        let (normed, rstd) = (keep.middle_normed, keep.middle_rstd);
        self.norm(backend, layer.post_norm, branch, Some(keep.stream), keep.middle, normed, rstd);
        layer.gate_up.forward(backend, normed, keep.gate_up, tokens);
        self.gate(backend, keep);
    }

    /// The gated activation.
    pub(super) fn gate<B: Backend>(&self, backend: &mut B, keep: &LayerActivations) {
        let feed_forward = self.config.intermediate_size;
        backend.swiglu_forward(SwigluForward { gate_up: keep.gate_up, out: keep.swiglu, feed_forward });
    }

    /// A norm of what lies in the stream already.
    pub(super) fn norm_again<B: Backend>(&self, backend: &mut B, norm: Norm, x: View, out: View, rstd: View) {
        self.norm(backend, norm, x, None, x, out, rstd);
    }

    #[allow(clippy::too_many_arguments, reason = "the operation's operands, in order")]
    fn norm<B: Backend>(
        &self,
        backend: &mut B,
        norm: Norm,
        x: View,
        residual: Option<View>,
        sum: View,
        out: View,
        rstd: View,
    ) {
        backend.rmsnorm_forward(RmsnormForward {
            x,
            residual,
            sum: residual.map(|_| sum),
            weight: norm.weight,
            out,
            rstd,
            hidden: self.config.hidden_size,
            epsilon: self.config.rms_norm_eps as f32,
        });
    }
}
