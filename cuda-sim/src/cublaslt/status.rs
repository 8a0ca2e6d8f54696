//! cuBLAS status codes: numbers, names and descriptions.

use std::ffi::{CStr, c_char};

use crate::driver::codes::Code;

/// A `cublasStatus_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Status(pub(super) u32);

/// What an entry point computes before it becomes a status.
pub(super) type Outcome<T = ()> = Result<T, Status>;

macro_rules! statuses {
    ($($number:literal $name:ident $c_name:literal $text:literal)*) => {
        #[allow(dead_code, reason = "the table is the whole header's, this library answers with some of it")]
        impl Status {
            $(pub(super) const $name: Status = Status($number);)*

            fn texts(self) -> (&'static CStr, &'static CStr) {
                match self.0 {
                    $($number => ($c_name, $text),)*
                    _ => (c"<unknown>", c"an unknown cublasStatus_t"),
                }
            }
        }
    };
}

statuses! {
    0 SUCCESS c"CUBLAS_STATUS_SUCCESS" c"success"
    1 NOT_INITIALIZED c"CUBLAS_STATUS_NOT_INITIALIZED" c"the library was not initialized"
    3 ALLOC_FAILED c"CUBLAS_STATUS_ALLOC_FAILED" c"the resource allocation failed"
    7 INVALID_VALUE c"CUBLAS_STATUS_INVALID_VALUE" c"an unsupported value or parameter was passed to the function"
    8 ARCH_MISMATCH c"CUBLAS_STATUS_ARCH_MISMATCH" c"the device lacks a feature that the function needs"
    11 MAPPING_ERROR c"CUBLAS_STATUS_MAPPING_ERROR" c"an access to GPU memory space failed"
    13 EXECUTION_FAILED c"CUBLAS_STATUS_EXECUTION_FAILED" c"the function failed to launch on the GPU"
    14 INTERNAL_ERROR c"CUBLAS_STATUS_INTERNAL_ERROR" c"an internal operation failed"
    15 NOT_SUPPORTED c"CUBLAS_STATUS_NOT_SUPPORTED" c"the functionality requested is not supported"
    16 LICENSE_ERROR c"CUBLAS_STATUS_LICENSE_ERROR" c"the functionality requested requires some license"
}

impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Status {
        outcome.err().unwrap_or(Status::SUCCESS)
    }
}

/// A driver's refusal, seen through cublasLt. A bad pointer from the client is a bad value here too.
impl From<Code> for Status {
    fn from(code: Code) -> Status {
        match code {
            Code::SUCCESS => Status::SUCCESS,
            Code::INVALID_VALUE => Status::INVALID_VALUE,
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Status::NOT_INITIALIZED,
            _ => Status::EXECUTION_FAILED,
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusName(status: Status) -> *const c_char {
    status.texts().0.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(status: Status) -> *const c_char {
    status.texts().1.as_ptr()
}
