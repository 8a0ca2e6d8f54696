//! Matrix products through cublasLt: an algorithm is chosen once per layer and layout, descriptors are made once per shape.
//!
//! cublasLt thinks in columns: a row-major C = A B is computed as C^T = B^T A^T, so the operands change places. f32
//! products do not use TF32, and everything accumulates in f32.
//!
//! **Batch invariance**: which algorithm computes a row must not depend on how many rows are in the batch. So the
//! algorithm is asked for at one canonical number of tokens, whatever the batch has, and split-K, which would add in
//! another order, is excluded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaContext;

use super::CudaBackend;
use crate::backend::{Backend, BackendError, Element, Layout, Matmul, WORKSPACE};

/// The number of tokens for which algorithms are chosen.
const CANONICAL_TOKENS: usize = 4096;

/// The handle, the algorithms and every plan made so far.
#[derive(Debug)]
pub struct Products {
    handle: sys::cublasLtHandle_t,
    /// By canonical shape.
    algorithms: HashMap<Shape, sys::cublasLtMatmulAlgo_t>,
    /// Of the odd shapes that the canonical one's algorithm does not compute.
    own: HashMap<Shape, sys::cublasLtMatmulAlgo_t>,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the handle is used by one backend at a time, through `&mut`; cublasLt does not tie it to a thread.
unsafe impl Send for Products {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    /// Elements from one row of A to the next.
    a_stride: usize,
    /// What the address of A is a multiple of where it is some columns of a matrix.
    a_alignment: u32,
    /// Of A and B.
    operands: Element,
    /// Of C.
    result: Element,
    /// Bytes to work in.
    workspace: usize,
}

impl Shape {
    /// The same product for the canonical number of tokens.
    fn canonical(self) -> Self {
        match self.layout {
            Layout::Nt | Layout::Nn => Self { m: CANONICAL_TOKENS, ..self },
            Layout::Tn => Self { k: CANONICAL_TOKENS, ..self },
        }
    }
}

/// No algorithm asks for more: tensors begin at multiples of so many bytes.
const MOST_ALIGNED: u32 = 128;

/// The largest power of two that so many bytes are a multiple of, as far as it matters.
fn alignment(bytes: usize) -> u32 {
    1 << bytes.trailing_zeros().min(MOST_ALIGNED.trailing_zeros())
}

impl Shape {
    /// What every address is a multiple of: tensors begin at multiples of 128 bytes, views of them at any row.
    fn alignment(self) -> u32 {
        let Self { layout, n, k, a_stride, .. } = self;
        let [b, c] = match layout {
            Layout::Nt => [k, n],
            Layout::Nn | Layout::Tn => [n, n],
        };
        let rows = [a_stride * self.operands.bytes(), b * self.operands.bytes(), c * self.result.bytes()];
        rows.map(alignment).into_iter().fold(self.a_alignment, u32::min)
    }
}

/// Descriptors of one shape.
#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// The first factor of the column-major product: our B.
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

fn failed(operation: &str) -> impl FnOnce(CublasError) -> BackendError {
    move |error| BackendError::Device { operation: operation.to_owned(), reason: format!("{:?}", error.0) }
}

impl Products {
    /// A handle in the current context.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, BackendError> {
        context.bind_to_thread().map_err(super::failed("cuCtxSetCurrent"))?;
        let handle = lt::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, algorithms: HashMap::new(), own: HashMap::new(), plans: HashMap::new() })
    }

    /// Descriptors of a shape and the algorithm of its kind.
    fn plan(&mut self, shape: Shape) -> Result<(&Plan, sys::cublasLtMatmulAlgo_t), BackendError> {
        let own = self.own.get(&shape).copied();
        let algorithm = match own {
            Some(algorithm) => algorithm,
            None => self.canonical(shape.canonical())?,
        };
        let plan = match self.plans.entry(shape) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Plan::new(shape).map_err(failed("describing a matrix product"))?)
            }
        };
        Ok((plan, algorithm))
    }

    /// The algorithm for all products that are alike but for the number of tokens.
    fn canonical(&mut self, shape: Shape) -> Result<sys::cublasLtMatmulAlgo_t, BackendError> {
        match self.algorithms.entry(shape) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => Ok(*entry.insert(choose(self.handle, shape)?)),
        }
    }

    /// Takes an algorithm for this very shape, whose kind's does not fit it. Says whether there is anything new to try.
    fn choose_own(&mut self, shape: Shape) -> bool {
        if self.own.contains_key(&shape) {
            return false;
        }
        tracing::debug!("no common algorithm for the product {shape:?}; it gets one of its own");
        choose(self.handle, shape).is_ok_and(|algorithm| self.own.insert(shape, algorithm).is_none())
    }
}

fn choose(handle: sys::cublasLtHandle_t, shape: Shape) -> Result<sys::cublasLtMatmulAlgo_t, BackendError> {
    let plan = Plan::new(shape).map_err(failed("describing a matrix product"))?;
    plan.algorithm(handle, shape.workspace, shape.alignment())
        .map_err(failed("choosing an algorithm for a matrix product"))
}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created in `new`, destroyed once; all plans are gone. Nobody is left to hear of a failure.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// The element as cublasLt names it.
fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        other => panic!("no product of {}", other.name()),
    }
}

impl Plan {
    fn new(shape: Shape) -> Result<Self, CublasError> {
        let Shape { layout, m, n, k, a_stride, operands, result, .. } = shape;
        let part = |element: Element, rows: usize, columns: usize, stride: usize| {
            lt::create_matrix_layout(data_type(element), rows as u64, columns as u64, stride as i64)
        };
        let matrix = |element: Element, rows: usize, columns: usize| part(element, rows, columns, rows);
        // CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h, which cudarc's cublasLt module leaves out.
        let (normal, transposed) = (0i32, 1i32);
        // Row-major [r, c] is column-major c x r.
        let (first, first_operation) = match layout {
            Layout::Nt => (matrix(operands, k, n)?, transposed),
            Layout::Nn | Layout::Tn => (matrix(operands, n, k)?, normal),
        };
        let (second, second_operation) = match layout {
            Layout::Nt | Layout::Nn => (part(operands, k, m, a_stride)?, normal),
            Layout::Tn => (part(operands, m, k, a_stride)?, transposed),
        };
        let out = matrix(result, n, m)?;
        let operation = lt::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )?;
        for (attribute, value) in [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, first_operation),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, second_operation),
        ] {
            let pointer: *const c_void = (&raw const value).cast();
            // SAFETY: a live descriptor and an attribute of this type and size.
            unsafe { lt::set_matmul_desc_attribute(operation, attribute, pointer, size_of_val(&value)) }?;
        }
        Ok(Self { operation, first, second, out })
    }

    /// The best algorithm that works in so many bytes, asks no more of addresses than `alignment` and does not split the
    /// reduction.
    fn algorithm(
        &self,
        handle: sys::cublasLtHandle_t,
        workspace: usize,
        alignment: u32,
    ) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = lt::create_matmul_pref()?;
        let numbers = [
            (Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 0u32),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment),
        ];
        // SAFETY: live descriptors, made in `new`, and attributes of these types and sizes.
        unsafe {
            let room = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let (value, size) = ((&raw const workspace).cast(), size_of_val(&workspace));
            let mut prepared = lt::set_matmul_pref_attribute(preference, room, value, size);
            for (attribute, number) in &numbers {
                let (value, size) = ((&raw const *number).cast(), size_of_val(number));
                prepared = prepared
                    .and_then(|()| lt::set_matmul_pref_attribute(preference, *attribute, value, size));
            }
            let (first, second, out) = (self.first, self.second, self.out);
            let found = prepared.and_then(|()| {
                lt::get_matmul_algo_heuristic(handle, self.operation, first, second, out, out, preference)
            });
            lt::destroy_matmul_pref(preference)?;
            Ok(found?.algo)
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once. Nobody is left to hear of a failure.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.operation);
            for layout in [self.first, self.second, self.out] {
                let _ = lt::destroy_matrix_layout(layout);
            }
        }
    }
}

/// The operation [`Matmul`].
pub fn matmul(backend: &mut CudaBackend, a: Matmul) {
    a.check();
    let Matmul { layout, a_stride, m, n, k, .. } = a;
    assert_eq!(a.a.element, a.b.element, "factors in different formats");
    if k == 0 && !a.accumulate {
        backend.zero(a.c);
    }
    if m * n * k == 0 || backend.error.is_some() {
        return;
    }
    let (left, right, out) = (backend.at(a.a), backend.at(a.b), backend.at(a.c));
    let (alpha, beta) = (1.0f32, if a.accumulate { 1.0f32 } else { 0.0 });
    let (handle, stream) = (backend.products.handle, backend.stream.cu_stream());
    let (room, workspace) =
        backend.arenas.get(&WORKSPACE).map_or((0, 0), |arena| (arena.address, arena.bytes));
    let operands = a.a.element;
    let is_part = a_stride > if layout == Layout::Tn { m } else { k };
    let a_alignment = if is_part { alignment(a.a.offset * operands.bytes()) } else { MOST_ALIGNED };
    let shape = Shape { layout, m, n, k, a_stride, a_alignment, operands, result: a.c.element, workspace };
    let run = |products: &mut Products| {
        let (plan, algorithm) = products.plan(shape)?;
        // SAFETY: a plan of this shape, and views of the sizes asserted above; C and D are the same matrix. The
        // algorithm was chosen for the size of the workspace.
        let done = unsafe {
            lt::matmul(
                handle,
                plan.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                right as *const c_void,
                plan.first,
                left as *const c_void,
                plan.second,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &algorithm,
                room as *mut c_void,
                workspace,
                stream.cast(),
            )
        };
        Ok(done)
    };
    let mut done = run(&mut backend.products);
    if let Ok(Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))) = done
        && backend.products.choose_own(shape)
    {
        done = run(&mut backend.products);
    }
    if let Err(error) = done.and_then(|done| done.map_err(failed("cublasLtMatmul"))) {
        backend.error.get_or_insert(error);
    }
}
