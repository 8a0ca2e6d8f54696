//! Whole functions: declarations first, then instructions, then layout. One program per kernel, with its own copy of
//! every function that it can reach, because shared variables have other addresses in every kernel.

use super::Decoder;
use super::ranges::LiveRanges;
use super::scopes::{Scopes, Symbol};
use super::targets;
use crate::engine::ast::{FunctionAst, Instruction as Ast, ModuleAst, Operand, StatementKind, Variable};
use crate::engine::error::PtxError;
use crate::engine::flow;
use crate::engine::ir::{Class, Function, Instruction, Operation, Parameter, Program};
use crate::engine::registers::Condition;
use crate::engine::types::Space;
use std::collections::{HashMap, HashSet};

/// What every kernel of a module shares.
pub(crate) struct ModuleContext<'m, 'a> {
    pub ast: &'m ModuleAst<'a>,
    /// The text's target: 80 for `sm_80`.
    pub architecture: u32,
    /// Module-scope variables in global and constant space, and functions.
    pub names: HashMap<String, Symbol>,
    /// Addresses of global and constant variables declared inside functions, by function and statement.
    pub inner_variables: HashMap<(usize, usize), u64>,
    /// Functions whose address an initialiser takes; every kernel may call them.
    pub address_taken: Vec<usize>,
}

/// Lowers one kernel. With `errors`, unsupported instructions are collected there and lowered to nothing, which is what
/// the coverage listing wants; without it the first one ends the lowering.
pub(crate) fn lower_kernel(
    context: &ModuleContext<'_, '_>,
    kernel: usize,
    errors: Option<&mut Vec<PtxError>>,
) -> Result<Program, PtxError> {
    let mut lowering = KernelLowering::new(context, kernel, errors)?;
    lowering.run()
}

pub(crate) struct KernelLowering<'c, 'm, 'a> {
    context: &'c ModuleContext<'m, 'a>,
    /// Reachable functions by module index, the kernel first.
    order: Vec<usize>,
    /// Shared variables of module scope.
    shared_names: HashMap<String, Symbol>,
    /// Addresses of shared variables declared inside functions, by function and statement.
    inner_shared: HashMap<(usize, usize), u64>,
    static_shared: u64,
    errors: Option<&'c mut Vec<PtxError>>,
}

/// Every name in an instruction's operands.
fn for_names<'a>(operands: &[Operand<'a>], each: &mut dyn FnMut(&'a str)) {
    for operand in operands {
        match operand {
            Operand::Name { name, .. } => each(name),
            Operand::Vector(inner) | Operand::List(inner) => for_names(inner, each),
            Operand::Not(inner) => for_names(std::slice::from_ref(inner), each),
            Operand::Address { base, .. } => for_names(std::slice::from_ref(base), each),
            Operand::Pair(a, b) => {
                for_names(std::slice::from_ref(a), each);
                for_names(std::slice::from_ref(b), each);
            }
            _ => {}
        }
    }
}

fn instructions<'f, 'a>(function: &'f FunctionAst<'a>) -> impl Iterator<Item = &'f Ast<'a>> {
    function.body.iter().flatten().filter_map(|statement| match &statement.kind {
        StatementKind::Instruction(instruction) => Some(instruction),
        _ => None,
    })
}

/// Takes room for a variable; returns its address.
fn place(cursor: &mut u64, variable: &Variable<'_>) -> u64 {
    let address = cursor.next_multiple_of(variable.alignment.max(1));
    *cursor = address + variable.bytes;
    address
}

impl<'c, 'm, 'a> KernelLowering<'c, 'm, 'a> {
    fn new(
        context: &'c ModuleContext<'m, 'a>,
        kernel: usize,
        errors: Option<&'c mut Vec<PtxError>>,
    ) -> Result<Self, PtxError> {
        let order = reachable(context, kernel);
        let mut lowering = KernelLowering {
            context,
            order,
            shared_names: HashMap::new(),
            inner_shared: HashMap::new(),
            static_shared: 0,
            errors,
        };
        lowering.place_shared();
        Ok(lowering)
    }

    /// Static shared variables in the order of the text, then the unsized ones, which all start at the same place.
    fn place_shared(&mut self) {
        let functions = &self.context.ast.functions;
        let mut used = HashSet::new();
        for &index in &self.order {
            for instruction in instructions(&functions[index]) {
                for_names(&instruction.operands, &mut |name| {
                    used.insert(name);
                });
            }
        }
        let mut cursor = 0;
        let mut unsized_alignment = 1;
        let is_shared =
            |variable: &&Variable<'a>| variable.space == Space::Shared && used.contains(variable.name);
        for variable in self.context.ast.variables.iter().filter(is_shared) {
            if variable.bytes == 0 {
                unsized_alignment = unsized_alignment.max(variable.alignment);
                continue;
            }
            let address = place(&mut cursor, variable);
            let symbol = Symbol::Variable { space: Space::Shared, address };
            self.shared_names.insert(variable.name.to_owned(), symbol);
        }
        for &index in &self.order {
            for (at, statement) in functions[index].body.iter().flatten().enumerate() {
                if let StatementKind::Variable(variable) = &statement.kind
                    && variable.space == Space::Shared
                {
                    let address = place(&mut cursor, variable);
                    self.inner_shared.insert((index, at), address);
                }
            }
        }
        self.static_shared = cursor;
        // Dynamic shared memory starts right behind the static part, aligned as its declarations ask.
        let address = cursor.next_multiple_of(unsized_alignment);
        for variable in
            self.context.ast.variables.iter().filter(is_shared).filter(|variable| variable.bytes == 0)
        {
            let symbol = Symbol::Variable { space: Space::Shared, address };
            self.shared_names.insert(variable.name.to_owned(), symbol);
        }
        if address > cursor {
            self.static_shared = address;
        }
    }

    fn run(&mut self) -> Result<Program, PtxError> {
        let mut functions = Vec::new();
        let mut by_module_index = vec![None; self.context.ast.functions.len()];
        for (local, &index) in self.order.iter().enumerate() {
            by_module_index[index] = Some(local as u32);
        }
        let mut parameter_bytes = 0;
        for index in self.order.clone() {
            let ast = &self.context.ast.functions[index];
            let function = FunctionLowering { kernel: self, ast, index, ranges: LiveRanges::default() }
                .run(&by_module_index, &mut parameter_bytes)?;
            functions.push(function);
        }
        let parameters = functions[0].parameters.clone();
        let static_shared_bytes = u32::try_from(self.static_shared).map_err(|_| {
            self.context.ast.functions[self.order[0]].position.semantic("the shared variables are too large")
        })?;
        Ok(Program { functions, by_module_index, static_shared_bytes, parameter_bytes, parameters })
    }
}

/// The kernel and everything with a body that it names, directly or not.
fn reachable(context: &ModuleContext<'_, '_>, kernel: usize) -> Vec<usize> {
    let functions = &context.ast.functions;
    let mut order = vec![kernel];
    order.extend(context.address_taken.iter().copied().filter(|index| *index != kernel));
    let mut at = 0;
    while at < order.len() {
        for instruction in instructions(&functions[order[at]]) {
            for_names(&instruction.operands, &mut |name| {
                if let Some(Symbol::Function(index)) = context.names.get(name) {
                    let index = *index as usize;
                    if functions[index].body.is_some() && !order.contains(&index) {
                        order.push(index);
                    }
                }
            });
        }
        at += 1;
    }
    order
}

struct FunctionLowering<'k, 'c, 'm, 'a> {
    kernel: &'k mut KernelLowering<'c, 'm, 'a>,
    ast: &'m FunctionAst<'a>,
    index: usize,
    ranges: LiveRanges,
}

impl<'a> FunctionLowering<'_, '_, '_, 'a> {
    fn run(
        mut self,
        by_module_index: &[Option<u32>],
        parameter_bytes: &mut u32,
    ) -> Result<Function, PtxError> {
        let mut names = self.kernel.context.names.clone();
        names.extend(self.kernel.shared_names.iter().map(|(name, symbol)| (name.clone(), *symbol)));
        let mut scopes = Scopes::new(names);
        let (results, parameters) = self.parameters(&mut scopes, parameter_bytes)?;
        let mut labels = self.declare(&mut scopes)?;
        scopes.rewind();
        let mut code = self.instructions(&mut scopes, &mut labels)?;
        code.push(Instruction {
            guard: None,
            operation: if self.ast.is_entry { Operation::Exit } else { Operation::Return },
            class: Class::Control,
            line: self.ast.position.line,
            source: (0, 0),
        });
        for instruction in &mut code {
            if let Operation::Call(call) = &mut instruction.operation
                && let super::super::ir::Callee::Function(index) = &mut call.callee
            {
                let position = self.ast.position;
                *index = by_module_index[*index as usize]
                    .ok_or_else(|| position.semantic("a call to a function without a body"))?;
            }
        }
        let live_registers = self.ranges.most_alive(&code, &labels);
        let code = flow::lay_out(code, &labels);
        let rows = scopes.rows;
        Ok(Function {
            code,
            narrow: rows.narrow,
            wide: rows.wide,
            predicates: rows.predicates,
            frame_bytes: rows.frame_bytes.next_multiple_of(16),
            parameters,
            results,
            live_registers,
        })
    }

    fn parameters(
        &self,
        scopes: &mut Scopes<'a>,
        parameter_bytes: &mut u32,
    ) -> Result<(Vec<Parameter>, Vec<Parameter>), PtxError> {
        let mut lists = [Vec::new(), Vec::new()];
        for (list, variables) in lists.iter_mut().zip([&self.ast.results, &self.ast.parameters]) {
            for variable in variables {
                if variable.space != Space::Param {
                    return Err(variable.position.semantic("a parameter must be in the `.param` space"));
                }
                let (bytes, alignment) = (variable.bytes, variable.alignment);
                let (offset, symbol) = if self.ast.is_entry {
                    let offset = u64::from(*parameter_bytes).next_multiple_of(alignment.max(1));
                    *parameter_bytes = (offset + bytes).min(u64::from(u32::MAX)) as u32;
                    (offset as u32, Symbol::KernelParameter { address: offset })
                } else {
                    let offset = scopes.frame(bytes, alignment);
                    (offset, Symbol::Frame { space: Space::Param, offset })
                };
                list.push(Parameter { offset, bytes: bytes as u32 });
                if !scopes.declare(variable.name.to_owned(), symbol) {
                    return Err(variable.position.semantic(format!("`{}` is declared twice", variable.name)));
                }
            }
        }
        let [results, parameters] = lists;
        Ok((results, parameters))
    }

    /// First pass: every declaration and label. Returns room for the labels' places.
    fn declare(&mut self, scopes: &mut Scopes<'a>) -> Result<Vec<u32>, PtxError> {
        let mut labels = 0;
        for (at, statement) in self.ast.body.iter().flatten().enumerate() {
            let position = statement.position;
            let enter = |scopes: &mut Scopes<'a>, name: String, symbol| {
                let message = format!("`{name}` is declared twice");
                if scopes.declare(name, symbol) { Ok(()) } else { Err(position.semantic(message)) }
            };
            match &statement.kind {
                StatementKind::Open => scopes.open(),
                StatementKind::Close => scopes.close(),
                StatementKind::Label(name) => {
                    enter(scopes, (*name).to_owned(), Symbol::Label(labels))?;
                    labels += 1;
                }
                StatementKind::Registers { ty, names } => {
                    for (name, count) in names {
                        for number in 0..count.unwrap_or(1) {
                            let full =
                                if count.is_some() { format!("{name}{number}") } else { (*name).to_owned() };
                            let symbol = scopes.register(*ty);
                            enter(scopes, full, symbol)?;
                        }
                    }
                }
                StatementKind::Variable(variable) => {
                    let symbol = self.variable(scopes, variable, at)?;
                    enter(scopes, variable.name.to_owned(), symbol)?;
                }
                StatementKind::BranchTargets { name, labels } => {
                    scopes.tables.push(labels.clone());
                    let table = Symbol::Table(scopes.tables.len() as u32 - 1);
                    enter(scopes, (*name).to_owned(), table)?;
                }
                StatementKind::Prototype(name) => enter(scopes, (*name).to_owned(), Symbol::Prototype)?,
                StatementKind::Line { .. } | StatementKind::Instruction(_) => {}
            }
        }
        Ok(vec![0; labels as usize])
    }

    fn variable(
        &self,
        scopes: &mut Scopes<'a>,
        variable: &Variable<'a>,
        at: usize,
    ) -> Result<Symbol, PtxError> {
        let space = variable.space;
        match space {
            Space::Local | Space::Param => {
                let offset = scopes.frame(variable.bytes, variable.alignment);
                Ok(Symbol::Frame { space, offset })
            }
            Space::Shared => {
                let address = self.kernel.inner_shared.get(&(self.index, at)).copied();
                let address =
                    address.ok_or_else(|| variable.position.semantic("this variable was not placed"))?;
                Ok(Symbol::Variable { space, address })
            }
            Space::Global | Space::Const => {
                let address = self.kernel.context.inner_variables.get(&(self.index, at)).copied();
                let address =
                    address.ok_or_else(|| variable.position.semantic("this variable was not placed"))?;
                Ok(Symbol::Variable { space, address })
            }
            _ => Err(variable.position.semantic("no variable can be in this space")),
        }
    }

    /// Second pass: the instructions, and where the labels are.
    fn instructions(
        &mut self,
        scopes: &mut Scopes<'a>,
        labels: &mut [u32],
    ) -> Result<Vec<Instruction>, PtxError> {
        let mut code = Vec::new();
        let mut source = (0, 0);
        for statement in self.ast.body.iter().flatten() {
            match &statement.kind {
                StatementKind::Open => scopes.open(),
                StatementKind::Close => scopes.close(),
                StatementKind::Line { file, line } => source = (*file, *line),
                StatementKind::Label(name) => {
                    if let Some(Symbol::Label(label)) = scopes.lookup(name) {
                        labels[label as usize] = code.len() as u32;
                    }
                }
                StatementKind::Instruction(ast) => {
                    let position = statement.position;
                    for_names(&ast.operands, &mut |name| {
                        if let Some(Symbol::Register { ty, row }) = scopes.lookup(name) {
                            self.ranges.touch(ty, row, code.len() as u32);
                        }
                    });
                    let decoded = Decoder::new(scopes, ast, position, self.ast.is_entry).decode();
                    // What is not executed at all is said first.
                    let decoded = decoded.and_then(|decoded| {
                        targets::check(ast, position, self.kernel.context.architecture).map(|()| decoded)
                    });
                    let (class, operation) = match (decoded, self.kernel.errors.as_deref_mut()) {
                        (Ok(decoded), _) => decoded,
                        (Err(error), Some(errors)) => {
                            errors.push(error);
                            continue;
                        }
                        (Err(error), None) => return Err(error),
                    };
                    let guard = self.guard(scopes, ast, position)?;
                    code.push(Instruction { guard, operation, class, line: position.line, source });
                }
                _ => {}
            }
        }
        Ok(code)
    }

    fn guard(
        &self,
        scopes: &Scopes<'a>,
        ast: &Ast<'a>,
        position: crate::engine::lexer::Position,
    ) -> Result<Option<Condition>, PtxError> {
        let Some((name, negated)) = ast.guard else { return Ok(None) };
        match scopes.lookup(name) {
            Some(Symbol::Register { ty: crate::engine::types::Type::Pred, row }) => {
                Ok(Some(Condition::Predicate { index: row, negated }))
            }
            _ => Err(position.semantic(format!("the guard `{name}` is no predicate"))),
        }
    }
}
