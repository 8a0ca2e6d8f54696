//! The one device: what it says it is.
//!
//! The numbers are those of an H200 (compute capability 9.0, the default) or of an A100 80 GB (8.0), from NVIDIA's
//! CUDA C++ Programming Guide ("Technical Specifications per Compute Capability") and the cards' data sheets. Things
//! that this library does not stand in for (textures, managed memory, peers) are answered as not there.

use std::ffi::{c_char, c_int, c_uint};

use super::abi::{InText, Out, Uuid};
use super::codes::{Code, Outcome};
use super::state::{driver, entry};

/// The name every program sees; nothing may take this device for a GPU by accident.
pub(crate) const NAME: &str = "cuda-sim";

/// `cuDriverGetVersion`: CUDA 13.0.
const DRIVER_VERSION: c_int = 13_000;

const UUID: Uuid = Uuid(*b"cuda-sim-device0");

const PCI_BUS_ID: &str = "0000:00:00.0";

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Limits and sizes of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) multiprocessors: u32,
    pub(crate) shared_per_multiprocessor: u32,
    pub(crate) shared_per_block_optin: u32,
    l2_bytes: u32,
    l2_persisting_bytes: u32,
    clock_khz: u32,
    memory_clock_khz: u32,
    bus_bits: u32,
    /// Most blocks in a cluster without and with the non-portable attribute; 1 means there are no clusters.
    pub(crate) portable_cluster: u32,
    pub(crate) largest_cluster: u32,
}

impl Device {
    pub(crate) const THREADS_PER_BLOCK: u32 = 1024;
    pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];
    pub(crate) const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
    pub(crate) const SHARED_PER_BLOCK: u32 = 48 * KIB;
    /// What the system takes of shared memory for every resident block.
    pub(crate) const SHARED_RESERVED: u32 = KIB;
    pub(crate) const REGISTERS: u32 = 65_536;
    pub(crate) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
    pub(crate) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
    pub(crate) const WARP: u32 = 32;

    fn h200() -> Device {
        Device {
            major: 9,
            minor: 0,
            memory_bytes: 143_155 * u64::from(MIB),
            multiprocessors: 132,
            shared_per_multiprocessor: 228 * KIB,
            shared_per_block_optin: 227 * KIB,
            l2_bytes: 60 * MIB,
            l2_persisting_bytes: 37 * MIB + MIB / 2,
            clock_khz: 1_980_000,
            memory_clock_khz: 3_201_000,
            bus_bits: 6144,
            portable_cluster: 8,
            largest_cluster: 16,
        }
    }

    fn a100() -> Device {
        Device {
            major: 8,
            minor: 0,
            memory_bytes: 81_152 * u64::from(MIB),
            multiprocessors: 108,
            shared_per_multiprocessor: 164 * KIB,
            shared_per_block_optin: 163 * KIB,
            l2_bytes: 40 * MIB,
            l2_persisting_bytes: 30 * MIB,
            clock_khz: 1_410_000,
            memory_clock_khz: 1_593_000,
            bus_bits: 5120,
            portable_cluster: 1,
            largest_cluster: 1,
        }
    }

    /// The device that `CUDA_SIM_CC` (`9.0`, the default, or `8.0`) and `CUDA_SIM_MEMORY` (bytes) ask for.
    ///
    /// # Errors
    /// A sentence naming the variable, its value and what would be right.
    pub(crate) fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Device, String> {
        let mut device = match lookup("CUDA_SIM_CC").as_deref() {
            None | Some("" | "9.0") => Device::h200(),
            Some("8.0") => Device::a100(),
            Some(other) => return Err(format!("CUDA_SIM_CC is `{other}`; `9.0` or `8.0` would be right")),
        };
        if let Some(value) = lookup("CUDA_SIM_MEMORY").filter(|value| !value.is_empty()) {
            device.memory_bytes = value.parse().ok().filter(|&bytes| bytes > 0).ok_or_else(|| {
                format!("CUDA_SIM_MEMORY is `{value}`; the device's memory in bytes would be right")
            })?;
        }
        Ok(device)
    }

    /// `cuDeviceGetAttribute`: `None` for a number that the header does not have.
    fn attribute(&self, attribute: c_uint) -> Option<u32> {
        Some(match attribute {
            1 => Device::THREADS_PER_BLOCK,
            2..=4 => Device::BLOCK[attribute as usize - 2],
            5..=7 => Device::GRID[attribute as usize - 5],
            8 => Device::SHARED_PER_BLOCK,
            9 => 64 * KIB, // TOTAL_CONSTANT_MEMORY
            10 => Device::WARP,
            11 => i32::MAX as u32, // MAX_PITCH
            12 | 82 => Device::REGISTERS,
            13 => self.clock_khz,
            14 => 512, // TEXTURE_ALIGNMENT
            16 => self.multiprocessors,
            31 | 32 => 1, // CONCURRENT_KERNELS, ECC_ENABLED
            36 => self.memory_clock_khz,
            37 => self.bus_bits,
            38 => self.l2_bytes,
            39 => Device::THREADS_PER_MULTIPROCESSOR,
            40 => 3, // ASYNC_ENGINE_COUNT
            41 => 1, // UNIFIED_ADDRESSING
            75 => self.major,
            76 => self.minor,
            78..=80 => 1, // STREAM_PRIORITIES, GLOBAL_L1_CACHE, LOCAL_L1_CACHE
            81 => self.shared_per_multiprocessor,
            87 => 2, // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
            90 => 1, // COMPUTE_PREEMPTION
            97 => self.shared_per_block_optin,
            99 => 1, // HOST_REGISTER_SUPPORTED
            106 => Device::BLOCKS_PER_MULTIPROCESSOR,
            108 => self.l2_persisting_bytes,
            109 => 128 * MIB, // MAX_ACCESS_POLICY_WINDOW_SIZE
            111 => Device::SHARED_RESERVED,
            115 => 1, // MEMORY_POOLS_SUPPORTED
            120 => u32::from(self.largest_cluster > 1),
            // Every other attribute is a capability, and this device does not have it: textures and surfaces, mapped
            // and managed memory, peers, cooperative launches, virtual memory, IPC, tensor maps.
            15..=145 => 0,
            _ => return None,
        })
    }
}

/// There is one device, number 0.
fn check_ordinal(ordinal: c_int) -> Outcome {
    if ordinal == 0 { Ok(()) } else { Err(Code::INVALID_DEVICE) }
}

/// The same for an entry point that also needs the driver.
pub(crate) fn device(ordinal: c_int) -> Outcome<&'static Device> {
    let driver = driver()?;
    check_ordinal(ordinal)?;
    Ok(&driver.device)
}

/// Writes `text` and its NUL into a caller's buffer of `length` bytes, cut to fit.
fn put_text(text: &str, to: Out<c_char>, length: c_int) -> Outcome {
    let room =
        usize::try_from(length).ok().and_then(|length| length.checked_sub(1)).ok_or(Code::INVALID_VALUE)?;
    let bytes = text.bytes().take(room).chain([0]);
    for (at, byte) in bytes.enumerate() {
        to.at(at).put(byte as c_char)?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> Code {
    version.put(DRIVER_VERSION).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> Code {
    entry(|| driver().and_then(|_| count.put(1)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> Code {
    entry(|| {
        driver()?;
        check_ordinal(ordinal)?;
        device.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: Out<c_char>, length: c_int, ordinal: c_int) -> Code {
    entry(|| {
        device(ordinal)?;
        put_text(NAME, name, length)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: Out<Uuid>, ordinal: c_int) -> Code {
    entry(|| device(ordinal).and_then(|_| uuid.put(UUID)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, ordinal: c_int) -> Code {
    cuDeviceGetUuid(uuid, ordinal)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: c_int) -> Code {
    entry(|| bytes.put(device(ordinal)?.memory_bytes as usize))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_uint, ordinal: c_int) -> Code {
    entry(|| {
        let known = device(ordinal)?.attribute(attribute).ok_or(Code::INVALID_VALUE)?;
        value.put(known as c_int)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, ordinal: c_int) -> Code {
    entry(|| {
        let device = device(ordinal)?;
        major.put(device.major as c_int)?;
        minor.put(device.minor as c_int)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(text: Out<c_char>, length: c_int, ordinal: c_int) -> Code {
    entry(|| {
        device(ordinal)?;
        put_text(PCI_BUS_ID, text, length)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetByPCIBusId(ordinal: Out<c_int>, text: InText) -> Code {
    entry(|| {
        driver()?;
        if text.utf8()? == PCI_BUS_ID { ordinal.put(0) } else { Err(Code::INVALID_DEVICE) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, ordinal: c_int, peer: c_int) -> Code {
    entry(|| {
        device(ordinal)?;
        check_ordinal(peer)?;
        can.put(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::CUdevice_attribute as A;

    fn with(variables: &[(&str, &str)]) -> Result<Device, String> {
        Device::from_lookup(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn attributes_have_the_numbers_of_the_header() {
        let device = with(&[]).unwrap();
        let get = |attribute: A| device.attribute(attribute as u32).unwrap();
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X), 1024);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y), 1024);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z), 64);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X), 2_147_483_647);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y), 65_535);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z), 65_535);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 49_152);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 232_448);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR), 233_472);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK), 1024);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK), 65_536);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR), 65_536);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), 2048);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR), 32);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), 62_914_560);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH), 6144);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 0);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), 1);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY), 0);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY), 0);
        assert_eq!(get(A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING), 1);
        assert_eq!(device.attribute(0), None);
        assert_eq!(device.attribute(146), None);
    }

    #[test]
    fn the_environment_chooses_the_device() {
        let a100 = with(&[("CUDA_SIM_CC", "8.0"), ("CUDA_SIM_MEMORY", "1000000")]).unwrap();
        assert_eq!((a100.major, a100.minor, a100.memory_bytes), (8, 0, 1_000_000));
        assert_eq!(a100.attribute(97), Some(163 * 1024));
        assert_eq!(a100.attribute(120), Some(0));
        assert!(with(&[("CUDA_SIM_CC", "7.5")]).unwrap_err().contains("`7.5`"));
        assert!(with(&[("CUDA_SIM_MEMORY", "80GiB")]).unwrap_err().contains("CUDA_SIM_MEMORY"));
    }
}
