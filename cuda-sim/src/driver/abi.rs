//! What crosses the C boundary: pointers from the caller, opaque handles, and the structures of `cuda.h` that are read.
//!
//! Layouts are those of `cuda.h` for CUDA 12 and 13. Nothing here knows what an entry point does.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use super::codes::{Code, Outcome};

/// A place the caller gave for a result.
///
/// There is no constructor: a value comes from a C caller, who promises that it is null or points to room for a `T`.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Stores the result; a null or misaligned pointer is the caller's error.
    pub(crate) fn put(self, value: T) -> Outcome {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null and aligned (checked); room for a `T` is the C caller's promise.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Stores a result that the caller may not want: null is fine.
    pub(crate) fn put_if_wanted(self, value: T) -> Outcome {
        if self.0.is_null() { Ok(()) } else { self.put(value) }
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// What the caller left there: for arguments that go both ways.
    pub(crate) fn read(self) -> Outcome<T>
    where
        T: Copy,
    {
        In(self.0).get()
    }

    /// The same place for a result of another type: what `void*` results come to.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// The place of the `index`-th result, of an array the caller gave.
    pub(crate) fn at(self, index: usize) -> Out<T> {
        Out(self.0.wrapping_add(index))
    }
}

/// A structure or an array the caller gave to be read. As for [`Out`], values come from a C caller, or are null.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The pointer as a device address, for arguments that may be one.
    pub(crate) fn address(self) -> DevicePointer {
        self.0 as DevicePointer
    }

    /// Nothing was given.
    pub(crate) fn none() -> In<T> {
        In(ptr::null())
    }

    pub(crate) fn get(self) -> Outcome<T> {
        self.at(0)
    }

    /// The `index`-th element of an array the caller gave.
    pub(crate) fn at(self, index: usize) -> Outcome<T> {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null and aligned (checked); that the array is this long is the C caller's promise.
        Ok(unsafe { *self.0.wrapping_add(index) })
    }
}

/// A C string the caller gave. No constructor, as for [`Out`].
#[repr(transparent)]
pub(crate) struct InText(*const c_char);

impl InText {
    pub(crate) fn get(&self) -> Outcome<&CStr> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null (checked); that it ends in a NUL is the C caller's promise.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }

    pub(crate) fn utf8(&self) -> Outcome<&str> {
        self.get()?.to_str().map_err(|_| Code::INVALID_VALUE)
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(transparent)]
        pub(crate) struct $name(pub(crate) usize);

        impl From<usize> for $name {
            fn from(value: usize) -> Self {
                $name(value)
            }
        }

        impl From<$name> for usize {
            fn from(handle: $name) -> usize {
                handle.0
            }
        })*
    };
}

// A handle is a number, never an address: a wrong one is found in no table and refused, not followed.
handles! {
    /// `CUcontext`.
    ContextHandle
    /// `CUstream`; 0 and 1 are the legacy default stream, 2 the per-thread one.
    StreamHandle
    /// `CUevent`.
    EventHandle
    /// `CUmodule`.
    ModuleHandle
    /// `CUfunction`.
    FunctionHandle
    /// `CUmemoryPool`.
    PoolHandle
    /// `CUgraph`.
    GraphHandle
    /// `CUgraphExec`.
    GraphExecHandle
}

/// `CUdeviceptr`.
pub(crate) type DevicePointer = u64;

/// `CUhostFn`.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// `CUoccupancyB2DSize`: the dynamic shared memory that a block size needs.
pub(crate) type BlockToShared = unsafe extern "C" fn(c_int) -> usize;

/// `CUuuid`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

/// `CUlaunchAttribute`: the identifier, padding to 8 bytes, and a union of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct LaunchAttribute {
    pub(crate) id: c_uint,
    pad: u32,
    pub(crate) value: [u32; 16],
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared_bytes: c_uint,
    pub(crate) stream: StreamHandle,
    pub(crate) attributes: In<LaunchAttribute>,
    pub(crate) attribute_count: c_uint,
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryLocation {
    pub(crate) kind: c_uint,
    pub(crate) id: c_int,
}

/// `CUmemPoolProps`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PoolProperties {
    pub(crate) allocation_type: c_uint,
    pub(crate) handle_types: c_uint,
    pub(crate) location: MemoryLocation,
    pub(crate) security: *mut c_void,
    pub(crate) max_bytes: usize,
    reserved: [u8; 56],
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Copy2d {
    pub(crate) from: Side2d,
    pub(crate) to: Side2d,
    pub(crate) width_bytes: usize,
    pub(crate) height: usize,
}

/// One side of a [`Copy2d`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side2d {
    pub(crate) x_bytes: usize,
    pub(crate) y: usize,
    pub(crate) memory_type: c_uint,
    pub(crate) host: usize,
    pub(crate) device: DevicePointer,
    pub(crate) array: usize,
    pub(crate) pitch: usize,
}

/// `CUDA_MEMCPY3D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Copy3d {
    pub(crate) from: Side3d,
    pub(crate) to: Side3d,
    pub(crate) width_bytes: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

/// One side of a [`Copy3d`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side3d {
    pub(crate) x_bytes: usize,
    pub(crate) y: usize,
    pub(crate) z: usize,
    lod: usize,
    pub(crate) memory_type: c_uint,
    pub(crate) host: usize,
    pub(crate) device: DevicePointer,
    pub(crate) array: usize,
    reserved: usize,
    pub(crate) pitch: usize,
    pub(crate) height: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_header() {
        assert_eq!(size_of::<LaunchAttribute>(), size_of::<sys::CUlaunchAttribute>());
        assert_eq!(offset_of!(LaunchAttribute, value), offset_of!(sys::CUlaunchAttribute, value));
        assert_eq!(size_of::<LaunchConfig>(), size_of::<sys::CUlaunchConfig>());
        assert_eq!(align_of::<LaunchConfig>(), align_of::<sys::CUlaunchConfig>());
        assert_eq!(offset_of!(LaunchConfig, block), offset_of!(sys::CUlaunchConfig, blockDimX));
        assert_eq!(offset_of!(LaunchConfig, stream), offset_of!(sys::CUlaunchConfig, hStream));
        assert_eq!(offset_of!(LaunchConfig, attributes), offset_of!(sys::CUlaunchConfig, attrs));
        assert_eq!(size_of::<PoolProperties>(), size_of::<sys::CUmemPoolProps>());
        assert_eq!(offset_of!(PoolProperties, max_bytes), offset_of!(sys::CUmemPoolProps, maxSize));
        assert_eq!(size_of::<Copy2d>(), size_of::<sys::CUDA_MEMCPY2D>());
        assert_eq!(offset_of!(Copy2d, to), offset_of!(sys::CUDA_MEMCPY2D, dstXInBytes));
        assert_eq!(offset_of!(Side2d, pitch), offset_of!(sys::CUDA_MEMCPY2D, srcPitch));
        assert_eq!(size_of::<Copy3d>(), size_of::<sys::CUDA_MEMCPY3D>());
        assert_eq!(offset_of!(Copy3d, to), offset_of!(sys::CUDA_MEMCPY3D, dstXInBytes));
        assert_eq!(offset_of!(Side3d, device), offset_of!(sys::CUDA_MEMCPY3D, srcDevice));
        assert_eq!(offset_of!(Side3d, height), offset_of!(sys::CUDA_MEMCPY3D, srcHeight));
    }
}
