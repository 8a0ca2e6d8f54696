//! Copies and fills: between host and device in every direction, of one, two or three dimensions.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::{ptr, slice};

use super::abi::{ContextHandle, Copy2d, Copy3d, DevicePointer, In, Side2d, Side3d, StreamHandle};
use super::codes::{Code, Outcome};
use super::command::{Command, Fault};
use super::state::{Current, current, entry, say};
use crate::engine::{DeviceMemory, MemoryError};

/// Where a transfer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Device(DevicePointer),
    Host(usize),
}

impl Place {
    fn advanced(self, bytes: usize) -> Option<Place> {
        Some(match self {
            Place::Device(address) => Place::Device(address.checked_add(bytes as u64)?),
            Place::Host(address) => Place::Host(address.checked_add(bytes)?),
        })
    }
}

/// One side of a transfer: its first byte, and the distances between its rows and its planes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    start: Place,
    row: usize,
    plane: usize,
}

/// A copy of `depth` planes of `height` rows of `width` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    from: Region,
    to: Region,
    width: usize,
    height: usize,
    depth: usize,
}

/// `rows` rows of `count` copies of the first `size` bytes of `pattern`, `pitch` bytes apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    address: DevicePointer,
    pattern: [u8; 4],
    size: usize,
    count: usize,
    rows: usize,
    pitch: usize,
}

/// The driver refuses a range outside of an allocation; that breaks nothing.
fn out_of_range(error: MemoryError) -> Fault {
    Fault { code: Code::INVALID_VALUE, sticky: false, message: format!("a copy or memset: {error}") }
}

impl Transfer {
    fn linear(from: Place, to: Place, bytes: usize) -> Transfer {
        let region = |start| Region { start, row: bytes, plane: bytes };
        Transfer { from: region(from), to: region(to), width: bytes, height: 1, depth: 1 }
    }

    pub(crate) fn run(&self, memory: &DeviceMemory) -> Result<(), Fault> {
        if self.width == 0 {
            return Ok(());
        }
        let place = |region: &Region, plane: usize, row: usize| {
            let offset = plane.checked_mul(region.plane)?.checked_add(row.checked_mul(region.row)?)?;
            region.start.advanced(offset)
        };
        for plane in 0..self.depth {
            for row in 0..self.height {
                let ends = place(&self.from, plane, row).zip(place(&self.to, plane, row));
                let (from, to) = ends.ok_or_else(|| Fault {
                    code: Code::INVALID_VALUE,
                    sticky: false,
                    message: "a copy runs past the end of the address space".to_owned(),
                })?;
                copy_row(memory, from, to, self.width).map_err(out_of_range)?;
            }
        }
        Ok(())
    }
}

fn copy_row(memory: &DeviceMemory, from: Place, to: Place, bytes: usize) -> Result<(), MemoryError> {
    match (from, to) {
        (Place::Device(from), Place::Device(to)) => memory.copy(from, to, bytes as u64),
        (Place::Host(from), Place::Device(to)) => {
            // SAFETY: the client names `bytes` readable bytes there (documentation of cuMemcpyHtoD); null was refused.
            memory.write(to, unsafe { slice::from_raw_parts(from as *const u8, bytes) })
        }
        (Place::Device(from), Place::Host(to)) => {
            // SAFETY: the client names `bytes` writable bytes there (documentation of cuMemcpyDtoH); null was refused.
            memory.read(from, unsafe { slice::from_raw_parts_mut(to as *mut u8, bytes) })
        }
        (Place::Host(from), Place::Host(to)) => {
            // SAFETY: the client names `bytes` bytes on both sides; `copy` allows them to overlap.
            unsafe { ptr::copy(from as *const u8, to as *mut u8, bytes) };
            Ok(())
        }
    }
}

impl Fill {
    pub(crate) fn run(&self, memory: &DeviceMemory) -> Result<(), Fault> {
        if self.count == 0 {
            return Ok(());
        }
        for row in 0..self.rows {
            let address = self.address.wrapping_add((row as u64).wrapping_mul(self.pitch as u64));
            memory.fill(address, &self.pattern[..self.size], self.count as u64).map_err(out_of_range)?;
        }
        Ok(())
    }
}

impl Current {
    /// Which side a unified address is on. Device addresses are never used twice, so one that was freed is still known
    /// for what it is.
    fn side_of(&self, address: u64) -> Place {
        let live = || self.driver.memory.allocation(address).is_some();
        if self.state.device_span.contains(&address) || live() {
            Place::Device(address)
        } else {
            Place::Host(address as usize)
        }
    }
}

/// How a call relates to streams: it returns when its work is done, or belongs to one.
#[derive(Clone, Copy)]
enum Order {
    Synchronous,
    In(StreamHandle),
}

impl Current {
    fn submit(mut self, order: Order, command: Command) -> Outcome {
        match order {
            Order::In(stream) => self.enqueue(stream, command),
            Order::Synchronous => {
                self.capture_of(StreamHandle(0))?;
                self.forbid_while_capturing()?;
                self.enqueue(StreamHandle(0), command)
            }
        }
    }
}

fn copy(order: Order, from: Place, to: Place, bytes: usize) -> Code {
    entry(|| {
        let current = current()?;
        let null = |place| matches!(place, Place::Host(0) | Place::Device(0));
        if bytes != 0 && (null(from) || null(to)) {
            return Err(Code::INVALID_VALUE);
        }
        current.submit(order, Command::Transfer(Transfer::linear(from, to, bytes)))
    })
}

/// A copy whose sides are told by the addresses.
fn copy_unified(order: Order, from: DevicePointer, to: DevicePointer, bytes: usize) -> Code {
    entry(|| {
        let current = current()?;
        if bytes != 0 && (from == 0 || to == 0) {
            return Err(Code::INVALID_VALUE);
        }
        let (from, to) = (current.side_of(from), current.side_of(to));
        current.submit(order, Command::Transfer(Transfer::linear(from, to, bytes)))
    })
}

fn fill(
    order: Order,
    address: DevicePointer,
    (pattern, size): ([u8; 4], usize),
    shape: (usize, usize, usize),
) -> Code {
    entry(|| {
        let (pitch, count, rows) = shape;
        if !address.is_multiple_of(size as u64) || (rows > 1 && pitch < count.saturating_mul(size)) {
            return Err(Code::INVALID_VALUE);
        }
        current()?.submit(order, Command::Fill(Fill { address, pattern, size, count, rows, pitch }))
    })
}

fn pattern8(value: c_uchar) -> ([u8; 4], usize) {
    ([value, 0, 0, 0], 1)
}

fn pattern16(value: c_ushort) -> ([u8; 4], usize) {
    let [low, high] = value.to_ne_bytes();
    ([low, high, 0, 0], 2)
}

fn pattern32(value: c_uint) -> ([u8; 4], usize) {
    (value.to_ne_bytes(), 4)
}

/// The side of a structure copy, from its `CUmemorytype`.
fn structure_side(current: &Current, memory_type: c_uint, host: usize, device: u64) -> Outcome<Place> {
    match memory_type {
        1 => Ok(Place::Host(host)),
        2 => Ok(Place::Device(device)),
        4 => Ok(current.side_of(device)),
        3 => {
            say("copies from and to CUDA arrays are not implemented");
            Err(Code::NOT_SUPPORTED)
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

impl Side2d {
    fn region(&self, current: &Current, width: usize, height: usize) -> Outcome<Region> {
        let offset = self.y.checked_mul(self.pitch).and_then(|bytes| bytes.checked_add(self.x_bytes));
        let start = structure_side(current, self.memory_type, self.host, self.device)?
            .advanced(offset.ok_or(Code::INVALID_VALUE)?)
            .ok_or(Code::INVALID_VALUE)?;
        if height > 1 && self.pitch < self.x_bytes.saturating_add(width) {
            return Err(Code::INVALID_VALUE);
        }
        Ok(Region { start, row: self.pitch, plane: 0 })
    }
}

impl Side3d {
    fn region(&self, current: &Current, copy: &Copy3d) -> Outcome<Region> {
        let flat = Side2d {
            x_bytes: self.x_bytes,
            y: self.y,
            memory_type: self.memory_type,
            host: self.host,
            device: self.device,
            array: self.array,
            pitch: self.pitch,
        };
        let plane = self.pitch.checked_mul(self.height).ok_or(Code::INVALID_VALUE)?;
        if copy.depth > 1 && self.height < self.y.saturating_add(copy.height) {
            return Err(Code::INVALID_VALUE);
        }
        let region = flat.region(current, copy.width_bytes, copy.height)?;
        let offset = self.z.checked_mul(plane).ok_or(Code::INVALID_VALUE)?;
        Ok(Region { start: region.start.advanced(offset).ok_or(Code::INVALID_VALUE)?, plane, ..region })
    }
}

fn copy_2d(order: Order, copy: In<Copy2d>) -> Code {
    entry(|| {
        let current = current()?;
        let copy = copy.get()?;
        let transfer = Transfer {
            from: copy.from.region(&current, copy.width_bytes, copy.height)?,
            to: copy.to.region(&current, copy.width_bytes, copy.height)?,
            width: copy.width_bytes,
            height: copy.height,
            depth: 1,
        };
        current.submit(order, Command::Transfer(transfer))
    })
}

fn copy_3d(order: Order, copy: In<Copy3d>) -> Code {
    entry(|| {
        let current = current()?;
        let copy = copy.get()?;
        let transfer = Transfer {
            from: copy.from.region(&current, &copy)?,
            to: copy.to.region(&current, &copy)?,
            width: copy.width_bytes,
            height: copy.height,
            depth: copy.depth,
        };
        current.submit(order, Command::Transfer(transfer))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: DevicePointer, from: *const c_void, bytes: usize) -> Code {
    copy(Order::Synchronous, Place::Host(from as usize), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: DevicePointer, bytes: usize) -> Code {
    copy(Order::Synchronous, Place::Device(from), Place::Host(to as usize), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: DevicePointer, from: DevicePointer, bytes: usize) -> Code {
    copy(Order::Synchronous, Place::Device(from), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: DevicePointer,
    from: *const c_void,
    bytes: usize,
    stream: StreamHandle,
) -> Code {
    copy(Order::In(stream), Place::Host(from as usize), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: DevicePointer,
    bytes: usize,
    stream: StreamHandle,
) -> Code {
    copy(Order::In(stream), Place::Device(from), Place::Host(to as usize), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: DevicePointer,
    from: DevicePointer,
    bytes: usize,
    stream: StreamHandle,
) -> Code {
    copy(Order::In(stream), Place::Device(from), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy(to: DevicePointer, from: DevicePointer, bytes: usize) -> Code {
    copy_unified(Order::Synchronous, from, to, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(
    to: DevicePointer,
    from: DevicePointer,
    bytes: usize,
    stream: StreamHandle,
) -> Code {
    copy_unified(Order::In(stream), from, to, bytes)
}

/// Both contexts are on the one device.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeer(
    to: DevicePointer,
    _to_context: ContextHandle,
    from: DevicePointer,
    _from_context: ContextHandle,
    bytes: usize,
) -> Code {
    copy(Order::Synchronous, Place::Device(from), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: DevicePointer,
    _to_context: ContextHandle,
    from: DevicePointer,
    _from_context: ContextHandle,
    bytes: usize,
    stream: StreamHandle,
) -> Code {
    copy(Order::In(stream), Place::Device(from), Place::Device(to), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2D_v2(parameters: In<Copy2d>) -> Code {
    copy_2d(Order::Synchronous, parameters)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DUnaligned_v2(parameters: In<Copy2d>) -> Code {
    copy_2d(Order::Synchronous, parameters)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DAsync_v2(parameters: In<Copy2d>, stream: StreamHandle) -> Code {
    copy_2d(Order::In(stream), parameters)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy3D_v2(parameters: In<Copy3d>) -> Code {
    copy_3d(Order::Synchronous, parameters)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy3DAsync_v2(parameters: In<Copy3d>, stream: StreamHandle) -> Code {
    copy_3d(Order::In(stream), parameters)
}

/// The entry points of one element size: linear and pitched, each at once and in a stream.
macro_rules! memset {
    ($value:ty, $pattern:ident, $linear:ident, $linear_async:ident, $pitched:ident, $pitched_async:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $linear(address: DevicePointer, value: $value, count: usize) -> Code {
            fill(Order::Synchronous, address, $pattern(value), (0, count, 1))
        }

        #[unsafe(no_mangle)]
        extern "C" fn $linear_async(
            address: DevicePointer,
            value: $value,
            count: usize,
            stream: StreamHandle,
        ) -> Code {
            fill(Order::In(stream), address, $pattern(value), (0, count, 1))
        }

        #[unsafe(no_mangle)]
        extern "C" fn $pitched(
            address: DevicePointer,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
        ) -> Code {
            fill(Order::Synchronous, address, $pattern(value), (pitch, width, height))
        }

        #[unsafe(no_mangle)]
        extern "C" fn $pitched_async(
            address: DevicePointer,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
            stream: StreamHandle,
        ) -> Code {
            fill(Order::In(stream), address, $pattern(value), (pitch, width, height))
        }
    };
}

memset!(c_uchar, pattern8, cuMemsetD8_v2, cuMemsetD8Async, cuMemsetD2D8_v2, cuMemsetD2D8Async);
memset!(c_ushort, pattern16, cuMemsetD16_v2, cuMemsetD16Async, cuMemsetD2D16_v2, cuMemsetD2D16Async);
memset!(c_uint, pattern32, cuMemsetD32_v2, cuMemsetD32Async, cuMemsetD2D32_v2, cuMemsetD2D32Async);
