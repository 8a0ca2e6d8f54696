//! Which backend a command runs on.

use asft::backend::cpu::{CpuBackend, Level, Operands};
use asft::backend::cuda::CudaBackend;
use asft::backend::{Backend, Element, probe};
use asft::config::Device;

use super::exit::OrUsage;

/// The backend in use.
pub enum Chosen {
    /// The CPU.
    Cpu(CpuBackend),
    /// A CUDA device.
    Cuda(Box<CudaBackend>),
}

/// Takes the device that was asked for, and says which and why.
pub fn choose(device: Device, threads: Option<usize>, dtype: Option<Element>) -> anyhow::Result<Chosen> {
    let cpu = |why: &str| -> anyhow::Result<Chosen> {
        let backend = CpuBackend::new(threads.unwrap_or(0)).or_usage()?.with_operands(operands(dtype));
        tracing::info!("device: {}, {} threads{why}", backend.name(), backend.threads());
        if backend.operands() == Operands::Bf16 && backend.level() < Level::Avx512Bf16 {
            tracing::warn!(
                "this CPU has no products of bf16 (AVX512-BF16): --dtype bf16 is no faster than f32"
            );
        }
        Ok(Chosen::Cpu(backend))
    };
    if device == Device::Cpu {
        return cpu("");
    }
    let context = match probe::cuda(device == Device::Cuda) {
        Ok(context) => context,
        Err(reason) if device == Device::Auto => return cpu(&format!(" ({reason})")),
        Err(reason) => return Err(reason).or_usage(),
    };
    let backend = CudaBackend::new(context).or_usage()?;
    tracing::info!("device: {}", backend.name());
    Ok(Chosen::Cuda(Box::new(backend)))
}

/// What matrix products on the CPU round their operands to.
pub fn operands(dtype: Option<Element>) -> Operands {
    if dtype == Some(Element::Bf16) { Operands::Bf16 } else { Operands::F32 }
}

/// Runs generic code on whichever backend was chosen.
macro_rules! on_device {
    ($chosen:expr, $backend:ident => $work:expr) => {
        match $chosen {
            $crate::cli::device::Chosen::Cpu($backend) => $work,
            $crate::cli::device::Chosen::Cuda($backend) => {
                let $backend = *$backend;
                $work
            }
        }
    };
}
pub(super) use on_device;
