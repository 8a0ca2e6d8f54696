//! The backward pass of a Llama: the mirror of `llama.rs`, block by block from the last to the first.
//!
//! What the memory plan did not keep is computed again, layer by layer, with the operations of the forward pass and so with
//! the same bits.
//!
//! `accumulate` says whether weight gradients are added to what earlier micro-batches of the step left (or the head:
//! tied embeddings) instead of replacing it.

use super::activations::{Activations, BackwardActivations, DeviceBatch, LayerActivations, Recompute};
use super::llama::{Layer, Llama, Norm};
use crate::backend::{
    AttentionBackward, Backend, EmbeddingBackward, RmsnormBackward, Rotation, ScatterRows, SwigluBackward,
    View,
};

impl Llama {
    /// From the head's row gradients (`activations.head.dx`, scaled by the coefficients) to every parameter's gradient.
    /// `layer_done` is called with a layer's index when its gradients are final for this micro-batch.
    ///
    /// # Panics
    /// If the activations or the model were planned without gradients.
    pub fn backward<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &DeviceBatch,
        accumulate: bool,
        mut layer_done: impl FnMut(&mut B, usize),
    ) {
        let tokens = batch.ids.len;
        let cut = activations.cut(&self.config, tokens);
        let Some(scratch) = cut.backward else { panic!("planned for inference: no backward activations") };
        let h = self.config.hidden_size;
        let rows = batch.rows;
        backend.scatter_rows(ScatterRows {
            source: activations.head.dx.first(rows * h),
            offsets: batch.scatter_offsets,
            rows: batch.scatter_rows,
            weights: batch.mixed.map(|mixed| mixed.scatter_weights),
            scale: Some(activations.head.coefficients.first(rows)),
            out: scratch.dnormed,
            hidden: h,
        });
        let (x, rstd) = (cut.last_stream, cut.last_rstd);
        self.norm_backward(backend, self.final_norm, &scratch, x, rstd, None, scratch.dstream, accumulate);
        for (index, (layer, keep)) in self.layers.iter().zip(&cut.layers).enumerate().rev() {
            // What the last layer left is still there.
            if index + 1 < self.layers.len() {
                self.recompute(backend, activations.recompute, layer, keep, batch, &scratch);
            }
            self.feed_forward_backward(backend, layer, keep, &scratch, tokens, accumulate);
            self.attention_block_backward(backend, layer, keep, &scratch, batch, accumulate);
            layer_done(backend, index);
        }
        let Some(dtable) = self.embedding_gradient else { return };
        if !accumulate && !self.config.tie_word_embeddings {
            backend.zero(dtable);
        }
        backend.embedding_backward(EmbeddingBackward {
            token_ids: batch.token_ids,
            token_offsets: batch.token_offsets,
            token_rows: batch.token_rows,
            scale: batch.token_scale,
            dout: scratch.dstream,
            dtable,
            hidden: h,
        });
    }

    /// Brings back what the layers after this one have overwritten.
    fn recompute<B: Backend>(
        &self,
        backend: &mut B,
        recompute: Recompute,
        layer: &Layer,
        keep: &LayerActivations,
        batch: &DeviceBatch,
        scratch: &BackwardActivations,
    ) {
        if recompute == Recompute::Nothing {
            return;
        }
        self.norm_again(backend, layer.input_norm, keep.stream, keep.input_normed, keep.input_rstd);
        match recompute {
            Recompute::Nothing => {}
            Recompute::Norms => {
                self.norm_again(backend, layer.post_norm, keep.middle, keep.middle_normed, keep.middle_rstd);
                self.gate(backend, keep);
            }
            // The gradient of a norm's output is not needed yet: room for the branch.
            Recompute::Blocks => {
                self.block(backend, layer, keep, batch.positions, scratch.dnormed, |backend| {
                    self.attend(backend, batch, keep);
                });
            }
        }
    }

    /// `dstream` (of the block's output) to `dmiddle`.
    fn feed_forward_backward<B: Backend>(
        &self,
        backend: &mut B,
        layer: &Layer,
        keep: &LayerActivations,
        scratch: &BackwardActivations,
        tokens: usize,
        accumulate: bool,
    ) {
        layer.down.backward(backend, keep.swiglu, scratch.dstream, scratch.dswiglu, tokens, accumulate);
        backend.swiglu_backward(SwigluBackward {
            gate_up: keep.gate_up,
            dout: scratch.dswiglu,
            dgate_up: scratch.dgate_up,
            feed_forward: self.config.intermediate_size,
        });
        layer.gate_up.backward(
            backend,
            keep.middle_normed,
            scratch.dgate_up,
            scratch.dnormed,
            tokens,
            accumulate,
        );
        let (x, rstd, direct) = (keep.middle, keep.middle_rstd, Some(scratch.dstream));
        self.norm_backward(backend, layer.post_norm, scratch, x, rstd, direct, scratch.dmiddle, accumulate);
    }

    /// `dmiddle` to `dstream` (of the block's input).
    fn attention_block_backward<B: Backend>(
        &self,
        backend: &mut B,
        layer: &Layer,
        keep: &LayerActivations,
        scratch: &BackwardActivations,
        batch: &DeviceBatch,
        accumulate: bool,
    ) {
        let tokens = batch.ids.len;
        layer.output.backward(
            backend,
            keep.attention,
            scratch.dmiddle,
            scratch.dattention,
            tokens,
            accumulate,
        );
        let [q, k, v] = self.split_qkv(keep.qkv);
        backend.attention_backward(AttentionBackward {
            q,
            k,
            v,
            out: keep.attention,
            lse: keep.attention_lse,
            dout: scratch.dattention,
            dqkv: scratch.dqkv,
            delta: scratch.delta,
            segments: batch.segments,
            families: batch.families,
            query_tiles: batch.query_tiles,
            key_tiles: batch.key_tiles,
            shape: self.attention_shape(),
        });
        self.rotate(backend, scratch.dqkv, batch.positions, Rotation::Backward);
        layer.qkv.backward(backend, keep.input_normed, scratch.dqkv, scratch.dnormed, tokens, accumulate);
        let (x, rstd, direct) = (keep.stream, keep.input_rstd, Some(scratch.dmiddle));
        self.norm_backward(backend, layer.input_norm, scratch, x, rstd, direct, scratch.dstream, accumulate);
    }

    #[allow(clippy::too_many_arguments, reason = "the operation's operands, in order")]
    fn norm_backward<B: Backend>(
        &self,
        backend: &mut B,
        norm: Norm,
        scratch: &BackwardActivations,
        x: View,
        rstd: View,
        dresidual: Option<View>,
        dx: View,
        accumulate: bool,
    ) {
        backend.rmsnorm_backward(RmsnormBackward {
            dout: scratch.dnormed,
            x,
            weight: norm.weight,
            rstd,
            dresidual,
            dx,
            dweight: norm.gradient,
            partial: scratch.norm_partial,
            accumulate,
            hidden: self.config.hidden_size,
        });
    }
}
