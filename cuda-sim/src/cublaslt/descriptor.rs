//! Descriptors: what a client says about a product and its matrices, attribute by attribute.
//!
//! A descriptor handed out is a number in a table; a wrong or destroyed one is refused.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::{ptr, slice};

use super::status::{Outcome, Status};
use crate::driver::abi::Out;
use crate::driver::state::{fresh_number, say};

/// A `cublasLtMatmulDesc_t`, `cublasLtMatrixLayout_t` or `cublasLtMatmulPreference_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct DescriptorHandle(usize);

/// The three kinds differ in their attributes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Matmul,
    Layout,
    Preference,
}

/// Attribute numbers of `cublasLt.h` that mean something here.
pub(super) mod attribute {
    pub(in super::super) const MATMUL_COMPUTE_TYPE: u32 = 0;
    pub(in super::super) const MATMUL_SCALE_TYPE: u32 = 1;
    pub(in super::super) const MATMUL_POINTER_MODE: u32 = 2;
    pub(in super::super) const MATMUL_TRANSPOSE_A: u32 = 3;
    pub(in super::super) const MATMUL_TRANSPOSE_B: u32 = 4;
    pub(in super::super) const MATMUL_TRANSPOSE_C: u32 = 5;
    pub(in super::super) const MATMUL_FILL_MODE: u32 = 6;
    pub(in super::super) const MATMUL_EPILOGUE: u32 = 7;
    pub(in super::super) const MATMUL_BIAS_POINTER: u32 = 8;
    pub(in super::super) const MATMUL_BIAS_BATCH_STRIDE: u32 = 10;
    pub(in super::super) const MATMUL_SM_COUNT: u32 = 15;
    pub(in super::super) const MATMUL_BIAS_TYPE: u32 = 26;

    pub(in super::super) const LAYOUT_TYPE: u32 = 0;
    pub(in super::super) const LAYOUT_ORDER: u32 = 1;
    pub(in super::super) const LAYOUT_ROWS: u32 = 2;
    pub(in super::super) const LAYOUT_COLUMNS: u32 = 3;
    pub(in super::super) const LAYOUT_LEADING: u32 = 4;
    pub(in super::super) const LAYOUT_BATCH_COUNT: u32 = 5;
    pub(in super::super) const LAYOUT_BATCH_STRIDE: u32 = 6;
    pub(in super::super) const LAYOUT_PLANE_OFFSET: u32 = 7;
}

/// The attributes of each kind that can be set: number, size in bytes, initial value.
fn known(kind: Kind) -> &'static [(u32, usize, i64)] {
    use attribute::*;
    match kind {
        Kind::Matmul => &[
            (MATMUL_COMPUTE_TYPE, 4, 0),
            (MATMUL_SCALE_TYPE, 4, 0),
            (MATMUL_POINTER_MODE, 4, 0),
            (MATMUL_TRANSPOSE_A, 4, 0),
            (MATMUL_TRANSPOSE_B, 4, 0),
            (MATMUL_TRANSPOSE_C, 4, 0),
            (MATMUL_FILL_MODE, 4, 2), // CUBLAS_FILL_MODE_FULL
            (MATMUL_EPILOGUE, 4, 1),  // CUBLASLT_EPILOGUE_DEFAULT
            (MATMUL_BIAS_POINTER, 8, 0),
            (MATMUL_BIAS_BATCH_STRIDE, 8, 0),
            (MATMUL_SM_COUNT, 4, 0),
            (MATMUL_BIAS_TYPE, 4, -1), // the type of D
        ],
        Kind::Layout => &[
            (LAYOUT_TYPE, 4, 0),
            (LAYOUT_ORDER, 4, 0),
            (LAYOUT_ROWS, 8, 0),
            (LAYOUT_COLUMNS, 8, 0),
            (LAYOUT_LEADING, 8, 0),
            (LAYOUT_BATCH_COUNT, 4, 1),
            (LAYOUT_BATCH_STRIDE, 8, 0),
            (LAYOUT_PLANE_OFFSET, 8, 0),
        ],
        // Search mode, workspace, masks, alignments (bytes), waves, implementations: they choose between algorithms,
        // and there is one.
        Kind::Preference => &[
            (0, 4, 0),
            (1, 8, 0),
            (2, 4, -1),
            (3, 4, -1),
            (5, 4, 256),
            (6, 4, 256),
            (7, 4, 256),
            (8, 4, 256),
            (9, 4, 0),
            (10, 4, -1),
            (11, 4, -1),
            (12, 8, -1),
            (13, 4, 0),
        ],
    }
}

/// One descriptor: every known attribute has a value, sign-extended to 64 bits.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    kind: Kind,
    values: BTreeMap<u32, i64>,
}

impl Descriptor {
    fn new(kind: Kind, set: &[(u32, i64)]) -> Descriptor {
        let initial = known(kind).iter().map(|&(attribute, _, value)| (attribute, value));
        Descriptor { kind, values: initial.chain(set.iter().copied()).collect() }
    }

    /// An attribute that this kind has.
    pub(super) fn get(&self, attribute: u32) -> i64 {
        self.values.get(&attribute).copied().unwrap_or(0)
    }

    fn size_of(&self, attribute: u32) -> Outcome<usize> {
        known(self.kind)
            .iter()
            .find(|(known, ..)| *known == attribute)
            .map(|(_, bytes, _)| *bytes)
            .ok_or_else(|| {
                say(&format!(
                    "cublasLt: attribute {attribute} of a {:?} descriptor is not implemented",
                    self.kind
                ));
                Status::NOT_SUPPORTED
            })
    }

    fn set(&mut self, attribute: u32, bytes: &[u8]) -> Outcome {
        let size = self.size_of(attribute)?;
        let value = match (size, bytes) {
            (4, &[a, b, c, d]) => i64::from(i32::from_ne_bytes([a, b, c, d])),
            (8, &[a, b, c, d, e, f, g, h]) => i64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(Status::INVALID_VALUE),
        };
        self.values.insert(attribute, value);
        Ok(())
    }
}

fn table() -> MutexGuard<'static, HashMap<usize, Descriptor>> {
    static TABLE: LazyLock<Mutex<HashMap<usize, Descriptor>>> = LazyLock::new(Mutex::default);
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of a descriptor of that kind.
pub(super) fn find(handle: DescriptorHandle, kind: Kind) -> Outcome<Descriptor> {
    table().get(&handle.0).filter(|known| known.kind == kind).cloned().ok_or(Status::INVALID_VALUE)
}

fn create(to: Out<DescriptorHandle>, kind: Kind, set: &[(u32, i64)]) -> Status {
    let handle = DescriptorHandle(fresh_number());
    let outcome = to.put(handle).map_err(Status::from);
    if outcome.is_ok() {
        table().insert(handle.0, Descriptor::new(kind, set));
    }
    outcome.into()
}

fn destroy(handle: DescriptorHandle, kind: Kind) -> Status {
    find(handle, kind).map(|_| drop(table().remove(&handle.0))).into()
}

fn set(handle: DescriptorHandle, kind: Kind, attribute: u32, from: *const c_void, bytes: usize) -> Status {
    if from.is_null() {
        return Status::INVALID_VALUE;
    }
    // SAFETY: not null; the client names `bytes` readable bytes there.
    let value = unsafe { slice::from_raw_parts(from.cast::<u8>(), bytes) };
    match table().get_mut(&handle.0) {
        Some(descriptor) if descriptor.kind == kind => descriptor.set(attribute, value).into(),
        _ => Status::INVALID_VALUE,
    }
}

fn get(
    handle: DescriptorHandle,
    kind: Kind,
    attribute: u32,
    (to, bytes): (*mut c_void, usize),
    written: Out<usize>,
) -> Status {
    let outcome = find(handle, kind).and_then(|descriptor| {
        let size = descriptor.size_of(attribute)?;
        if bytes == 0 {
            // Asking for the size only.
            return Ok(written.put(size)?);
        }
        if to.is_null() || bytes < size {
            return Err(Status::INVALID_VALUE);
        }
        let value = descriptor.get(attribute);
        let (narrow, wide) = ((value as i32).to_ne_bytes(), value.to_ne_bytes());
        let value: &[u8] = if size == 4 { &narrow } else { &wide };
        // SAFETY: not null, and the client names room for `bytes >= size` bytes.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), to.cast(), size) };
        Ok(written.put_if_wanted(size)?)
    });
    outcome.into()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescCreate(to: Out<DescriptorHandle>, compute: u32, scale: u32) -> Status {
    let set =
        [(attribute::MATMUL_COMPUTE_TYPE, compute.into()), (attribute::MATMUL_SCALE_TYPE, scale.into())];
    create(to, Kind::Matmul, &set)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutCreate(
    to: Out<DescriptorHandle>,
    element: u32,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    let set = [
        (attribute::LAYOUT_TYPE, element.into()),
        (attribute::LAYOUT_ROWS, rows as i64),
        (attribute::LAYOUT_COLUMNS, columns as i64),
        (attribute::LAYOUT_LEADING, leading),
    ];
    create(to, Kind::Layout, &set)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceCreate(to: Out<DescriptorHandle>) -> Status {
    create(to, Kind::Preference, &[])
}

/// The three functions that every kind has.
macro_rules! accessors {
    ($kind:expr, $destroy:ident, $set:ident, $get:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $destroy(handle: DescriptorHandle) -> Status {
            destroy(handle, $kind)
        }

        #[unsafe(no_mangle)]
        extern "C" fn $set(
            handle: DescriptorHandle,
            attribute: c_int,
            from: *const c_void,
            bytes: usize,
        ) -> Status {
            set(handle, $kind, attribute as u32, from, bytes)
        }

        #[unsafe(no_mangle)]
        extern "C" fn $get(
            handle: DescriptorHandle,
            attribute: c_int,
            to: *mut c_void,
            bytes: usize,
            written: Out<usize>,
        ) -> Status {
            get(handle, $kind, attribute as u32, (to, bytes), written)
        }
    };
}

accessors!(
    Kind::Matmul,
    cublasLtMatmulDescDestroy,
    cublasLtMatmulDescSetAttribute,
    cublasLtMatmulDescGetAttribute
);
accessors!(
    Kind::Layout,
    cublasLtMatrixLayoutDestroy,
    cublasLtMatrixLayoutSetAttribute,
    cublasLtMatrixLayoutGetAttribute
);
accessors!(
    Kind::Preference,
    cublasLtMatmulPreferenceDestroy,
    cublasLtMatmulPreferenceSetAttribute,
    cublasLtMatmulPreferenceGetAttribute
);
