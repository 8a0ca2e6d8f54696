//! Functions: what they need and what they may be given.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::sync::Arc;

use super::abi::{FunctionHandle, ModuleHandle, Out};
use super::codes::{Code, Outcome};
use super::device::Device;
use super::state::{current, entry};
use crate::engine::{FunctionAttributes, FunctionId, Module, ParameterLayout};

/// One kernel of a loaded module.
pub(crate) struct Function {
    pub(crate) module: ModuleHandle,
    /// Keeps the code while a graph may still run it.
    pub(crate) code: Arc<Module>,
    pub(crate) id: FunctionId,
    pub(crate) name: String,
    c_name: CString,
    pub(crate) attributes: FunctionAttributes,
    /// Most dynamic shared memory that a launch may ask for.
    pub(crate) dynamic_shared_limit: u32,
    /// `None` until the client sets it: the driver's choice.
    carveout: Option<c_int>,
    pub(crate) non_portable_cluster: bool,
    cluster_policy: c_int,
}

/// `CUfunction_attribute`.
mod attribute {
    use std::ffi::c_uint;

    pub(super) const MAX_THREADS_PER_BLOCK: c_uint = 0;
    pub(super) const SHARED_BYTES: c_uint = 1;
    pub(super) const CONST_BYTES: c_uint = 2;
    pub(super) const LOCAL_BYTES: c_uint = 3;
    pub(super) const REGISTERS: c_uint = 4;
    pub(super) const PTX_VERSION: c_uint = 5;
    pub(super) const BINARY_VERSION: c_uint = 6;
    pub(super) const CACHE_MODE_CA: c_uint = 7;
    pub(super) const MAX_DYNAMIC_SHARED_BYTES: c_uint = 8;
    pub(super) const SHARED_CARVEOUT: c_uint = 9;
    pub(super) const CLUSTER_MUST_BE_SET: c_uint = 10;
    pub(super) const CLUSTER_WIDTH: c_uint = 11;
    pub(super) const CLUSTER_DEPTH: c_uint = 13;
    pub(super) const NON_PORTABLE_CLUSTER: c_uint = 14;
    pub(super) const CLUSTER_POLICY: c_uint = 15;
}

impl Function {
    pub(crate) fn new(module: ModuleHandle, code: Arc<Module>, id: FunctionId, name: &str) -> Function {
        let attributes = code.attributes(id);
        Function {
            module,
            id,
            name: name.to_owned(),
            c_name: CString::new(name).unwrap_or_default(),
            dynamic_shared_limit: Device::SHARED_PER_BLOCK.saturating_sub(attributes.static_shared_bytes),
            attributes,
            code,
            carveout: None,
            non_portable_cluster: false,
            cluster_policy: 0,
        }
    }

    pub(crate) fn parameters(&self) -> &[ParameterLayout] {
        self.code.parameters(self.id)
    }

    fn attribute(&self, attribute: c_uint) -> Outcome<c_int> {
        use attribute::*;
        let own = &self.attributes;
        Ok(match attribute {
            MAX_THREADS_PER_BLOCK => own.max_threads as c_int,
            SHARED_BYTES => own.static_shared_bytes as c_int,
            CONST_BYTES => own.const_bytes as c_int,
            LOCAL_BYTES => own.local_bytes as c_int,
            REGISTERS => own.registers as c_int,
            PTX_VERSION => own.ptx_version as c_int,
            BINARY_VERSION => own.binary_version as c_int,
            CACHE_MODE_CA => 0,
            MAX_DYNAMIC_SHARED_BYTES => self.dynamic_shared_limit as c_int,
            SHARED_CARVEOUT => self.carveout.unwrap_or(-1),
            CLUSTER_MUST_BE_SET => 0,
            CLUSTER_WIDTH..=CLUSTER_DEPTH => {
                let axis = (attribute - CLUSTER_WIDTH) as usize;
                own.required_cluster.map_or(0, |cluster| cluster[axis] as c_int)
            }
            NON_PORTABLE_CLUSTER => c_int::from(self.non_portable_cluster),
            CLUSTER_POLICY => self.cluster_policy,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn set_attribute(&mut self, device: &Device, attribute: c_uint, value: c_int) -> Outcome {
        use attribute::*;
        match attribute {
            MAX_DYNAMIC_SHARED_BYTES => {
                let room = device.shared_per_block_optin.saturating_sub(self.attributes.static_shared_bytes);
                let wanted = u32::try_from(value).ok().filter(|&bytes| bytes <= room);
                self.dynamic_shared_limit = wanted.ok_or(Code::INVALID_VALUE)?;
            }
            SHARED_CARVEOUT if (-1..=100).contains(&value) => self.carveout = Some(value),
            NON_PORTABLE_CLUSTER if (0..=1).contains(&value) => self.non_portable_cluster = value == 1,
            CLUSTER_POLICY if (0..=2).contains(&value) => self.cluster_policy = value,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_uint, function: FunctionHandle) -> Code {
    entry(|| value.put(current()?.state.functions.get(function)?.attribute(attribute)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: FunctionHandle, attribute: c_uint, value: c_int) -> Code {
    entry(|| {
        let mut current = current()?;
        let device = &current.driver.device;
        current.state.functions.get_mut(function)?.set_attribute(device, attribute, value)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: FunctionHandle, config: c_uint) -> Code {
    entry(|| {
        current()?.state.functions.get(function)?;
        // A preference that this device has no use for.
        if config < 4 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetModule(module: Out<ModuleHandle>, function: FunctionHandle) -> Code {
    entry(|| module.put(current()?.state.functions.get(function)?.module))
}

/// The name lives as long as the function.
#[unsafe(no_mangle)]
extern "C" fn cuFuncGetName(name: Out<*const c_char>, function: FunctionHandle) -> Code {
    entry(|| name.put(current()?.state.functions.get(function)?.c_name.as_ptr()))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamInfo(
    function: FunctionHandle,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> Code {
    entry(|| {
        let current = current()?;
        let parameter = current.state.functions.get(function)?.parameters().get(index).copied();
        let parameter = parameter.ok_or(Code::INVALID_VALUE)?;
        offset.put(parameter.offset)?;
        bytes.put_if_wanted(parameter.bytes)
    })
}
