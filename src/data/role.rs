//! What an answer is to its prompt, and small collections by it.
//!
//! Boundary: names only; which roles a row has is found in [`super::encode`], which of them are packed says
//! [`super::batch::Spans`].

use std::ops::{Index, IndexMut};

/// What an answer is to its prompt, in the order in which a group's answers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Role {
    /// The preferred answer.
    Chosen,
    /// The answer it was preferred to.
    Rejected,
    /// An answer beside the pair: TPO's gold answer (`reference_response`).
    Third,
    /// The answer of a row that has one only, with a label or a score.
    Completion,
    /// Another row's completion, set behind this row's prompt: KTO's estimate of the drift. Scored, never learnt from.
    Mismatched,
    /// No answer of its own: tokens that two rows' answers share by position, scored from mixed hidden states
    /// ([`super::mixture`]).
    Mixed,
}

impl Role {
    /// Every role, in order.
    pub const ALL: [Role; 6] =
        [Role::Chosen, Role::Rejected, Role::Third, Role::Completion, Role::Mismatched, Role::Mixed];

    /// The role as a person reads it; for the first four also the name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Role::Chosen => "chosen",
            Role::Rejected => "rejected",
            Role::Third => "reference_response",
            Role::Completion => "completion",
            Role::Mismatched => "mismatched completion",
            Role::Mixed => "mixture",
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// No role.
    pub const NONE: Roles = Roles(0);
    /// The preferred answer alone.
    pub const CHOSEN: Roles = Roles::of(&[Role::Chosen]);
    /// A preference pair.
    pub const PAIR: Roles = Roles::of(&[Role::Chosen, Role::Rejected]);
    /// A row with one answer.
    pub const COMPLETION: Roles = Roles::of(&[Role::Completion]);
    /// Every role.
    pub const ALL: Roles = Roles::of(&Role::ALL);

    /// These roles.
    pub const fn of(roles: &[Role]) -> Roles {
        let (mut bits, mut index) = (0, 0);
        while index < roles.len() {
            bits |= 1 << roles[index] as u8;
            index += 1;
        }
        Roles(bits)
    }

    /// Whether the role is in the set.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// The roles of either set.
    pub const fn union(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// The set with the role in it or not.
    pub const fn with(self, role: Role, is_in: bool) -> Roles {
        let bit = 1 << role as u8;
        Roles(if is_in { self.0 | bit } else { self.0 & !bit })
    }

    /// Whether every role of the set is in the other.
    pub const fn is_within(self, other: Roles) -> bool {
        self.0 & !other.0 == 0
    }

    /// The roles, in order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

/// One value for each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(
    transparent,
    bound(serialize = "T: serde::Serialize", deserialize = "T: serde::de::DeserializeOwned")
)]
pub struct ByRole<T>([T; Role::ALL.len()]);

impl<T> ByRole<T> {
    /// What `value` gives for each role.
    pub fn from_fn(mut value: impl FnMut(Role) -> T) -> Self {
        ByRole(Role::ALL.map(&mut value))
    }

    /// These values, in the order of the roles.
    pub const fn new(values: [T; Role::ALL.len()]) -> Self {
        ByRole(values)
    }

    /// Every role with its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &T)> {
        Role::ALL.into_iter().zip(&self.0)
    }

    /// As [`ByRole::iter`], to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Role, &mut T)> {
        Role::ALL.into_iter().zip(&mut self.0)
    }

    /// The values of a function of each.
    pub fn map<U>(self, value: impl FnMut(T) -> U) -> ByRole<U> {
        ByRole(self.0.map(value))
    }
}

impl<T> ByRole<Option<T>> {
    /// The roles that have a value, with it.
    pub fn present(&self) -> impl Iterator<Item = (Role, &T)> {
        self.iter().filter_map(|(role, value)| Some((role, value.as_ref()?)))
    }
}

impl<T> Index<Role> for ByRole<T> {
    type Output = T;

    fn index(&self, role: Role) -> &T {
        &self.0[role as usize]
    }
}

impl<T> IndexMut<Role> for ByRole<T> {
    fn index_mut(&mut self, role: Role) -> &mut T {
        &mut self.0[role as usize]
    }
}
