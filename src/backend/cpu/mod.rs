//! The CPU backend: f32, f64 where a sum needs it; the embedded default and the reference of every kernel. Matrix
//! products can round their operands to bf16 ([`Operands`]); whatever is kept is f32 all the same.
//!
//! Work is split by tile or row, never by thread, and every reduction has one order: the same inputs give the same bits
//! for any number of threads.

mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_backward;
mod embedding;
mod gather;
mod gradient_norm;
mod head;
mod kernels;
mod matmul;
mod memory;
mod needed;
mod objective;
mod pack;
mod pages;
mod product;
mod rmsnorm;
mod rope;
mod simd;
mod swiglu;
mod times;

use kernels::Kernel;
pub use kernels::Operands;
use memory::Memory;
use product::Panels;
pub use simd::{LEVEL_VARIABLE, Level, Simd};
use times::{Timed, Times};

use rayon::prelude::*;

use crate::backend::*;

/// Bytes that one task copies.
const COPIED_BYTES: usize = 1 << 20;

/// The CPU as a device.
#[derive(Debug)]
pub struct CpuBackend {
    memory: Memory,
    panels: Panels,
    times: Times,
    pool: rayon::ThreadPool,
    simd: Simd,
    operands: Operands,
}

impl CpuBackend {
    /// A backend with its own worker threads; 0 means one per core.
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        Self::with_simd(threads, Simd::detect())
    }

    /// A backend at a given instruction-set level.
    pub fn with_simd(threads: usize, simd: Simd) -> Result<Self, BackendError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("asft-cpu-{index}"))
            .build()
            .map_err(|error| BackendError::Threads { threads, reason: error.to_string() })?;
        Ok(Self {
            memory: Memory::default(),
            panels: Panels::default(),
            times: Times::default(),
            pool,
            simd,
            operands: Operands::default(),
        })
    }

    /// The same backend with matrix products, attention's among them, that round their operands so.
    pub fn with_operands(self, operands: Operands) -> Self {
        Self { operands, ..self }
    }

    /// What matrix products make of their operands.
    pub fn operands(&self) -> Operands {
        self.operands
    }

    /// The instruction-set level in use.
    pub fn level(&self) -> Level {
        self.simd.level()
    }

    fn kernel(&self) -> &'static Kernel {
        kernels::select(self.simd, self.operands)
    }

    /// Worker threads in use.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&mut self, name: &'static str, work: impl FnOnce(Simd, &mut Memory) + Send) {
        let timed = Timed::start(name);
        let (simd, memory) = (self.simd, &mut self.memory);
        self.pool.install(|| work(simd, memory));
        self.times.end(timed);
    }
}

/// A copy that has already happened.
#[derive(Debug)]
pub struct CpuTicket(Vec<u8>);

impl Backend for CpuBackend {
    type Ticket = CpuTicket;

    const KIND: DeviceKind = DeviceKind::Cpu;

    fn name(&self) -> String {
        let name = |level: Level| format!("cpu {level:?}").to_lowercase();
        match self.operands {
            // The level with products of bf16 computes what the one without does.
            Operands::F32 if self.level() == Level::Avx512Bf16 => name(Level::Avx512),
            Operands::F32 => name(self.level()),
            Operands::Bf16 => format!("{}, products of bf16", name(self.level())),
        }
    }

    fn available_memory(&self) -> Option<u64> {
        memory::proc_kibibytes("/proc/meminfo", "MemAvailable:")
    }

    fn peak_memory(&self) -> Option<u64> {
        memory::proc_kibibytes("/proc/self/status", "VmHWM:")
    }

    fn operation_times(&mut self) -> Vec<OperationTime> {
        self.times.report()
    }

    fn allocate(&mut self, arena: ArenaId, bytes: usize) -> Result<(), BackendError> {
        self.memory.allocate(arena, bytes)
    }

    fn free(&mut self, arena: ArenaId) {
        self.memory.free(arena);
    }

    fn write<S: Scalar>(&mut self, to: View, values: &[S]) {
        self.memory.access().write::<S>(to).copy_from_slice(values);
    }

    fn read<S: Scalar>(&mut self, from: View, values: &mut [S]) -> Result<(), BackendError> {
        values.copy_from_slice(self.memory.access().read::<S>(from));
        Ok(())
    }

    fn read_later(&mut self, from: View) -> CpuTicket {
        CpuTicket(self.memory.bytes(from).to_vec())
    }

    fn collect<S: Scalar>(&mut self, ticket: CpuTicket) -> Result<Vec<S>, BackendError> {
        Ok(bytemuck::pod_collect_to_vec(&ticket.0))
    }

    fn zero(&mut self, view: View) {
        self.run("zero", |_, memory| {
            memory.bytes(view).par_chunks_mut(COPIED_BYTES).for_each(|part| part.fill(0))
        });
    }

    fn copy(&mut self, from: View, to: View) {
        assert_eq!(from.bytes(), to.bytes(), "a copy between views of different sizes");
        let bytes = |view: View| View {
            element: Element::U8,
            offset: view.offset * view.element.bytes(),
            len: view.bytes(),
            ..view
        };
        self.run("copy", |_, memory| {
            let mut access = memory.access();
            let (from, to) = (access.read::<u8>(bytes(from)), access.write::<u8>(bytes(to)));
            let parts = to.par_chunks_mut(COPIED_BYTES).zip(from.par_chunks(COPIED_BYTES));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
        });
    }

    fn embedding_forward(&mut self, arguments: EmbeddingForward) {
        self.run("embedding forward", |_, memory| embedding::forward(memory, arguments));
    }

    fn embedding_backward(&mut self, arguments: EmbeddingBackward) {
        self.run("embedding backward", |_, memory| embedding::backward(memory, arguments));
    }

    fn rmsnorm_forward(&mut self, arguments: RmsnormForward) {
        self.run("rmsnorm forward", |simd, memory| rmsnorm::forward(simd, memory, arguments));
    }

    fn rmsnorm_backward(&mut self, arguments: RmsnormBackward) {
        self.run("rmsnorm backward", |simd, memory| rmsnorm::backward(simd, memory, arguments));
    }

    fn rope(&mut self, arguments: Rope) {
        self.run("rope", |simd, memory| rope::rope(simd, memory, arguments));
    }

    fn attention_forward(&mut self, arguments: AttentionForward) {
        let kernel = self.kernel();
        self.run("attention forward", |simd, memory| attention::forward(simd, kernel, memory, arguments));
    }

    fn attention_backward(&mut self, arguments: AttentionBackward) {
        let kernel = self.kernel();
        self.run("attention backward", |simd, memory| {
            attention_backward::backward(simd, kernel, memory, arguments)
        });
    }

    fn swiglu_forward(&mut self, arguments: SwigluForward) {
        self.run("swiglu forward", |simd, memory| swiglu::forward(simd, memory, arguments));
    }

    fn swiglu_backward(&mut self, arguments: SwigluBackward) {
        self.run("swiglu backward", |simd, memory| swiglu::backward(simd, memory, arguments));
    }

    fn matmul(&mut self, arguments: Matmul) {
        let (kernel, threads) = (self.kernel(), self.threads());
        let timed = Timed::product(&arguments);
        let Self { memory, panels, pool, .. } = self;
        pool.install(|| matmul::matmul(kernel, threads, panels, memory, arguments));
        self.times.end(timed);
    }

    fn gather_rows(&mut self, arguments: GatherRows) {
        self.run("gather rows", |_, memory| gather::gather(memory, arguments));
    }

    fn scatter_rows(&mut self, arguments: ScatterRows) {
        self.run("scatter rows", |_, memory| gather::scatter(memory, arguments));
    }

    fn copy_rows(&mut self, arguments: CopyRows) {
        self.run("copy rows", |_, memory| gather::copy(memory, arguments));
    }

    fn target_logits(&mut self, arguments: TargetLogits) {
        self.run("head target logits", |simd, memory| head::target_logits(simd, memory, arguments));
    }

    fn head_statistics(&mut self, arguments: HeadStatistics) {
        self.run("head statistics", |simd, memory| head::statistics(simd, memory, arguments));
    }

    fn head_rows(&mut self, arguments: HeadRows) {
        self.run("head rows", |simd, memory| head::rows(simd, memory, arguments));
    }

    fn objective(&mut self, arguments: ObjectiveCoefficients<'_>) {
        let timed = Timed::start("objective");
        objective::coefficients(&mut self.memory, arguments);
        self.times.end(timed);
    }

    fn gradient_norm(&mut self, arguments: GradientNorm) {
        self.run("gradient norm", |simd, memory| gradient_norm::gradient_norm(simd, memory, arguments));
    }

    fn adamw(&mut self, arguments: Adamw) {
        self.run("adamw", |simd, memory| adamw::adamw(simd, memory, arguments));
    }
}
