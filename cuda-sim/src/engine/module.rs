//! A loaded module: its functions, their attributes, and where its globals lie.

use super::ast::{FunctionAst, Initial, ModuleAst, StatementKind, Variable};
use super::error::{PtxError, PtxErrorKind};
use super::ir::{FUNCTION_ADDRESS, Program};
use super::lower::{ModuleContext, Symbol, lower_kernel};
use super::memory::{Allocation, DeviceMemory};
use super::parser;
use super::types::Space;
use std::collections::HashMap;
use std::sync::Arc;

/// A function of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub(crate) usize);

/// Where one kernel parameter lies in the parameter space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterLayout {
    /// Offset in bytes from the first parameter.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// Alignment in bytes.
    pub alignment: usize,
}

/// What the driver tells about a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionAttributes {
    /// Most threads per block (`.maxntid`, or the device's limit).
    pub max_threads: u32,
    /// Threads per block demanded by `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// Statically declared shared memory in bytes.
    pub static_shared_bytes: u32,
    /// Local memory per thread in bytes, without that of called functions.
    pub local_bytes: u32,
    /// Constant memory of the module in bytes.
    pub const_bytes: u32,
    /// 32-bit registers per thread: an estimate from live ranges, at most what the launch bounds leave (255 without).
    pub registers: u32,
    /// PTX version times ten (`.version 8.8` is 88).
    pub ptx_version: u32,
    /// Compute capability the code was made for, times ten (`sm_90` is 90).
    pub binary_version: u32,
    /// Cluster dimensions demanded by `.reqnctapercluster`.
    pub required_cluster: Option<[u32; 3]>,
    /// Whether the function is a kernel (`.entry`).
    pub is_kernel: bool,
}

/// One kernel, ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub program: Program,
    pub attributes: FunctionAttributes,
    pub layout: Vec<ParameterLayout>,
}

/// A loaded PTX module. Its globals are freed when it is dropped.
#[derive(Debug)]
pub struct Module {
    pub(crate) text: String,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) files: HashMap<u32, String>,
    globals: HashMap<String, (u64, usize)>,
    memory: DeviceMemory,
    allocations: Vec<u64>,
}

impl Drop for Module {
    fn drop(&mut self) {
        for address in &self.allocations {
            // The program may have freed a global through the driver; nothing is left to do then.
            let _ = self.memory.free(*address);
        }
    }
}

impl Module {
    /// Parses and decodes `ptx` for a device of `compute_capability` (major, minor) and places the module's globals in
    /// `memory`.
    ///
    /// # Errors
    /// The first thing wrong with the text, with its line and column.
    pub fn load(
        ptx: &str,
        compute_capability: (u32, u32),
        memory: &DeviceMemory,
    ) -> Result<Module, PtxError> {
        Self::build(ptx, compute_capability, memory, None)
    }

    /// Every instruction of `ptx` that this engine refuses, instead of the first one only.
    ///
    /// # Errors
    /// What is wrong with the text apart from single instructions.
    pub fn refused_instructions(ptx: &str) -> Result<Vec<PtxError>, PtxError> {
        let mut errors = Vec::new();
        let memory = DeviceMemory::new(1 << 32);
        Self::build(ptx, (u32::MAX, 0), &memory, Some(&mut errors))?;
        Ok(errors)
    }

    fn build(
        ptx: &str,
        compute_capability: (u32, u32),
        memory: &DeviceMemory,
        mut errors: Option<&mut Vec<PtxError>>,
    ) -> Result<Module, PtxError> {
        let ast = parser::parse(ptx)?;
        let architecture = check_target(&ast, compute_capability)?;
        let mut module = Module {
            text: ptx.to_owned(),
            kernels: Vec::new(),
            files: ast.files.iter().map(|(index, name)| (*index, (*name).to_owned())).collect(),
            globals: HashMap::new(),
            memory: memory.clone(),
            allocations: Vec::new(),
        };
        let (context, const_bytes) = module.place_variables(&ast, architecture)?;
        for (index, function) in ast.functions.iter().enumerate() {
            if !function.is_entry || function.body.is_none() {
                continue;
            }
            let program = lower_kernel(&context, index, errors.as_deref_mut())?;
            let threads =
                |dims: Option<[u32; 3]>| dims.map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z));
            let limit = threads(function.required_threads).or(threads(function.max_threads));
            let attributes = FunctionAttributes {
                max_threads: limit.unwrap_or(1024).min(1024),
                required_threads: function.required_threads,
                static_shared_bytes: program.static_shared_bytes,
                local_bytes: program.functions[0].frame_bytes,
                const_bytes,
                registers: program
                    .functions
                    .iter()
                    .map(|f| f.live_registers)
                    .max()
                    .unwrap_or(0)
                    .clamp(1, register_limit(function, limit)),
                ptx_version: ast.version,
                binary_version: architecture,
                required_cluster: function.required_cluster,
                is_kernel: true,
            };
            let layout = program.parameters.iter().zip(&function.parameters);
            let layout = layout.map(|(parameter, variable)| ParameterLayout {
                offset: parameter.offset as usize,
                bytes: parameter.bytes as usize,
                alignment: variable.alignment as usize,
            });
            let layout = layout.collect();
            module.kernels.push(Kernel { name: function.name.to_owned(), program, attributes, layout });
        }
        Ok(module)
    }

    /// Gives every global and constant variable its memory and its initial value.
    fn place_variables<'m, 'a>(
        &mut self,
        ast: &'m ModuleAst<'a>,
        architecture: u32,
    ) -> Result<(ModuleContext<'m, 'a>, u32), PtxError> {
        let mut context = ModuleContext {
            ast,
            architecture,
            names: HashMap::new(),
            inner_variables: HashMap::new(),
            address_taken: Vec::new(),
        };
        for (index, function) in ast.functions.iter().enumerate() {
            // A declaration may come before the definition; the definition counts.
            let known = context.names.get(function.name);
            if known.is_none() || function.body.is_some() {
                context.names.insert(function.name.to_owned(), Symbol::Function(index as u32));
            }
        }
        let mut placed: Vec<(&Variable<'a>, Arc<Allocation>)> = Vec::new();
        let mut const_bytes = 0u64;
        let is_placed = |variable: &Variable<'a>| matches!(variable.space, Space::Global | Space::Const);
        for variable in ast.variables.iter().filter(|variable| is_placed(variable)) {
            let allocation = self.place(variable)?;
            let address = allocation.address;
            self.globals.insert(variable.name.to_owned(), (address, variable.bytes as usize));
            context
                .names
                .insert(variable.name.to_owned(), Symbol::Variable { space: variable.space, address });
            const_bytes += if variable.space == Space::Const { variable.bytes } else { 0 };
            placed.push((variable, allocation));
        }
        for (index, function) in ast.functions.iter().enumerate() {
            for (at, statement) in function.body.iter().flatten().enumerate() {
                if let StatementKind::Variable(variable) = &statement.kind
                    && is_placed(variable)
                {
                    let allocation = self.place(variable)?;
                    context.inner_variables.insert((index, at), allocation.address);
                    const_bytes += if variable.space == Space::Const { variable.bytes } else { 0 };
                    placed.push((variable, allocation));
                }
            }
        }
        for (variable, allocation) in placed {
            self.initialise(variable, &allocation, &mut context)?;
        }
        Ok((context, const_bytes.min(u64::from(u32::MAX)) as u32))
    }

    fn place(&mut self, variable: &Variable<'_>) -> Result<Arc<Allocation>, PtxError> {
        let memory_error = |message: String| variable.position.error(PtxErrorKind::Memory, message);
        if variable.external || variable.bytes == 0 {
            return Err(variable
                .position
                .semantic(format!("the variable `{}` is defined nowhere", variable.name)));
        }
        let read_only = variable.space == Space::Const;
        let allocation = self
            .memory
            .place(variable.bytes, variable.alignment, read_only)
            .map_err(|error| memory_error(format!("`{}`: {error}", variable.name)))?;
        self.allocations.push(allocation.address);
        allocation.mark_initialised(0, variable.bytes);
        Ok(allocation)
    }

    fn initialise(
        &self,
        variable: &Variable<'_>,
        allocation: &Allocation,
        context: &mut ModuleContext<'_, '_>,
    ) -> Result<(), PtxError> {
        let width = variable.ty.bytes() as usize;
        if variable.initial.len() * width > variable.bytes as usize {
            return Err(variable
                .position
                .semantic(format!("`{}` has too many initial values", variable.name)));
        }
        let mut bytes = Vec::with_capacity(variable.initial.len() * width);
        for element in &variable.initial {
            let bits = match *element {
                Initial::Bits(bits) => u128::from(bits),
                Initial::Float32(bits) if width == 8 => u128::from(f64::from(f32::from_bits(bits)).to_bits()),
                Initial::Float32(bits) => u128::from(bits),
                Initial::Float64(bits) if width == 4 => u128::from((f64::from_bits(bits) as f32).to_bits()),
                Initial::Float64(bits) => u128::from(bits),
                Initial::Address { name, offset } => {
                    u128::from(self.address_of(variable, name, offset, context)?)
                }
            };
            bytes.extend_from_slice(&bits.to_le_bytes()[..width]);
        }
        let write = |bytes: &[u8]| self.memory.write(allocation.address, bytes);
        write(&bytes).map_err(|error| variable.position.error(PtxErrorKind::Memory, error.to_string()))
    }

    fn address_of(
        &self,
        variable: &Variable<'_>,
        name: &str,
        offset: i64,
        context: &mut ModuleContext<'_, '_>,
    ) -> Result<u64, PtxError> {
        match context.names.get(name) {
            Some(Symbol::Variable { address, .. }) => Ok(address.wrapping_add(offset as u64)),
            Some(Symbol::Function(index)) => {
                let index = *index as usize;
                if context.ast.functions[index].body.is_some() && !context.address_taken.contains(&index) {
                    context.address_taken.push(index);
                }
                Ok(FUNCTION_ADDRESS + index as u64 * 16)
            }
            _ => Err(variable.position.semantic(format!("`{name}` has no address that is known here"))),
        }
    }

    /// The kernel of that name.
    pub fn function(&self, name: &str) -> Option<FunctionId> {
        self.kernels.iter().position(|kernel| kernel.name == name).map(FunctionId)
    }

    /// The names of all kernels, in the order of the text.
    pub fn functions(&self) -> impl Iterator<Item = (&str, FunctionId)> {
        self.kernels.iter().enumerate().map(|(index, kernel)| (kernel.name.as_str(), FunctionId(index)))
    }

    /// What the driver tells about a function.
    pub fn attributes(&self, function: FunctionId) -> FunctionAttributes {
        self.kernels[function.0].attributes.clone()
    }

    /// The layout of a kernel's parameters, in their order.
    pub fn parameters(&self, function: FunctionId) -> &[ParameterLayout] {
        &self.kernels[function.0].layout
    }

    /// Address and size in bytes of a module-scope variable.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        self.globals.get(name).copied()
    }

    /// A line of the text, from 1, without its margins.
    pub(crate) fn line(&self, number: u32) -> &str {
        self.text.lines().nth((number as usize).saturating_sub(1)).unwrap_or("").trim()
    }
}

/// Most registers that an assembler may give a thread: all `threads` of a block, and of as many blocks as the kernel wants
/// on a multiprocessor, must find room in its 65,536, which are handed out in eights per thread and four warps at a time.
fn register_limit(function: &FunctionAst<'_>, threads: Option<u32>) -> u32 {
    let threads = u64::from(threads.unwrap_or(0)).next_multiple_of(128);
    let share = match threads.saturating_mul(function.min_blocks.unwrap_or(1)) {
        0 => 255,
        threads => 65_536 / threads / 8 * 8,
    };
    share.min(function.max_registers.unwrap_or(255)).clamp(1, 255) as u32
}

/// Refuses what was made for a newer device; `sm_90a` runs on 9.0 alone, `sm_100f` on its family.
fn check_target(ast: &ModuleAst<'_>, (major, minor): (u32, u32)) -> Result<u32, PtxError> {
    let position = ast.target_position;
    let error = |message: String| position.error(PtxErrorKind::Target, message);
    let name = ast.target.first().copied().unwrap_or("");
    let digits =
        name.strip_prefix("sm_").ok_or_else(|| error(format!("`{name}` is no target this engine runs")))?;
    let number = digits.trim_end_matches(['a', 'f']);
    let wanted: u32 = number.parse().map_err(|_| error(format!("`{name}` is no target this engine runs")))?;
    let exact = digits.ends_with('a');
    if major == u32::MAX {
        return Ok(wanted);
    }
    let have = major * 10 + minor;
    if wanted > have || exact && wanted != have {
        return Err(error(format!("the text was made for {name}, the device is sm_{have}")));
    }
    Ok(wanted)
}
