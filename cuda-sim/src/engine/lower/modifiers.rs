//! The modifiers of one instruction, taken one by one until none is left over.

use crate::engine::types::Type;

/// Modifiers not yet understood, in their order.
pub(crate) struct Modifiers<'a> {
    left: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn new(all: &[&'a str]) -> Self {
        Modifiers { left: all.to_vec() }
    }

    /// Takes a modifier if it is there.
    pub fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|modifier| *modifier == name) {
            Some(index) => {
                self.left.remove(index);
                true
            }
            None => false,
        }
    }

    /// Takes every modifier of a list; for hints that change nothing.
    pub fn take_all(&mut self, names: &[&str]) {
        self.left.retain(|modifier| !names.contains(modifier));
    }

    /// Takes every modifier with one of these beginnings; for hints that change nothing.
    pub fn take_prefixed(&mut self, prefixes: &[&str]) {
        self.left.retain(|modifier| !prefixes.iter().any(|prefix| modifier.starts_with(prefix)));
    }

    /// Takes the first modifier that the function knows.
    pub fn take_map<T>(&mut self, known: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (index, value) =
            self.left.iter().enumerate().find_map(|(index, name)| Some((index, known(name)?)))?;
        self.left.remove(index);
        Some(value)
    }

    /// Takes the first modifier of all.
    pub fn take_first(&mut self) -> Option<&'a str> {
        if self.left.is_empty() { None } else { Some(self.left.remove(0)) }
    }

    pub fn next_type(&mut self) -> Option<Type> {
        self.take_map(Type::parse)
    }

    pub fn left_over(&self) -> Option<&'a str> {
        self.left.first().copied()
    }
}
