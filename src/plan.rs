//! The memory plan: every tensor a run will ever take, listed before the first step.
//!
//! A plan is a pure function of configuration and batch budget. From its entries come the arenas' sizes, the views that
//! the model works on and the table of `asft plan`; no code takes device memory that is not in it. Tensors that are
//! needed in one phase of a step only share the scratch arena with those of the other phases.

use std::collections::BTreeMap;

use crate::backend::{ArenaId, Backend, BackendError, Element, View, WORKSPACE};

/// Where a tensor lies and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arena {
    /// The whole run: parameters, flat, in backward order.
    Weights,
    /// The whole run: what master weights have beyond stored bf16 ones, at the same offsets.
    Remainders,
    /// The whole run: their gradients at the same offsets.
    Gradients,
    /// The whole run: AdamW's first moments at the same offsets.
    FirstMoments,
    /// The whole run: AdamW's second moments at the same offsets.
    SecondMoments,
    /// The whole run: scales of 8-bit moments.
    MomentScales,
    /// The whole run: rotary tables, step state, key/value caches.
    Constants,
    /// One micro-batch: its ids, positions and lists.
    Batch,
    /// From the forward pass to the backward pass of one micro-batch.
    Saved,
    /// The forward pass only.
    Forward,
    /// The head only.
    Head,
    /// The backward pass only.
    Backward,
    /// Whenever a matrix product runs.
    Workspace,
}

/// All arenas in the order of the table.
pub const ARENAS: [Arena; 13] = [
    Arena::Weights,
    Arena::Remainders,
    Arena::Gradients,
    Arena::FirstMoments,
    Arena::SecondMoments,
    Arena::MomentScales,
    Arena::Constants,
    Arena::Batch,
    Arena::Saved,
    Arena::Forward,
    Arena::Head,
    Arena::Backward,
    Arena::Workspace,
];

impl Arena {
    /// Phases of a step share one arena: what one wrote is gone in the next.
    fn id(self) -> ArenaId {
        ArenaId(match self {
            Arena::Workspace => return WORKSPACE,
            Arena::Weights => 0,
            Arena::Gradients => 1,
            Arena::FirstMoments => 2,
            Arena::SecondMoments => 3,
            Arena::Constants => 4,
            Arena::Batch => 5,
            Arena::Saved => 6,
            Arena::Forward | Arena::Head | Arena::Backward => 7,
            Arena::Remainders => 9,
            Arena::MomentScales => 10,
        })
    }

    /// The name in the table.
    pub fn title(self) -> &'static str {
        match self {
            Arena::Weights => "weights",
            Arena::Remainders => "master weights' remainders",
            Arena::Gradients => "gradients",
            Arena::FirstMoments => "AdamW first moments",
            Arena::SecondMoments => "AdamW second moments",
            Arena::MomentScales => "scales of moments",
            Arena::Constants => "constants and state",
            Arena::Batch => "packed batch",
            Arena::Saved => "activations kept for backward",
            Arena::Forward => "forward scratch",
            Arena::Head => "head scratch",
            Arena::Backward => "backward scratch",
            Arena::Workspace => "matrix products' workspace",
        }
    }

    /// Whether a model that stands beside another one has an arena of its own for this.
    pub fn is_of_each_model(self) -> bool {
        matches!(self, Arena::Weights | Arena::Constants)
    }

    /// Whether this is one of the phases that share an arena.
    pub fn is_scratch(self) -> bool {
        matches!(self, Arena::Forward | Arena::Head | Arena::Backward)
    }
}

/// One tensor of the plan.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is, e.g. `layer 3 / gate and up`.
    pub name: String,
    /// Its arena and with it its lifetime.
    pub arena: Arena,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place.
    pub view: View,
}

/// Tensors start at multiples of this many bytes: two sectors' pairs of a GPU's cache, and more than any vector load
/// or bulk copy asks for.
const ALIGNMENT: usize = 128;

/// The list of all tensors.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlan {
    entries: Vec<Entry>,
    beside: Option<u32>,
}

/// The first number of the arenas of models that stand beside another one; each takes two.
const BESIDE: u32 = 16;

impl MemoryPlan {
    /// The plan of a model that stays on the device beside the one of another plan, the `index`-th of such models. Its weights and
    /// constants have arenas of their own; what lives for a micro-batch lies where the other model's does, and one overwrites
    /// the other.
    pub fn beside(index: usize) -> Self {
        Self { entries: Vec::new(), beside: Some(index as u32) }
    }

    fn id(&self, arena: Arena) -> ArenaId {
        match (self.beside, arena) {
            (Some(index), Arena::Weights) => ArenaId(BESIDE + 2 * index),
            (Some(index), Arena::Constants) => ArenaId(BESIDE + 2 * index + 1),
            _ => arena.id(),
        }
    }

    /// Adds a tensor behind the last one of its arena and says where it will lie.
    pub fn add(&mut self, arena: Arena, name: impl Into<String>, element: Element, shape: &[usize]) -> View {
        let offset = self.end(arena).next_multiple_of(ALIGNMENT) / element.bytes();
        let view = View { arena: self.id(arena), element, offset, len: shape.iter().product() };
        self.entries.push(Entry { name: name.into(), arena, shape: shape.to_vec(), view });
        view
    }

    /// All tensors, in the order in which they were added.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn end(&self, arena: Arena) -> usize {
        let last = self.entries.iter().rev().find(|entry| entry.arena == arena);
        last.map_or(0, |entry| entry.view.offset * entry.view.element.bytes() + entry.view.bytes())
    }

    /// Bytes of one arena (of one phase, for those that share).
    pub fn bytes(&self, arena: Arena) -> usize {
        self.end(arena)
    }

    /// Bytes of all arenas; phases that share memory count once, by the largest.
    pub fn total_bytes(&self) -> usize {
        total_bytes([self])
    }

    /// Takes all arenas from a backend, once.
    pub fn allocate<B: Backend>(&self, backend: &mut B) -> Result<(), BackendError> {
        allocate([self], backend)
    }
}

/// Bytes of the arenas that hold any of these plans at a time; what they share counts once, by the largest.
pub fn total_bytes<'a>(plans: impl IntoIterator<Item = &'a MemoryPlan>) -> usize {
    sizes(plans).values().sum()
}

/// Takes the arenas that hold any of these plans.
pub fn allocate<'a, B: Backend>(
    plans: impl IntoIterator<Item = &'a MemoryPlan>,
    backend: &mut B,
) -> Result<(), BackendError> {
    sizes(plans)
        .into_iter()
        .filter(|&(_, bytes)| bytes > 0)
        .try_for_each(|(arena, bytes)| backend.allocate(arena, bytes))
}

fn sizes<'a>(plans: impl IntoIterator<Item = &'a MemoryPlan>) -> BTreeMap<ArenaId, usize> {
    let mut sizes = BTreeMap::<ArenaId, usize>::new();
    for plan in plans {
        for arena in ARENAS {
            let size = sizes.entry(plan.id(arena)).or_default();
            *size = (*size).max(plan.bytes(arena));
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_aligned_and_phases_share() {
        let mut plan = MemoryPlan::default();
        let a = plan.add(Arena::Saved, "a", Element::F32, &[3]);
        let b = plan.add(Arena::Saved, "b", Element::F64, &[2]);
        assert_eq!((a.offset, b.offset), (0, 16));
        let forward = plan.add(Arena::Forward, "f", Element::F32, &[100]);
        let backward = plan.add(Arena::Backward, "g", Element::F32, &[50]);
        assert_eq!((forward.arena, forward.offset), (backward.arena, backward.offset));
        assert_eq!(plan.total_bytes(), 128 + 16 + 400);
    }

    #[test]
    fn a_model_beside_another_shares_all_but_weights_and_constants() {
        let mut plans = [MemoryPlan::default(), MemoryPlan::beside(0), MemoryPlan::beside(1)];
        let arenas = [Arena::Weights, Arena::Constants, Arena::Saved, Arena::Backward];
        let mut ids = std::collections::BTreeSet::new();
        for (plan, lengths) in plans.iter_mut().zip([[1, 2, 30, 10], [3, 4, 20, 0], [5, 6, 10, 50]]) {
            for (arena, len) in arenas.into_iter().zip(lengths) {
                let view = plan.add(arena, "a", Element::U8, &[len]);
                assert_eq!(view.offset, 0);
                ids.insert(view.arena);
            }
        }
        // Three of weights, three of constants, and two that are shared.
        assert_eq!(ids.len(), 8);
        assert_eq!(total_bytes(&plans), (1 + 3 + 5) + (2 + 4 + 6) + 30 + 50);
        assert_eq!(plans[1].total_bytes(), 3 + 4 + 20);
    }
}
