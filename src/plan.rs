//! The memory plan: every tensor a run will ever take, listed before the first step.
//!
//! A plan is a pure function of configuration and batch budget. From its entries come the arenas' sizes, the views that
//! the model works on and the table of `asft plan`; no code takes device memory that is not in it. Tensors that are
//! needed in one phase of a step only share the scratch arena with those of the other phases.

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
}

impl MemoryPlan {
    /// Adds a tensor behind the last one of its arena and says where it will lie.
    pub fn add(&mut self, arena: Arena, name: impl Into<String>, element: Element, shape: &[usize]) -> View {
        let offset = self.end(arena).next_multiple_of(ALIGNMENT) / element.bytes();
        let view = View { arena: arena.id(), element, offset, len: shape.iter().product() };
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
        let scratch = ARENAS.iter().filter(|arena| arena.is_scratch()).map(|&arena| self.bytes(arena)).max();
        let lasting: usize =
            ARENAS.iter().filter(|arena| !arena.is_scratch()).map(|&arena| self.bytes(arena)).sum();
        lasting + scratch.unwrap_or(0)
    }

    /// Takes all arenas from a backend, once.
    pub fn allocate<B: Backend>(&self, backend: &mut B) -> Result<(), BackendError> {
        let mut sizes = std::collections::BTreeMap::<ArenaId, usize>::new();
        for arena in ARENAS {
            let size = sizes.entry(arena.id()).or_default();
            *size = (*size).max(self.bytes(arena));
        }
        sizes
            .into_iter()
            .filter(|&(_, bytes)| bytes > 0)
            .try_for_each(|(arena, bytes)| backend.allocate(arena, bytes))
    }
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
}
