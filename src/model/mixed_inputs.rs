//! Inputs mixed with the model's own predictions ([`Inputs`]): a forward pass without gradients, the most probable token for
//! every scored one, and the lists by which the embedding's gradient finds both.
//!
//! The predictions never leave the device on the way to the inputs. Where the table learns from them, they are read as well:
//! the gradient is summed over a list that is sorted by token, and that is made on the host.

use super::activations::{Activations, Budget, DeviceBatch};
use super::llama::Llama;
use crate::backend::{Backend, CopyRows, Element, EmbeddingMix, View};
use crate::data::Batch;
use crate::objective::Inputs;
use crate::plan::{Arena, MemoryPlan};

/// Room for what is mixed into the inputs of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct MixedInputs {
    /// `[T]`: every token, scored ones as predicted.
    ids: View,
    /// `[R]`: the packed row of each scored token.
    places: View,
    /// The gradient's, where the table has one.
    lists: Option<Lists>,
}

/// The rows by token id, those with two ids under each of them.
#[derive(Clone, Copy, Debug)]
struct Lists {
    token_ids: View,
    token_offsets: View,
    token_rows: View,
    token_scale: View,
}

impl MixedInputs {
    /// Adds the room to a plan, if these inputs need any.
    pub fn plan(plan: &mut MemoryPlan, budget: Budget, inputs: Inputs) -> Option<Self> {
        if !inputs.are_predicted() {
            return None;
        }
        let (t, r) = (budget.tokens.next_multiple_of(budget.rungs.tokens), budget.padded_rows());
        let mut add = |name, element, len| plan.add(Arena::Batch, name, element, &[len]);
        Some(Self {
            ids: add("mixed token ids", Element::U32, t),
            places: add("places of scored tokens", Element::U32, r),
            lists: inputs.train_embedding.then(|| Lists {
                token_ids: add("distinct mixed token ids", Element::U32, t + r),
                token_offsets: add("mixed token offsets", Element::U32, t + r + 1),
                token_rows: add("token-sorted mixed rows", Element::U32, t + r),
                token_scale: add("shares of mixed rows", Element::F32, t + r),
            }),
        })
    }
}

impl Llama {
    /// Finds what is mixed into the inputs of a micro-batch, by a forward pass that overwrites `activations`, and notes it in
    /// `device` for the one that follows. Gives the predictions `[R]` on their way to the host where
    /// [`Activations::sort_mixed_tokens`] needs them. Does nothing for inputs that are not predicted.
    ///
    /// # Panics
    /// If the activations were planned for other inputs.
    pub fn mix_inputs<B: Backend>(
        &self,
        backend: &mut B,
        activations: &Activations,
        batch: &Batch,
        device: &mut DeviceBatch,
        inputs: Inputs,
    ) -> Option<B::Ticket> {
        if !inputs.are_predicted() {
            return None;
        }
        let Some(mixed) = activations.mixed_inputs else { panic!("planned for inputs that are not mixed") };
        self.forward(backend, activations, device);
        self.score(backend, activations, device);
        let (ids, places) = (mixed.ids.first(device.ids.len), mixed.places.first(device.rows));
        let predicted = activations.head.argmax.first(device.rows);
        backend.copy(device.ids, ids);
        backend.write(places, &batch.places());
        backend.copy_rows(CopyRows {
            source: predicted.as_f32(),
            source_stride: 1,
            source_column: 0,
            rows: places,
            out: ids.as_f32(),
            out_stride: 1,
            out_column: 0,
            width: 1,
        });
        device.mix = Some(EmbeddingMix { ids, weight: inputs.predicted as f32 });
        self.embedding_gradient.map(|_| backend.read_later(predicted))
    }
}

impl Activations {
    /// Replaces the token-sorted lists of a batch by those of its mixed inputs, from the predictions `[R]`.
    ///
    /// # Panics
    /// If its inputs are not mixed, or were planned without a gradient.
    pub fn sort_mixed_tokens<B: Backend>(
        &self,
        backend: &mut B,
        batch: &Batch,
        predicted: &[u32],
        device: &mut DeviceBatch,
    ) {
        let lists = self.mixed_inputs.and_then(|mixed| mixed.lists);
        let (Some(mix), Some(lists)) = (device.mix, lists) else {
            panic!("planned for inputs that are not mixed, or have no gradient")
        };
        let sorted = MixedTokens::new(batch, predicted, mix.weight);
        let mut put = |view: View, values: &[u32]| {
            let view = view.first(values.len());
            backend.write(view, values);
            view
        };
        device.token_ids = put(lists.token_ids, &sorted.ids);
        device.token_offsets = put(lists.token_offsets, &sorted.offsets);
        device.token_rows = put(lists.token_rows, &sorted.rows);
        let token_scale = lists.token_scale.first(sorted.scale.len());
        backend.write(token_scale, &sorted.scale);
        device.token_scale = Some(token_scale);
    }
}

/// What [`Batch`] has as `token_ids`, `token_offsets` and `token_rows`, of mixed rows.
#[derive(Debug, Default, PartialEq)]
struct MixedTokens {
    ids: Vec<u32>,
    offsets: Vec<u32>,
    rows: Vec<u32>,
    /// The share of the row that is of this id.
    scale: Vec<f32>,
}

impl MixedTokens {
    /// A row whose token was predicted has one id and counts in full.
    fn new(batch: &Batch, predicted: &[u32], weight: f32) -> Self {
        let mut entries: Vec<(u32, u32, f32)> =
            batch.ids.iter().zip(0..).map(|(&id, row)| (id, row, 1.0)).collect();
        for (place, &id) in batch.places().into_iter().zip(predicted) {
            if batch.ids[place as usize] != id {
                entries[place as usize].2 = 1.0 - weight;
                entries.push((id, place, weight));
            }
        }
        entries.sort_unstable_by_key(|&(id, row, _)| (id, row));
        let mut sorted = Self::default();
        for (id, row, scale) in entries {
            if sorted.ids.last() != Some(&id) {
                sorted.ids.push(id);
                sorted.offsets.push(sorted.rows.len() as u32);
            }
            sorted.rows.push(row);
            sorted.scale.push(scale);
        }
        sorted.offsets.push(sorted.rows.len() as u32);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Answer, Group, Role, Roles, Spans, pack};

    fn group(prompt: &[u32], chosen: &[u32], scored: Option<Vec<bool>>) -> Group {
        let answer = Answer { role: Role::Chosen, ids: chosen.to_vec(), scored, text: None };
        Group { row: 0, prompt: prompt.to_vec(), answers: vec![answer], annotations: None }
    }

    /// Rows 0..6: 5 3 | 3 9 4 and 7 | 5, whose last answer token is a turn's end; 9 is context only.
    #[test]
    fn a_mixed_row_is_listed_under_both_of_its_ids_once() {
        let groups = [group(&[5, 3], &[3, 9, 4], Some(vec![true, false, true])), group(&[7], &[5], None)];
        let batch = pack(&groups.iter().collect::<Vec<_>>(), Spans { prompt: false, answers: Roles::CHOSEN });
        assert_eq!(batch.places(), [2, 4, 6]);
        // The first token was predicted, the second taken for 3, which others have, the third for 8, which nobody has.
        let sorted = MixedTokens::new(&batch, &[3, 3, 8], 0.25);
        let expected = MixedTokens {
            ids: vec![3, 4, 5, 7, 8, 9],
            offsets: vec![0, 3, 4, 6, 7, 8, 9],
            rows: vec![1, 2, 4, 4, 0, 6, 5, 6, 3],
            scale: vec![1.0, 1.0, 0.25, 0.75, 1.0, 0.75, 1.0, 0.25, 1.0],
        };
        assert_eq!(sorted, expected);
        let same = MixedTokens::new(&batch, &[3, 4, 5], 0.25);
        let plain = (same.ids, same.offsets, same.rows);
        assert_eq!(plain, (batch.token_ids, batch.token_offsets, batch.token_rows));
        assert!(same.scale.iter().all(|scale| *scale == 1.0));
    }
}
