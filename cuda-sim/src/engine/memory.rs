//! Device memory: allocations with addresses that are never used twice, their bytes, and which bytes were ever written.

use super::error::MemoryError;
use std::sync::Arc;

/// The memory of one device. Cheap to clone: all clones are the same memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    inner: Arc<u64>,
}

impl DeviceMemory {
    /// An empty memory of `capacity` bytes. Host memory is taken as allocations are touched, not here.
    pub fn new(capacity: u64) -> Self {
        DeviceMemory { inner: Arc::new(capacity) }
    }

    /// `(free, total)` in bytes.
    pub fn info(&self) -> (u64, u64) {
        (*self.inner, *self.inner)
    }

    /// Takes `bytes` bytes, uninitialised, at an address that is a multiple of `alignment` (a power of two) and 256.
    ///
    /// # Errors
    /// No room, no bytes, or no power of two.
    pub fn allocate(&self, bytes: u64, alignment: u64) -> Result<u64, MemoryError> {
        Err(MemoryError::InvalidRequest { bytes, alignment })
    }

    /// Gives an allocation back. Its addresses are never handed out again, so later uses are found.
    ///
    /// # Errors
    /// `address` is not the start of a live allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        Err(MemoryError::NotAnAllocation { address })
    }

    /// The allocation around `address`: its start and its length in bytes.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let _ = address;
        None
    }

    /// Reads bytes as the host. Bytes nobody wrote are zero.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = to.len() as u64;
        Err(MemoryError::OutOfBounds { address, bytes, reason: String::new() })
    }

    /// Writes bytes as the host; they count as initialised.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let bytes = from.len() as u64;
        Err(MemoryError::OutOfBounds { address, bytes, reason: String::new() })
    }

    /// Writes `count` copies of `pattern` (1, 2 or 4 bytes, or any other length), as memset does.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = pattern.len() as u64 * count;
        Err(MemoryError::OutOfBounds { address, bytes, reason: String::new() })
    }

    /// Copies `bytes` bytes from one range to another (they may overlap); what was uninitialised stays so.
    ///
    /// # Errors
    /// One of the ranges is not inside one live allocation.
    pub fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), MemoryError> {
        let _ = to;
        Err(MemoryError::OutOfBounds { address: from, bytes, reason: String::new() })
    }
}
