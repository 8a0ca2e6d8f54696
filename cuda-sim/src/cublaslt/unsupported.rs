//! The entry points of `cublasLt.h` that this library does not implement: each says so and fails. Those of the logger
//! succeed and do nothing: what would be logged, why a product was refused, is always on stderr.

use super::status::Status;
use crate::driver::state::say;

macro_rules! unsupported {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name() -> Status {
            say(concat!(stringify!($name), " is not implemented (CUBLAS_STATUS_NOT_SUPPORTED)"));
            Status::NOT_SUPPORTED
        })*
    };
}

unsupported! {
    cublasLtEmulationDescCreate cublasLtEmulationDescDestroy cublasLtEmulationDescGetAttribute
    cublasLtEmulationDescInit_internal cublasLtEmulationDescSetAttribute cublasLtGetProperty
    cublasLtGroupedMatrixLayoutCreate cublasLtGroupedMatrixLayoutInit_internal
    cublasLtHeuristicsCacheGetCapacity cublasLtHeuristicsCacheSetCapacity
    cublasLtMatmulAlgoCapGetAttribute cublasLtMatmulAlgoCheck cublasLtMatmulAlgoCheckForStream
    cublasLtMatmulAlgoConfigGetAttribute cublasLtMatmulAlgoConfigSetAttribute
    cublasLtMatmulAlgoGetHeuristicForStream cublasLtMatmulAlgoGetIds cublasLtMatmulAlgoInit
    cublasLtMatmulDescInit_internal cublasLtMatmulPreferenceInit_internal
    cublasLtMatrixLayoutInit_internal cublasLtMatrixTransform cublasLtMatrixTransformDescCreate
    cublasLtMatrixTransformDescDestroy cublasLtMatrixTransformDescGetAttribute
    cublasLtMatrixTransformDescInit_internal cublasLtMatrixTransformDescSetAttribute
}

macro_rules! no_logger {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name() -> Status {
            Status::SUCCESS
        })*
    };
}

no_logger! {
    cublasLtLoggerForceDisable cublasLtLoggerOpenFile cublasLtLoggerSetCallback cublasLtLoggerSetFile
    cublasLtLoggerSetLevel cublasLtLoggerSetMask
}
