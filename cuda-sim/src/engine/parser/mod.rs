//! Tokens to the syntax tree of `ast`. Resolves no names; refuses what is not PTX's grammar with line and column.

use crate::engine::ast::{FunctionAst, Initial, ModuleAst, Variable};
use crate::engine::error::{PtxError, PtxErrorKind};
use crate::engine::lexer::{Position, Token, TokenKind, tokenise};
use crate::engine::types::{Space, Type};

mod statements;

/// Operands and initialisers nest at most this deep, so that no text can exhaust the stack.
const MAX_NESTING: u32 = 32;

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<ModuleAst<'_>, PtxError> {
    let tokens = tokenise(text)?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    parser.module()
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: u32,
}

/// What a token is called in an error message.
fn describe(kind: TokenKind<'_>) -> String {
    match kind {
        TokenKind::Name(name) => format!("`{name}`"),
        TokenKind::Dot(name) => format!("`.{name}`"),
        TokenKind::Integer(value) => format!("`{value}`"),
        TokenKind::Float32(_) | TokenKind::Float64(_) => "a floating-point number".to_owned(),
        TokenKind::Text(text) => format!("\"{text}\""),
        TokenKind::Punctuation(character) => format!("`{character}`"),
        TokenKind::End => "the end of the text".to_owned(),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> TokenKind<'a> {
        self.tokens[self.at].kind
    }

    fn peek_at(&self, ahead: usize) -> TokenKind<'a> {
        self.tokens.get(self.at + ahead).map_or(TokenKind::End, |token| token.kind)
    }

    fn position(&self) -> Position {
        self.tokens[self.at].position
    }

    /// The current token; stays on the last one, which is the end.
    fn next(&mut self) -> TokenKind<'a> {
        let kind = self.peek();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        kind
    }

    fn expected<T>(&self, what: &str) -> Result<T, PtxError> {
        Err(self.position().syntax(format!("expected {what}, found {}", describe(self.peek()))))
    }

    fn accept(&mut self, character: char) -> bool {
        let found = self.peek() == TokenKind::Punctuation(character);
        if found {
            self.next();
        }
        found
    }

    fn accept_dot(&mut self, name: &str) -> bool {
        let found = self.peek() == TokenKind::Dot(name);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, character: char) -> Result<(), PtxError> {
        if self.accept(character) { Ok(()) } else { self.expected(&format!("`{character}`")) }
    }

    fn name(&mut self, what: &str) -> Result<&'a str, PtxError> {
        match self.peek() {
            TokenKind::Name(name) => {
                self.next();
                Ok(name)
            }
            _ => self.expected(what),
        }
    }

    fn integer(&mut self, what: &str) -> Result<u64, PtxError> {
        match self.peek() {
            TokenKind::Integer(value) => {
                self.next();
                Ok(value)
            }
            _ => self.expected(what),
        }
    }

    fn small_integer(&mut self, what: &str) -> Result<u32, PtxError> {
        let position = self.position();
        let value = self.integer(what)?;
        u32::try_from(value).map_err(|_| position.syntax(format!("{value} is too large for {what}")))
    }

    /// One to three numbers separated by commas; what is missing is 1.
    fn dimensions(&mut self, what: &str) -> Result<[u32; 3], PtxError> {
        let mut result = [1; 3];
        for (index, dimension) in result.iter_mut().enumerate() {
            if index > 0 && !self.accept(',') {
                break;
            }
            *dimension = self.small_integer(what)?;
        }
        Ok(result)
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, PtxError>) -> Result<T, PtxError> {
        if self.depth == MAX_NESTING {
            return Err(self.position().syntax("nested too deeply"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    // ---- module scope ----

    fn module(&mut self) -> Result<ModuleAst<'a>, PtxError> {
        let mut module = ModuleAst::default();
        if !self.accept_dot("version") {
            return self.expected("`.version`");
        }
        module.version = self.version()?;
        while self.peek() != TokenKind::End {
            self.module_item(&mut module)?;
        }
        Ok(module)
    }

    fn version(&mut self) -> Result<u32, PtxError> {
        // `8.8` is lexed as a decimal number.
        match self.peek() {
            TokenKind::Float64(bits) => {
                self.next();
                Ok((f64::from_bits(bits) * 10.0).round() as u32)
            }
            _ => self.expected("a version such as 8.8"),
        }
    }

    fn module_item(&mut self, module: &mut ModuleAst<'a>) -> Result<(), PtxError> {
        let position = self.position();
        let TokenKind::Dot(directive) = self.peek() else {
            if self.accept(';') {
                return Ok(());
            }
            return self.expected("a directive");
        };
        match directive {
            "target" => {
                self.next();
                module.target_position = position;
                loop {
                    let name = self.name("a target such as sm_90")?;
                    module.target.push(name);
                    if !self.accept(',') {
                        return Ok(());
                    }
                }
            }
            "address_size" => {
                self.next();
                match self.integer("64")? {
                    64 => Ok(()),
                    size => Err(position.error(
                        PtxErrorKind::Target,
                        format!("address size {size}; only 64-bit addresses are executed"),
                    )),
                }
            }
            "file" => {
                let file = self.file()?;
                module.files.push(file);
                Ok(())
            }
            "section" => self.section(),
            "pragma" => self.skip_to_semicolon(),
            _ => self.linked_item(module),
        }
    }

    fn file(&mut self) -> Result<(u32, &'a str), PtxError> {
        self.next();
        let index = self.small_integer("a file index")?;
        let TokenKind::Text(name) = self.peek() else { return self.expected("a file name") };
        self.next();
        while self.accept(',') {
            self.integer("a time stamp or size")?;
        }
        Ok((index, name))
    }

    /// Debug sections carry nothing that is executed.
    fn section(&mut self) -> Result<(), PtxError> {
        let start = self.position();
        while self.peek() != TokenKind::Punctuation('{') {
            if self.peek() == TokenKind::End {
                return Err(start.syntax("a section without a body"));
            }
            self.next();
        }
        while !self.accept('}') {
            if self.peek() == TokenKind::End {
                return Err(start.syntax("this section is never closed"));
            }
            self.next();
        }
        Ok(())
    }

    fn skip_to_semicolon(&mut self) -> Result<(), PtxError> {
        let start = self.position();
        while !self.accept(';') {
            if self.peek() == TokenKind::End {
                return Err(start.syntax("this directive has no `;`"));
            }
            self.next();
        }
        Ok(())
    }

    fn linked_item(&mut self, module: &mut ModuleAst<'a>) -> Result<(), PtxError> {
        let mut external = false;
        loop {
            match self.peek() {
                TokenKind::Dot("visible" | "weak") => {
                    self.next();
                }
                TokenKind::Dot("extern" | "common") => {
                    external = self.peek() == TokenKind::Dot("extern");
                    self.next();
                }
                TokenKind::Dot("entry" | "func") => {
                    let function = self.function()?;
                    module.functions.push(function);
                    return Ok(());
                }
                TokenKind::Dot(name) if Space::parse(name).is_some() => {
                    let variables = self.variables(external)?;
                    module.variables.extend(variables);
                    return Ok(());
                }
                TokenKind::Dot(name) => {
                    return Err(self
                        .position()
                        .unsupported(format!("the directive `.{name}` is not supported")));
                }
                _ => return self.expected("a variable or a function"),
            }
        }
    }

    // ---- variables ----

    /// `.space [.align n] [.v2] .type name[dims] [= init], ...;`
    fn variables(&mut self, external: bool) -> Result<Vec<Variable<'a>>, PtxError> {
        let mut result = Vec::new();
        let prefix = self.variable_prefix()?;
        loop {
            let mut variable = self.variable_name(&prefix, external)?;
            if self.accept('=') {
                self.initial(&mut variable.initial)?;
            }
            // `x[] = {...}` takes its size from the initialiser.
            if variable.bytes == 0 && !variable.initial.is_empty() {
                variable.bytes = prefix.ty.bytes() * variable.initial.len() as u64;
            }
            result.push(variable);
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(result)
    }

    fn variable_prefix(&mut self) -> Result<VariablePrefix, PtxError> {
        let TokenKind::Dot(space) = self.peek() else { return self.expected("a state space") };
        let Some(space) = Space::parse(space) else { return self.expected("a state space") };
        self.next();
        let mut alignment = None;
        let mut lanes = 1;
        loop {
            let position = self.position();
            let TokenKind::Dot(name) = self.peek() else { return self.expected("a type") };
            self.next();
            match name {
                "align" => {
                    let value = self.integer("an alignment")?;
                    if !value.is_power_of_two() || value > 4096 {
                        return Err(
                            position.semantic(format!("alignment {value} is no power of two up to 4096"))
                        );
                    }
                    alignment = Some(value);
                }
                "ptr" => self.pointer_attributes()?,
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "attribute" => {
                    self.expect('(')?;
                    while !self.accept(')') {
                        if self.peek() == TokenKind::End {
                            return self.expected("`)`");
                        }
                        self.next();
                    }
                }
                _ => {
                    let Some(ty) = Type::parse(name) else {
                        return Err(
                            position.unsupported(format!("`.{name}` is no type that is supported here"))
                        );
                    };
                    // A kernel parameter's pointer attributes follow its type.
                    if self.accept_dot("ptr") {
                        self.pointer_attributes()?;
                    }
                    let alignment = alignment.unwrap_or(ty.bytes() * lanes);
                    return Ok(VariablePrefix { space, ty, alignment, lanes });
                }
            }
        }
    }

    /// `.ptr .global .align 16` says what a pointer points to; it changes nothing.
    fn pointer_attributes(&mut self) -> Result<(), PtxError> {
        loop {
            match self.peek() {
                TokenKind::Dot("align") => {
                    self.next();
                    self.integer("an alignment")?;
                }
                TokenKind::Dot(name) if Space::parse(name).is_some() => {
                    self.next();
                }
                _ => return Ok(()),
            }
        }
    }

    fn variable_name(&mut self, prefix: &VariablePrefix, external: bool) -> Result<Variable<'a>, PtxError> {
        let position = self.position();
        let name = self.name("a variable's name")?;
        let mut bytes = prefix.ty.bytes() * prefix.lanes;
        while self.accept('[') {
            let length =
                if self.peek() == TokenKind::Punctuation(']') { 0 } else { self.integer("a length")? };
            self.expect(']')?;
            bytes = bytes
                .checked_mul(length)
                .filter(|bytes| *bytes < 1 << 40)
                .ok_or_else(|| position.semantic(format!("`{name}` is too large")))?;
        }
        let VariablePrefix { space, ty, alignment, .. } = *prefix;
        Ok(Variable { position, name, space, ty, alignment, bytes, external, initial: Vec::new() })
    }

    fn initial(&mut self, into: &mut Vec<Initial<'a>>) -> Result<(), PtxError> {
        if self.accept('{') {
            return self.nested(|parser| {
                while !parser.accept('}') {
                    parser.initial(into)?;
                    if !parser.accept(',') {
                        parser.expect('}')?;
                        break;
                    }
                }
                Ok(())
            });
        }
        let negative = self.accept('-');
        let position = self.position();
        let element = match self.next() {
            TokenKind::Integer(value) => Initial::Bits(if negative { value.wrapping_neg() } else { value }),
            TokenKind::Float32(bits) => Initial::Float32(bits ^ u32::from(negative) << 31),
            TokenKind::Float64(bits) => Initial::Float64(bits ^ u64::from(negative) << 63),
            TokenKind::Name("generic") if self.accept('(') => {
                let element = self.initial_address()?;
                self.expect(')')?;
                element
            }
            TokenKind::Name(name) => Initial::Address { name, offset: self.offset()? },
            other => {
                return Err(position.syntax(format!("expected an initial value, found {}", describe(other))));
            }
        };
        into.push(element);
        Ok(())
    }

    fn initial_address(&mut self) -> Result<Initial<'a>, PtxError> {
        let name = self.name("a variable's name")?;
        Ok(Initial::Address { name, offset: self.offset()? })
    }

    /// `+ n`, `- n`, `+ -n`, or nothing.
    fn offset(&mut self) -> Result<i64, PtxError> {
        let negative = if self.accept('+') {
            self.accept('-')
        } else if self.accept('-') {
            true
        } else {
            return Ok(0);
        };
        let value = self.integer("an offset")? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    // ---- functions ----

    fn function(&mut self) -> Result<FunctionAst<'a>, PtxError> {
        let is_entry = self.next() == TokenKind::Dot("entry");
        if self.accept_dot("attribute") {
            self.skip_parentheses()?;
        }
        let results =
            if self.peek() == TokenKind::Punctuation('(') { self.parameters()? } else { Vec::new() };
        let position = self.position();
        let name = self.name("a function's name")?;
        let parameters =
            if self.peek() == TokenKind::Punctuation('(') { self.parameters()? } else { Vec::new() };
        let mut function = FunctionAst {
            position,
            name,
            is_entry,
            results,
            parameters,
            max_threads: None,
            required_threads: None,
            required_cluster: None,
            min_blocks: None,
            max_registers: None,
            body: None,
        };
        self.function_directives(&mut function)?;
        if !self.accept(';') {
            function.body = Some(self.body()?);
        }
        Ok(function)
    }

    fn skip_parentheses(&mut self) -> Result<(), PtxError> {
        self.expect('(')?;
        while !self.accept(')') {
            if self.peek() == TokenKind::End {
                return self.expected("`)`");
            }
            self.next();
        }
        Ok(())
    }

    fn function_directives(&mut self, function: &mut FunctionAst<'a>) -> Result<(), PtxError> {
        while let TokenKind::Dot(name) = self.peek() {
            let position = self.position();
            self.next();
            match name {
                "maxntid" => function.max_threads = Some(self.dimensions("a number of threads")?),
                "reqntid" => function.required_threads = Some(self.dimensions("a number of threads")?),
                "reqnctapercluster" => {
                    function.required_cluster = Some(self.dimensions("a number of blocks")?)
                }
                "minnctapersm" => function.min_blocks = Some(self.integer("a number of blocks")?),
                "maxnreg" => function.max_registers = Some(self.integer("a number of registers")?),
                "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    self.integer("a number")?;
                }
                "explicitcluster" | "noreturn" | "blocksareclusters" => {}
                "pragma" => self.skip_to_semicolon()?,
                _ => {
                    let message = format!("the function directive `.{name}` is not supported");
                    return Err(position.unsupported(message));
                }
            }
        }
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable<'a>>, PtxError> {
        self.expect('(')?;
        let mut result = Vec::new();
        while !self.accept(')') {
            if !result.is_empty() {
                self.expect(',')?;
            }
            let prefix = match self.peek() {
                // Functions may take registers as parameters; they behave as parameter variables of that type.
                TokenKind::Dot("reg") => {
                    return Err(self.position().unsupported("register parameters are not supported"));
                }
                _ => self.variable_prefix()?,
            };
            let variable = self.variable_name(&prefix, false)?;
            result.push(variable);
        }
        Ok(result)
    }
}

struct VariablePrefix {
    space: Space,
    ty: Type,
    alignment: u64,
    lanes: u64,
}
