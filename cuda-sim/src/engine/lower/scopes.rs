//! Names and what they stand for, scope by scope. Registers get their rows here, frame variables their offsets.

use crate::engine::types::{Space, Type};
use std::collections::HashMap;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Symbol {
    Register {
        ty: Type,
        row: u32,
    },
    /// A variable with a fixed address in its space.
    Variable {
        space: Space,
        address: u64,
    },
    /// A kernel's parameter at an offset of the parameter space.
    KernelParameter {
        address: u64,
    },
    /// A local variable or a call parameter in the frame.
    Frame {
        space: Space,
        offset: u32,
    },
    /// A function, by its index in the module.
    Function(u32),
    Label(u32),
    /// A branch table, by its index.
    Table(u32),
    Prototype,
}

/// Rows handed out so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rows {
    pub narrow: u32,
    pub wide: u32,
    pub predicates: u32,
    pub frame_bytes: u32,
}

/// All scopes of one function. Labels and declarations are entered before the instructions are decoded, scope by scope
/// in the order of their opening braces, so that forward references resolve.
pub(crate) struct Scopes<'a> {
    scopes: Vec<(Option<usize>, HashMap<String, Symbol>)>,
    current: usize,
    /// Scopes opened so far in this pass.
    opened: usize,
    pub rows: Rows,
    pub tables: Vec<Vec<&'a str>>,
}

impl<'a> Scopes<'a> {
    /// `outer` are the module's names.
    pub fn new(outer: HashMap<String, Symbol>) -> Self {
        Scopes {
            scopes: vec![(None, outer), (Some(0), HashMap::new())],
            current: 1,
            opened: 1,
            rows: Rows::default(),
            tables: Vec::new(),
        }
    }

    /// Enters the next scope of the text, making it in the first pass.
    pub fn open(&mut self) {
        self.opened += 1;
        if self.opened == self.scopes.len() {
            self.scopes.push((Some(self.current), HashMap::new()));
        }
        self.current = self.opened;
    }

    pub fn close(&mut self) {
        self.current = self.scopes[self.current].0.unwrap_or(0);
    }

    /// Back to the function's own scope, for the second pass.
    pub fn rewind(&mut self) {
        self.current = 1;
        self.opened = 1;
    }

    /// Enters a name; false if this scope has it already.
    pub fn declare(&mut self, name: String, symbol: Symbol) -> bool {
        self.scopes[self.current].1.insert(name, symbol).is_none()
    }

    /// Hands out a row for a register.
    pub fn register(&mut self, ty: Type) -> Symbol {
        let (counter, rows) = match ty {
            Type::Pred => (&mut self.rows.predicates, 1),
            _ if ty.bytes() == 16 => (&mut self.rows.wide, 2),
            _ if ty.bytes() == 8 => (&mut self.rows.wide, 1),
            _ => (&mut self.rows.narrow, 1),
        };
        let row = *counter;
        *counter += rows;
        Symbol::Register { ty, row }
    }

    /// Hands out bytes of the frame.
    pub fn frame(&mut self, bytes: u64, alignment: u64) -> u32 {
        let offset = u64::from(self.rows.frame_bytes).next_multiple_of(alignment.max(1));
        self.rows.frame_bytes = (offset + bytes).min(u64::from(u32::MAX)) as u32;
        offset as u32
    }

    pub fn lookup(&self, name: &str) -> Option<Symbol> {
        let mut scope = Some(self.current);
        while let Some(index) = scope {
            let (parent, names) = &self.scopes[index];
            if let Some(symbol) = names.get(name) {
                return Some(*symbol);
            }
            scope = *parent;
        }
        None
    }
}
