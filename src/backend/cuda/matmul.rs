//! Matrix products through cublasLt: descriptors and algorithm are made once per shape and kept.
//!
//! cublasLt thinks in columns: a row-major C = A B is computed as C^T = B^T A^T, so the operands change places. f32
//! products do not use TF32.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaContext;

use super::CudaBackend;
use crate::backend::{Backend, BackendError, Layout, Matmul};

/// The handle and every plan made so far.
#[derive(Debug)]
pub struct Products {
    handle: sys::cublasLtHandle_t,
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
}

/// Descriptors of one shape.
#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// The first factor of the column-major product: our B.
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

fn failed(operation: &str) -> impl FnOnce(CublasError) -> BackendError {
    move |error| BackendError::Device { operation: operation.to_owned(), reason: format!("{:?}", error.0) }
}

impl Products {
    /// A handle in the current context.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, BackendError> {
        context.bind_to_thread().map_err(super::failed("cuCtxSetCurrent"))?;
        Ok(Self { handle: lt::create_handle().map_err(failed("cublasLtCreate"))?, plans: HashMap::new() })
    }

    fn plan(&mut self, shape: Shape) -> Result<&Plan, BackendError> {
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.handle, shape).map_err(failed("planning a matrix product"))?;
            self.plans.insert(shape, plan);
        }
        Ok(&self.plans[&shape])
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created in `new`, destroyed once; all plans are gone. Nobody is left to hear of a failure.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: Shape) -> Result<Self, CublasError> {
        let Shape { layout, m, n, k } = shape;
        let float = sys::cudaDataType::CUDA_R_32F;
        let matrix = |rows: usize, columns: usize| {
            lt::create_matrix_layout(float, rows as u64, columns as u64, rows as i64)
        };
        // CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h, which cudarc's cublasLt module leaves out.
        let (normal, transposed) = (0i32, 1i32);
        // Row-major [r, c] is column-major c x r.
        let (first, first_operation) = match layout {
            Layout::Nt => (matrix(k, n)?, transposed),
            Layout::Nn | Layout::Tn => (matrix(n, k)?, normal),
        };
        let (second, second_operation) = match layout {
            Layout::Nt | Layout::Nn => (matrix(k, m)?, normal),
            Layout::Tn => (matrix(m, k)?, transposed),
        };
        let out = matrix(n, m)?;
        let operation = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, float)?;
        for (attribute, value) in [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, first_operation),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, second_operation),
        ] {
            let pointer: *const c_void = (&raw const value).cast();
            // SAFETY: a live descriptor and an attribute of this type and size.
            unsafe { lt::set_matmul_desc_attribute(operation, attribute, pointer, size_of_val(&value)) }?;
        }
        let preference = lt::create_matmul_pref()?;
        // SAFETY: live descriptors, made above; the preference asks for no workspace.
        let found = unsafe {
            let found = lt::get_matmul_algo_heuristic(handle, operation, first, second, out, out, preference);
            lt::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self { operation, first, second, out, algorithm: found.algo })
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
    let Matmul { layout, m, n, k, .. } = a;
    assert_eq!((a.a.len, a.b.len, a.c.len), (m * k, n * k, m * n), "matmul {layout:?} {m}x{n}x{k}");
    if k == 0 && !a.accumulate {
        backend.zero(a.c);
    }
    if m * n * k == 0 || backend.error.is_some() {
        return;
    }
    let (left, right, out) = (backend.at(a.a), backend.at(a.b), backend.at(a.c));
    let (alpha, beta) = (1.0f32, if a.accumulate { 1.0f32 } else { 0.0 });
    let (handle, stream) = (backend.products.handle, backend.stream.cu_stream());
    let done = backend.products.plan(Shape { layout, m, n, k }).and_then(|plan| {
        // SAFETY: a plan of this shape, and views of the sizes asserted above; C and D are the same matrix.
        unsafe {
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
                &plan.algorithm,
                std::ptr::null_mut(),
                0,
                stream.cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    });
    if let Err(error) = done {
        backend.error.get_or_insert(error);
    }
}
