//! What stands in a function's body: declarations, labels, tables, instructions and their operands.

use super::{Parser, describe};
use crate::engine::ast::{Instruction, Operand, Statement, StatementKind};
use crate::engine::error::PtxError;
use crate::engine::lexer::TokenKind;
use crate::engine::types::{Space, Type};

impl<'a> Parser<'a> {
    pub(super) fn body(&mut self) -> Result<Vec<Statement<'a>>, PtxError> {
        let start = self.position();
        self.expect('{')?;
        let mut depth = 1u32;
        let mut body = Vec::new();
        loop {
            let position = self.position();
            let kind = match self.peek() {
                TokenKind::Punctuation('{') => {
                    self.next();
                    depth += 1;
                    StatementKind::Open
                }
                TokenKind::Punctuation('}') => {
                    self.next();
                    depth -= 1;
                    if depth == 0 {
                        return Ok(body);
                    }
                    StatementKind::Close
                }
                TokenKind::Punctuation(';') => {
                    self.next();
                    continue;
                }
                TokenKind::End => return Err(start.syntax("this function body is never closed")),
                TokenKind::Dot(name) => match self.directive(name)? {
                    Some(kind) => kind,
                    None => continue,
                },
                TokenKind::Name(name) if self.peek_at(1) == TokenKind::Punctuation(':') => {
                    self.next();
                    self.next();
                    self.labelled(name)?
                }
                _ => StatementKind::Instruction(self.instruction()?),
            };
            // `.local .b8 a[4], b[4];` gives several variables at once.
            body.push(Statement { position, kind });
        }
    }

    /// What follows a label: a table or prototype of that name, or anything else.
    fn labelled(&mut self, name: &'a str) -> Result<StatementKind<'a>, PtxError> {
        match self.peek() {
            TokenKind::Dot("branchtargets") => {
                self.next();
                let mut labels = Vec::new();
                loop {
                    labels.push(self.name("a label")?);
                    if !self.accept(',') {
                        break;
                    }
                }
                self.expect(';')?;
                Ok(StatementKind::BranchTargets { name, labels })
            }
            TokenKind::Dot("callprototype") => {
                self.next();
                if self.peek() == TokenKind::Punctuation('(') {
                    self.parameters()?;
                }
                self.name("`_`")?;
                if self.peek() == TokenKind::Punctuation('(') {
                    self.parameters()?;
                }
                while !self.accept(';') {
                    match self.peek() {
                        TokenKind::Dot("noreturn") => {
                            self.next();
                        }
                        _ => return self.expected("`;`"),
                    }
                }
                Ok(StatementKind::Prototype(name))
            }
            TokenKind::Dot("calltargets") => {
                self.skip_to_semicolon()?;
                Ok(StatementKind::Prototype(name))
            }
            _ => Ok(StatementKind::Label(name)),
        }
    }

    fn directive(&mut self, name: &'a str) -> Result<Option<StatementKind<'a>>, PtxError> {
        let position = self.position();
        match name {
            "reg" => {
                self.next();
                self.registers().map(Some)
            }
            "loc" => {
                self.next();
                let file = self.small_integer("a file index")?;
                let line = self.small_integer("a line")?;
                self.integer("a column")?;
                self.inlined_at()?;
                Ok(Some(StatementKind::Line { file, line }))
            }
            "pragma" => self.skip_to_semicolon().map(|()| None),
            "file" => self.file().map(|_| None),
            _ if Space::parse(name).is_some() => {
                let mut variables = self.variables(false)?;
                match (variables.pop(), variables.is_empty()) {
                    (Some(variable), true) => Ok(Some(StatementKind::Variable(variable))),
                    _ => Err(position.unsupported("several variables in one declaration inside a function")),
                }
            }
            _ => Err(position.unsupported(format!("the directive `.{name}` is not supported"))),
        }
    }

    /// `, function_name $L__info_string0 [+ n], inlined_at 1 20 3`
    fn inlined_at(&mut self) -> Result<(), PtxError> {
        while self.accept(',') {
            match self.name("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.name("a label")?;
                    self.offset()?;
                }
                _ => {
                    for _ in 0..3 {
                        self.integer("a number")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<StatementKind<'a>, PtxError> {
        let position = self.position();
        let TokenKind::Dot(name) = self.peek() else { return self.expected("a register type") };
        self.next();
        if matches!(name, "v2" | "v4") {
            return Err(position.unsupported("vector registers are not supported"));
        }
        let Some(ty) = Type::parse(name) else {
            return Err(position.syntax(format!("`.{name}` is no register type")));
        };
        let mut names = Vec::new();
        loop {
            let name = self.name("a register's name")?;
            let count = if self.accept('<') {
                let position = self.position();
                let count = self.small_integer("a number of registers")?;
                if count > 1 << 20 {
                    return Err(position.semantic(format!("{count} registers are too many")));
                }
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            names.push((name, count));
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(StatementKind::Registers { ty, names })
    }

    fn instruction(&mut self) -> Result<Instruction<'a>, PtxError> {
        let guard = if self.accept('@') {
            let negated = self.accept('!');
            Some((self.name("a predicate")?, negated))
        } else {
            None
        };
        let mnemonic = self.name("an instruction")?;
        let mut modifiers = Vec::new();
        while let TokenKind::Dot(modifier) = self.peek() {
            self.next();
            modifiers.push(modifier);
        }
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                operands.push(self.operand()?);
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        Ok(Instruction { guard, mnemonic, modifiers, operands })
    }

    fn operand(&mut self) -> Result<Operand<'a>, PtxError> {
        let first = self.nested(Self::simple_operand)?;
        if self.accept('|') {
            let second = self.nested(Self::simple_operand)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn operands_until(&mut self, close: char) -> Result<Vec<Operand<'a>>, PtxError> {
        let mut operands = Vec::new();
        while !self.accept(close) {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand()?);
        }
        Ok(operands)
    }

    fn simple_operand(&mut self) -> Result<Operand<'a>, PtxError> {
        let position = self.position();
        let operand = match self.next() {
            TokenKind::Name("_") => Operand::Sink,
            TokenKind::Name("WARP_SZ") => Operand::Integer(32),
            TokenKind::Name(name) => {
                let component = match self.peek() {
                    TokenKind::Dot(component) if name.starts_with('%') => {
                        self.next();
                        Some(component)
                    }
                    _ => None,
                };
                Operand::Name { name, component, offset: self.offset()? }
            }
            TokenKind::Integer(value) => Operand::Integer(value),
            TokenKind::Float32(bits) => Operand::Float32(bits),
            TokenKind::Float64(bits) => Operand::Float64(bits),
            TokenKind::Punctuation('!') => Operand::Not(Box::new(self.operand()?)),
            TokenKind::Punctuation('{') => Operand::Vector(self.operands_until('}')?),
            TokenKind::Punctuation('(') => Operand::List(self.operands_until(')')?),
            TokenKind::Punctuation('[') => self.address()?,
            TokenKind::Punctuation(sign @ ('-' | '~')) => {
                let position = self.position();
                match (sign, self.next()) {
                    ('-', TokenKind::Integer(value)) => Operand::Integer(value.wrapping_neg()),
                    ('-', TokenKind::Float32(bits)) => Operand::Float32(bits ^ 1 << 31),
                    ('-', TokenKind::Float64(bits)) => Operand::Float64(bits ^ 1 << 63),
                    ('~', TokenKind::Integer(value)) => Operand::Integer(!value),
                    (_, other) => {
                        return Err(position.syntax(format!("expected a number, found {}", describe(other))));
                    }
                }
            }
            other => return Err(position.syntax(format!("expected an operand, found {}", describe(other)))),
        };
        Ok(operand)
    }

    /// After the opening bracket.
    fn address(&mut self) -> Result<Operand<'a>, PtxError> {
        let (base, offset) = match self.simple_operand()? {
            Operand::Name { name, component, offset } => {
                (Operand::Name { name, component, offset: 0 }, offset)
            }
            Operand::Integer(value) => (Operand::Integer(value), 0),
            _ => return Err(self.position().syntax("an address is a register, a variable or a number")),
        };
        let coordinates =
            if self.accept(',') { Some(Box::new(self.nested(Self::simple_operand)?)) } else { None };
        self.expect(']')?;
        Ok(Operand::Address { base: Box::new(base), offset, coordinates })
    }
}
