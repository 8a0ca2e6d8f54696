//! The CUDA backend: one device, one compute stream, hand-written kernels in `kernels/` and cublasLt for the products.
//!
//! Everything is enqueued; the first error is kept and comes back from whoever waits next ([`Backend::read`],
//! [`Backend::collect`]). Arithmetic is f32 without TF32.

mod adamw;
mod attention;
mod embedding;
mod gather;
mod gradient_norm;
mod head;
pub mod images;
mod kernels;
mod launch;
pub mod libraries;
mod matmul;
pub mod nvrtc;
mod objective;
mod rmsnorm;
mod rope;
mod swiglu;

pub use kernels::HEAD_SIZES;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};

use crate::backend::*;

/// Host values of at most so many bytes go through pinned memory: those of a step. Weights do not, which are read once.
const STAGED_BYTES: usize = 4 << 20;

/// A device and all that lies on it.
#[derive(Debug)]
pub struct CudaBackend {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: kernels::Kernels,
    products: matmul::Products,
    arenas: BTreeMap<ArenaId, Memory>,
    /// Pinned buffers that no ticket holds.
    idle: Vec<PinnedHostSlice<u8>>,
    /// Pinned buffers that are being copied to the device, the oldest first.
    uploads: VecDeque<(PinnedHostSlice<u8>, CudaEvent)>,
    /// How often the host has waited for the device.
    waits: u64,
    error: Option<BackendError>,
}

/// An allocation on the device.
#[derive(Debug)]
struct Memory {
    address: CUdeviceptr,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `malloc_sync` in this context and freed once. Freeing waits for the device, and an error
        // of the context has been or will be told by whoever waits.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}

/// A copy to the host that is under way.
#[derive(Debug)]
pub struct CudaTicket {
    buffer: Option<PinnedHostSlice<u8>>,
    event: Option<CudaEvent>,
    bytes: usize,
}

fn failed(operation: impl Into<String>) -> impl FnOnce(DriverError) -> BackendError {
    let operation = operation.into();
    move |error| BackendError::Device { operation, reason: error.to_string() }
}

impl CudaBackend {
    /// A backend on the context's device.
    pub fn new(context: Arc<CudaContext>) -> Result<Self, BackendError> {
        // SAFETY: nothing has been allocated yet, and this backend orders its work by one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        let kernels = kernels::Kernels::load(&context)?;
        let products = matmul::Products::new(&context)?;
        Ok(Self {
            context,
            stream,
            kernels,
            products,
            arenas: BTreeMap::new(),
            idle: Vec::new(),
            uploads: VecDeque::new(),
            waits: 0,
            error: None,
        })
    }

    /// The address of a view's first element.
    fn at(&self, view: View) -> u64 {
        let arena =
            self.arenas.get(&view.arena).unwrap_or_else(|| panic!("{:?} has not been allocated", view.arena));
        let start = view.offset * view.element.bytes();
        assert!(
            start + view.bytes() <= arena.bytes,
            "{view:?} ends beyond its arena of {} bytes",
            arena.bytes
        );
        arena.address + start as u64
    }

    /// The address of a view, or null.
    fn at_or_null(&self, view: Option<View>) -> u64 {
        view.map_or(0, |view| self.at(view))
    }

    /// Keeps the first error for whoever waits next.
    fn keep(&mut self, operation: &str, outcome: Result<(), DriverError>) {
        if let Err(error) = outcome
            && self.error.is_none()
        {
            self.error = Some(failed(operation)(error));
        }
    }

    fn check(&mut self) -> Result<(), BackendError> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// How often the host has waited for the device.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// Waits for everything enqueued so far.
    fn wait(&mut self) -> Result<(), BackendError> {
        self.waits += 1;
        let waited = self.stream.synchronize();
        self.keep("cuStreamSynchronize", waited);
        self.check()
    }

    fn pinned(&mut self, bytes: usize) -> Result<PinnedHostSlice<u8>, BackendError> {
        if let Some(index) = self.idle.iter().position(|buffer| buffer.len() >= bytes) {
            return Ok(self.idle.swap_remove(index));
        }
        // SAFETY: bytes need no initialisation by anybody: they are read only after a copy has filled them. Flags 0:
        // ordinary memory, fast to read on the host.
        unsafe { self.context.alloc_pinned_with_flags(bytes.next_power_of_two(), 0) }
            .map_err(failed("cuMemHostAlloc"))
    }

    /// Copies through pinned memory, so that the host goes on at once.
    fn upload(&mut self, address: CUdeviceptr, bytes: &[u8]) -> Result<(), BackendError> {
        while self.uploads.front().is_some_and(|(_, copied)| copied.is_complete()) {
            self.idle.extend(self.uploads.pop_front().map(|(buffer, _)| buffer));
        }
        let mut buffer = self.pinned(bytes.len())?;
        let staged = buffer.as_mut_slice().map_err(failed("waiting for a pinned buffer"))?;
        staged[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the caller's view lies within its arena; the pinned buffer is kept until the event has happened.
        unsafe { result::memcpy_htod_async(address, &staged[..bytes.len()], self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyHtoDAsync"))?;
        let event = self.stream.record_event(None).map_err(failed("cuEventRecord"))?;
        self.uploads.push_back((buffer, event));
        Ok(())
    }

    fn start_copy(&mut self, from: View) -> Result<CudaTicket, BackendError> {
        let bytes = from.bytes();
        let mut buffer = self.pinned(bytes)?;
        let source = self.at(from);
        let target = buffer.as_mut_slice().map_err(failed("waiting for a pinned buffer"))?;
        // SAFETY: the view lies within its arena; the pinned buffer lives in the ticket until the event has happened.
        let copied =
            unsafe { result::memcpy_dtoh_async(&mut target[..bytes], source, self.stream.cu_stream()) };
        copied.map_err(failed("cuMemcpyDtoHAsync"))?;
        let event = self.stream.record_event(None).map_err(failed("cuEventRecord"))?;
        Ok(CudaTicket { buffer: Some(buffer), event: Some(event), bytes })
    }
}

impl Backend for CudaBackend {
    type Ticket = CudaTicket;

    const KIND: DeviceKind = DeviceKind::Cuda;

    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "cuda".to_owned())
    }

    fn available_memory(&self) -> Option<u64> {
        self.context.mem_get_info().ok().map(|(free, _)| free as u64)
    }

    fn peak_memory(&self) -> Option<u64> {
        // Arenas are taken once, so what is held is the peak.
        Some(self.arenas.values().map(|arena| arena.bytes as u64).sum())
    }

    fn allocate(&mut self, arena: ArenaId, bytes: usize) -> Result<(), BackendError> {
        self.arenas.remove(&arena);
        let bytes = bytes.max(1);
        let refused =
            |error: DriverError| BackendError::OutOfMemory { arena, bytes, reason: error.to_string() };
        self.context.bind_to_thread().map_err(refused)?;
        // SAFETY: any size may be asked for.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(refused)?;
        self.arenas.insert(arena, Memory { address, bytes, context: self.context.clone() });
        // SAFETY: the allocation above, whole.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemsetD8Async"))
    }

    fn free(&mut self, arena: ArenaId) {
        self.arenas.remove(&arena);
    }

    fn write<S: Scalar>(&mut self, to: View, values: &[S]) {
        assert_eq!((to.element, to.len), (S::ELEMENT, values.len()), "values that are not the view's");
        if values.is_empty() {
            return;
        }
        let address = self.at(to);
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.len() <= STAGED_BYTES {
            if let Err(error) = self.upload(address, bytes) {
                self.error.get_or_insert(error);
            }
            return;
        }
        // SAFETY: the view lies within its arena. From pageable memory the driver has read `values` when the call returns.
        let copied = unsafe { result::memcpy_htod_async(address, values, self.stream.cu_stream()) };
        self.keep("cuMemcpyHtoDAsync", copied);
    }

    fn read<S: Scalar>(&mut self, from: View, values: &mut [S]) -> Result<(), BackendError> {
        assert_eq!((from.element, from.len), (S::ELEMENT, values.len()), "values that are not the view's");
        if values.is_empty() {
            return self.check();
        }
        let address = self.at(from);
        // SAFETY: the view lies within its arena, and `wait` comes before `values` can go.
        let copied = unsafe { result::memcpy_dtoh_async(values, address, self.stream.cu_stream()) };
        self.keep("cuMemcpyDtoHAsync", copied);
        self.wait()
    }

    fn read_later(&mut self, from: View) -> CudaTicket {
        self.start_copy(from).unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            CudaTicket { buffer: None, event: None, bytes: 0 }
        })
    }

    fn collect<S: Scalar>(&mut self, ticket: CudaTicket) -> Result<Vec<S>, BackendError> {
        self.check()?;
        let (Some(buffer), Some(event)) = (ticket.buffer, ticket.event) else { return Ok(Vec::new()) };
        self.waits += u64::from(!event.is_complete());
        event.synchronize().map_err(failed("cuEventSynchronize"))?;
        let bytes = buffer.as_slice().map_err(failed("waiting for a pinned buffer"))?;
        let values = bytemuck::pod_collect_to_vec(&bytes[..ticket.bytes]);
        self.idle.push(buffer);
        Ok(values)
    }

    fn zero(&mut self, view: View) {
        if view.len == 0 {
            return;
        }
        let address = self.at(view);
        // SAFETY: the view lies within its arena.
        let zeroed = unsafe { result::memset_d8_async(address, 0, view.bytes(), self.stream.cu_stream()) };
        self.keep("cuMemsetD8Async", zeroed);
    }

    fn copy(&mut self, from: View, to: View) {
        assert_eq!(from.bytes(), to.bytes(), "a copy between views of different sizes");
        let (source, target, bytes) = (self.at(from), self.at(to), from.bytes());
        // SAFETY: both views lie within their arenas, of one length.
        let copied = unsafe { result::memcpy_dtod_async(target, source, bytes, self.stream.cu_stream()) };
        self.keep("cuMemcpyDtoDAsync", copied);
    }

    fn embedding_forward(&mut self, arguments: EmbeddingForward) {
        embedding::forward(self, arguments);
    }

    fn embedding_backward(&mut self, arguments: EmbeddingBackward) {
        embedding::backward(self, arguments);
    }

    fn rmsnorm_forward(&mut self, arguments: RmsnormForward) {
        rmsnorm::forward(self, arguments);
    }

    fn rmsnorm_backward(&mut self, arguments: RmsnormBackward) {
        rmsnorm::backward(self, arguments);
    }

    fn rope(&mut self, arguments: Rope) {
        rope::rope(self, arguments);
    }

    fn attention_forward(&mut self, arguments: AttentionForward) {
        attention::forward(self, arguments);
    }

    fn attention_backward(&mut self, arguments: AttentionBackward) {
        attention::backward(self, arguments);
    }

    fn swiglu_forward(&mut self, arguments: SwigluForward) {
        swiglu::forward(self, arguments);
    }

    fn swiglu_backward(&mut self, arguments: SwigluBackward) {
        swiglu::backward(self, arguments);
    }

    fn matmul(&mut self, arguments: Matmul) {
        matmul::matmul(self, arguments);
    }

    fn gather_rows(&mut self, arguments: GatherRows) {
        gather::gather(self, arguments);
    }

    fn scatter_rows(&mut self, arguments: ScatterRows) {
        gather::scatter(self, arguments);
    }

    fn copy_rows(&mut self, arguments: CopyRows) {
        gather::copy(self, arguments);
    }

    fn target_logits(&mut self, arguments: TargetLogits) {
        head::target_logits(self, arguments);
    }

    fn head_statistics(&mut self, arguments: HeadStatistics) {
        head::statistics(self, arguments);
    }

    fn head_rows(&mut self, arguments: HeadRows) {
        head::rows(self, arguments);
    }

    fn objective(&mut self, arguments: ObjectiveCoefficients<'_>) {
        objective::coefficients(self, arguments);
    }

    fn gradient_norm(&mut self, arguments: GradientNorm) {
        gradient_norm::gradient_norm(self, arguments);
    }

    fn adamw(&mut self, arguments: Adamw) {
        adamw::adamw(self, arguments);
    }
}
