//! `asft info`: what this program is, what it finds on this machine, and which device it would take. And `--version`.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use asft::backend::cpu::CpuBackend;
use asft::backend::cuda::images;
use asft::backend::cuda::libraries::{self, Found};
use asft::backend::{Backend, BackendError, probe};
use clap::Args;
use cudarc::driver::{CudaContext, DriverError, sys::CUdevice_attribute};
use serde_json::{Value, json};

use super::exit::OrUsage;
use super::{ExitStatus, output};

/// How to print what was found.
#[derive(Args, Clone, Debug)]
pub struct InfoArguments {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What `--version` prints behind the name (`-V` prints the number alone).
pub static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = commit().map_or_else(String::new, |commit| format!(" (commit {commit})"));
    format!("{}{commit}\nkernels: {}", env!("CARGO_PKG_VERSION"), kernels())
});

/// Looks at the machine; nothing that is missing is an error.
pub fn run(arguments: &InfoArguments) -> anyhow::Result<ExitStatus> {
    let info = Info::new()?;
    output::print(&if arguments.json { format!("{}\n", info.json()) } else { info.text() })?;
    Ok(ExitStatus::Success)
}

fn commit() -> Option<&'static str> {
    option_env!("ASFT_COMMIT")
}

/// What the program carries.
fn kernels() -> String {
    match images::COMPILED_BY {
        Some((major, minor)) => format!(
            "{} files for {} (cubin and PTX each), compiled by NVRTC {major}.{minor}",
            images::kernel_sources().count(),
            images::architectures().join(", ")
        ),
        None => "sources only, compiled on first use".to_owned(),
    }
}

fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

struct Info {
    cpu: Cpu,
    driver: Option<Driver>,
    gpu: Result<Gpu, String>,
    cublas_lt: Result<Library, String>,
    nvrtc: Result<Library, String>,
    /// The device that `--device auto` takes, and why it is not the GPU.
    auto: (String, Option<String>),
}

struct Cpu {
    model: Option<String>,
    backend: String,
    threads: usize,
    free_bytes: Option<u64>,
}

struct Driver {
    cuda: String,
    file: Option<PathBuf>,
}

struct Gpu {
    name: String,
    devices: i32,
    capability: String,
    multiprocessors: i32,
    free_bytes: usize,
    total_bytes: usize,
    /// What became of the kernels on this device.
    kernels: String,
}

struct Library {
    version: Option<String>,
    found: Found,
}

impl Info {
    fn new() -> anyhow::Result<Self> {
        let cpu = CpuBackend::new(0).or_usage()?;
        let version = probe::driver_version();
        let major = version.map(|(major, _)| major);
        let auto = match probe::cuda(false) {
            Ok(context) => (context.name().unwrap_or_else(|_| "cuda".to_owned()), None),
            Err(reason) => (cpu.name(), Some(reason.to_string())),
        };
        Ok(Self {
            driver: version.map(|version| Driver { cuda: dotted(version), file: probe::driver_file() }),
            gpu: probe::first_device()
                .map_err(|error| error.to_string())
                .and_then(|context| Gpu::new(&context).map_err(|error| error.to_string())),
            cublas_lt: libraries::cublas_lt(major).map_err(ToString::to_string).map(|found| Library {
                version: libraries::cublas_lt_version().map(|[a, b, c]| format!("{a}.{b}.{c}")),
                found: found.clone(),
            }),
            nvrtc: libraries::nvrtc(major).map_err(ToString::to_string).map(|(nvrtc, found)| Library {
                version: nvrtc.version().ok().map(dotted),
                found: found.clone(),
            }),
            auto,
            cpu: Cpu {
                model: cpu_model(),
                backend: cpu.name(),
                threads: cpu.threads(),
                free_bytes: cpu.available_memory(),
            },
        })
    }

    fn text(&self) -> String {
        let mut text = format!("asft {}", env!("CARGO_PKG_VERSION"));
        if let Some(commit) = commit() {
            text += &format!(" (commit {commit})");
        }
        text += "\n\n";
        // Writing to a String cannot fail.
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:10} {value}");
        };
        line("kernels", &kernels());
        line("driver", &self.driver.as_ref().map_or_else(|| "none".to_owned(), Driver::text));
        match &self.gpu {
            Ok(gpu) => {
                line("GPU", &gpu.text());
                line("loaded", &gpu.kernels);
            }
            Err(reason) => line("GPU", &format!("none: {reason}")),
        }
        for (name, library) in [("cublasLt", &self.cublas_lt), ("NVRTC", &self.nvrtc)] {
            match library {
                Ok(library) => line(name, &library.text()),
                Err(_) if self.driver.is_none() => line(name, "none"),
                Err(reason) => line(name, &format!("none: {reason}")),
            }
        }
        line("CPU", &self.cpu.text());
        let all_there = || ", the first CUDA device: what it needs is there".to_owned();
        let why = self.auto.1.as_ref().map_or_else(all_there, |reason| format!(", because: {reason}"));
        let _ = writeln!(text, "\n--device auto takes {}{why}", self.auto.0);
        text
    }

    fn json(&self) -> Value {
        let library = |library: &Result<Library, String>| match library {
            Ok(Library { version, found }) => {
                json!({ "version": version, "file": found.file, "place": found.place })
            }
            Err(reason) => json!({ "missing": reason }),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": commit(),
            "kernels": {
                "files": images::kernel_sources().collect::<Vec<_>>(),
                "architectures": images::architectures(),
                "compiled_by_nvrtc": images::COMPILED_BY.map(dotted),
            },
            "driver": self.driver.as_ref().map(|driver| json!({ "cuda": driver.cuda, "file": driver.file })),
            "gpu": match &self.gpu {
                Ok(gpu) => gpu.json(),
                Err(reason) => json!({ "missing": reason }),
            },
            "cublas_lt": library(&self.cublas_lt),
            "nvrtc": library(&self.nvrtc),
            "cpu": {
                "model": self.cpu.model,
                "backend": self.cpu.backend,
                "threads": self.cpu.threads,
                "free_bytes": self.cpu.free_bytes,
            },
            "auto": { "device": self.auto.0, "why_not_the_gpu": self.auto.1 },
        })
    }
}

impl Driver {
    fn text(&self) -> String {
        let file = self.file.as_ref().map_or_else(String::new, |file| format!(", {}", file.display()));
        format!("CUDA {}{file}", self.cuda)
    }
}

impl Library {
    fn text(&self) -> String {
        let version = self.version.as_deref().unwrap_or("of unknown version");
        let file = self.found.file.as_ref().map_or_else(String::new, |file| format!(", {}", file.display()));
        format!("{version}{file} (from {})", self.found.place)
    }
}

impl Cpu {
    fn text(&self) -> String {
        let model = self.model.as_deref().unwrap_or("of unknown model");
        let free = self.free_bytes.map_or_else(String::new, |bytes| format!(", {} free", gib(bytes)));
        format!("{model}: {}, {} threads{free}", self.backend, self.threads)
    }
}

impl Gpu {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let (major, minor) = context.compute_capability()?;
        let (free_bytes, total_bytes) = context.mem_get_info()?;
        let multiprocessors = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(Self {
            name: context.name()?,
            devices: CudaContext::device_count()?,
            capability: format!("{major}.{minor}"),
            multiprocessors: context.attribute(multiprocessors)?,
            free_bytes,
            total_bytes,
            kernels: loaded(context, images::capability(context)?),
        })
    }

    fn text(&self) -> String {
        let count = if self.devices > 1 {
            format!(" (the first of {} devices)", self.devices)
        } else {
            String::new()
        };
        format!(
            "{}{count}: compute capability {}, {} SMs, {} of {} free",
            self.name,
            self.capability,
            self.multiprocessors,
            gib(self.free_bytes as u64),
            gib(self.total_bytes as u64)
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "devices": self.devices,
            "compute_capability": self.capability,
            "multiprocessors": self.multiprocessors,
            "free_bytes": self.free_bytes,
            "total_bytes": self.total_bytes,
            "loaded": self.kernels,
        })
    }
}

/// Which image each kernel file becomes on the device. Nothing is compiled for the mere question.
fn loaded(context: &Arc<CudaContext>, device: u32) -> String {
    if !images::serves(device) {
        return "no embedded image serves this device: the sources are compiled on first use".to_owned();
    }
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for source in images::kernel_sources() {
        let what = match images::load_image(context, source) {
            Ok((_, loaded)) => loaded.to_string(),
            Err(BackendError::Device { reason, .. }) => reason,
            Err(error) => error.to_string(),
        };
        match groups.iter_mut().find(|(other, _)| *other == what) {
            Some((_, sources)) => sources.push(source),
            None => groups.push((what, vec![source])),
        }
    }
    if let [(what, sources)] = groups.as_slice() {
        return format!("{what}, all {} files", sources.len());
    }
    let lines: Vec<String> =
        groups.iter().map(|(what, sources)| format!("{what}: {}", sources.join(", "))).collect();
    lines.join("; ")
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The processor's own name.
fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
