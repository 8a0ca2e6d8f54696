//! `asft bench kernels`.

use std::fmt::Write;

use asft::backend::{Backend, DeviceKind};
use asft::bench::kernels::{self, Bound, KernelReports, RateSizes, Settings};
use asft::bench::timing::Timing;
use asft::bench::workload::Amount;
use asft::bench::{Kind, Request};
use bytesize::ByteSize;
use clap::Args;

use super::bench::{CommonArguments, flops, outcome, parse_count, time};
use super::device::on_device;
use super::{ExitStatus, output};

/// Which operations to measure, at which sizes.
#[derive(Args, Clone, Debug)]
pub struct KernelArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// As few pairs as make this many tokens [default: the pairs of bench step]
    #[arg(long, value_name = "TOKENS", help_heading = "Workload", value_parser = parse_count)]
    tokens: Option<usize>,
    /// Only operations whose name begins with this; may be given more than once
    #[arg(long, value_name = "NAME", help_heading = "Measurement")]
    only: Vec<String>,
    /// Rounds whose median counts
    #[arg(long, value_name = "N", default_value = "5", help_heading = "Measurement", value_parser = parse_count)]
    rounds: usize,
    /// Milliseconds that a round lasts at least
    #[arg(long, value_name = "MS", default_value = "20", help_heading = "Measurement", value_parser = parse_count)]
    round_ms: usize,
    /// Bytes of the copy that is the measure of memory-bound operations [default: 1GiB; 256MiB on the CPU]
    #[arg(long, value_name = "SIZE", help_heading = "Measurement")]
    copy_size: Option<ByteSize>,
    /// Side of the square product that is the measure of products [default: 8192; 1024 on the CPU]
    #[arg(long, value_name = "N", help_heading = "Measurement", value_parser = parse_count)]
    square: Option<usize>,
}

/// Measures the operations.
pub fn run(arguments: &KernelArguments) -> anyhow::Result<ExitStatus> {
    let amount = arguments.tokens.map(Amount::Tokens);
    let request = arguments.common.request(Kind::Even, amount, 1)?;
    let backend = arguments.common.choose(&request)?;
    let reports = on_device!(backend, backend => measure(arguments, &request, backend))?;
    output::print(&if arguments.common.json { json(&reports)? } else { table(&reports) })?;
    Ok(ExitStatus::Success)
}

fn measure<B: Backend>(
    arguments: &KernelArguments,
    request: &Request,
    backend: B,
) -> anyhow::Result<KernelReports> {
    let (copy, square) = match B::KIND {
        DeviceKind::Cpu => (256 << 20, 1024),
        DeviceKind::Cuda => (1 << 30, 8192),
    };
    let copy_bytes = arguments.copy_size.map_or(copy, |size| size.as_u64().max(1) as usize);
    let settings = Settings {
        timing: Timing { rounds: arguments.rounds, round_seconds: arguments.round_ms as f64 / 1e3 },
        rates: RateSizes { copy_bytes, square: arguments.square.unwrap_or(square) },
        only: arguments.only.clone(),
    };
    outcome(kernels::run(request, &settings, backend))
}

fn json(reports: &KernelReports) -> anyhow::Result<String> {
    let mut lines = vec![serde_json::to_string(&reports.machine)?];
    for kernel in &reports.kernels {
        lines.push(serde_json::to_string(kernel)?);
    }
    if let Some(head) = &reports.head {
        lines.push(serde_json::to_string(head)?);
    }
    Ok(lines.join("\n") + "\n")
}

fn table(reports: &KernelReports) -> String {
    let machine = &reports.machine;
    let mut text = format!(
        "{} on {}: {} tokens, {} scored, {}\ncopy {:.1} GB/s, product {}\n\n",
        machine.shape,
        machine.facts.device,
        machine.tokens,
        machine.response_tokens,
        machine.dtype,
        machine.rates.copy_gb_per_s,
        flops(machine.rates.product_tflops_per_s)
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:24} {:>11} {:>16} {:>16}  sizes", "", "time", "rate", "share of");
    for kernel in &reports.kernels {
        let (rate, of) = match kernel.bound {
            Bound::Copy => (format!("{:.1} GB/s", kernel.gb_per_s), "copy"),
            Bound::Product => (flops(kernel.tflops_per_s), "product"),
        };
        let share = format!("{:.0}% {of}", 100.0 * kernel.share);
        let _ = writeln!(
            text,
            "{:24} {:>11} {rate:>16} {share:>16}  {}",
            kernel.name,
            time(kernel.measured.seconds),
            kernel.detail
        );
    }
    if let Some(head) = reports.head {
        let _ = writeln!(
            text,
            "\nthe whole head takes {:.2} times as long as its three products (target: at most {})",
            head.head_over_products, head.target
        );
    }
    if machine.facts.build == "debug" {
        text.push_str("\ndebug build: these times say nothing about a release build\n");
    }
    text
}
