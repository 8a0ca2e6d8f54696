//! Views: where a tensor lies. A view is a number of an arena, an element type, an offset and a length; it owns
//! nothing and is copied freely. Shapes stay with the code that knows them.

use std::ops::Range;

/// The number of an arena: one contiguous piece of device memory, taken once from the memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArenaId(pub u32);

/// What a view's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float: gradients and statistics everywhere; weights and activations too unless they are [`Element::Bf16`].
    F32,
    /// bfloat16: weights and activations on a GPU.
    Bf16,
    /// 64-bit float: the few numbers of a step's state.
    F64,
    /// Unsigned 32-bit integer: token ids, positions, row lists.
    U32,
    /// Unsigned 16-bit integer: what a master weight has beyond its bf16 value.
    U16,
    /// Byte: codes of 8-bit optimizer state, workspace.
    U8,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::Bf16 | Element::U16 => 2,
            Element::F32 | Element::U32 => 4,
            Element::F64 => 8,
        }
    }

    /// The name used in the plan's table.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
            Element::F64 => "f64",
            Element::U32 => "u32",
            Element::U16 => "u16",
            Element::U8 => "u8",
        }
    }
}

/// A host type that a view's elements can be read into or written from.
pub trait Scalar: bytemuck::Pod + Send + Sync {
    /// The element type on the device.
    const ELEMENT: Element;
}

impl Scalar for f32 {
    const ELEMENT: Element = Element::F32;
}
impl Scalar for half::bf16 {
    const ELEMENT: Element = Element::Bf16;
}
impl Scalar for u16 {
    const ELEMENT: Element = Element::U16;
}
impl Scalar for u8 {
    const ELEMENT: Element = Element::U8;
}
impl Scalar for f64 {
    const ELEMENT: Element = Element::F64;
}
impl Scalar for u32 {
    const ELEMENT: Element = Element::U32;
}

/// A contiguous run of elements in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The arena it lies in.
    pub arena: ArenaId,
    /// What it holds.
    pub element: Element,
    /// First element, counted in elements of this view's type from the arena's start.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl View {
    /// The part of this view given by a range of elements.
    ///
    /// # Panics
    /// If the range does not lie within the view: a mistake of the caller, never of the user.
    pub fn slice(self, range: Range<usize>) -> View {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} is outside a view of {} elements",
            self.len
        );
        View { offset: self.offset + range.start, len: range.end - range.start, ..self }
    }

    /// The first `len` elements: a buffer planned for the largest batch, cut to this one.
    pub fn first(self, len: usize) -> View {
        self.slice(0..len)
    }

    /// Rows `rows` of a matrix of `width` columns.
    pub fn rows(self, rows: Range<usize>, width: usize) -> View {
        self.slice(rows.start * width..rows.end * width)
    }

    /// The same words under the name of f32, for an operation that only moves bits.
    ///
    /// # Panics
    /// If its elements are not of 4 bytes.
    pub fn as_f32(self) -> View {
        assert_eq!(self.element.bytes(), Element::F32.bytes(), "{self:?} has no elements of 4 bytes");
        View { element: Element::F32, ..self }
    }

    /// Bytes it covers.
    pub fn bytes(self) -> usize {
        self.len * self.element.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_slice_counts_from_the_arena() {
        let view = View { arena: ArenaId(0), element: Element::F32, offset: 100, len: 60 };
        let rows = view.rows(2..4, 10);
        assert_eq!((rows.offset, rows.len), (120, 20));
        assert_eq!(rows.slice(5..7).offset, 125);
        assert_eq!(view.first(3).bytes(), 12);
    }

    #[test]
    #[should_panic(expected = "outside a view")]
    fn a_slice_beyond_the_end_is_refused() {
        View { arena: ArenaId(0), element: Element::U32, offset: 0, len: 4 }.slice(2..5);
    }
}
