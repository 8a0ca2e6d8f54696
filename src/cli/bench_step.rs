//! `asft bench step`.

use std::fmt::Write;

use asft::bench::step::{self, StepReport};
use asft::bench::workload::Amount;
use clap::Args;

use super::bench::{CommonArguments, WorkloadName, flops, gib, outcome, parse_count, time};
use super::device::on_device;
use super::{ExitStatus, output};

/// What to measure a step on.
#[derive(Args, Clone, Debug)]
pub struct StepArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// Pairs per optimizer step [default: 8; 4 with 57m, 32 with quickstart]
    #[arg(long, value_name = "N", help_heading = "Workload", value_parser = parse_count)]
    pairs: Option<usize>,
    /// As few pairs as make this many tokens, such as 64k, instead of --pairs
    #[arg(long, value_name = "TOKENS", help_heading = "Workload", value_parser = parse_count, conflicts_with = "pairs")]
    tokens_per_step: Option<usize>,
    /// Lengths of the pairs
    #[arg(long, value_name = "KIND", value_enum, default_value = "even", help_heading = "Workload")]
    workload: WorkloadName,
    /// Steps that count
    #[arg(long, value_name = "N", default_value = "5", help_heading = "Workload", value_parser = parse_count)]
    steps: usize,
    /// Steps before them that do not
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Workload")]
    warmup: usize,
}

/// Measures one training step.
pub fn run(arguments: &StepArguments) -> anyhow::Result<ExitStatus> {
    let amount = arguments.tokens_per_step.map(Amount::Tokens).or(arguments.pairs.map(Amount::Pairs));
    let steps = arguments.warmup.saturating_add(arguments.steps);
    let request = arguments.common.request(arguments.workload.into(), amount, steps)?;
    let backend = arguments.common.choose(&request)?;
    let report = outcome(on_device!(backend, backend => step::run(&request, arguments.warmup, backend)))?;
    let text =
        if arguments.common.json { format!("{}\n", serde_json::to_string(&report)?) } else { table(&report) };
    output::print(&text)?;
    Ok(ExitStatus::Success)
}

fn table(report: &StepReport) -> String {
    let mut text = format!(
        "{} ({} parameters), {}, {} pairs per step ({}), on {}\n\n",
        report.shape, report.parameters, report.objective, report.pairs, report.workload, report.facts.device
    );
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:16} {value}");
    };
    let times = report.step_times_s.iter().map(|&seconds| time(seconds)).collect::<Vec<_>>().join(", ");
    line("step", format!("{} (median of {times})", time(report.step_s)));
    line("pairs/s", format!("{:.3}", report.pairs_per_s));
    line("tokens/s", format!("{:.1} (prompts counted once, no padding)", report.tokens_per_s));
    line("tokens", format!("{}, {} of them scored", report.tokens, report.response_tokens));
    if let Some(seconds) = report.reference_s {
        line("reference", format!("{} for these pairs, once before training", time(seconds)));
    }
    line(
        "micro-batches",
        format!(
            "{} of up to {} tokens, {} rows of logits at a time; computed again: {}",
            report.micro_batches, report.tokens_per_batch, report.head_rows, report.recompute
        ),
    );
    line(
        "formats",
        format!(
            "{}, logits {}, optimizer state {}",
            report.dtype, report.head_logits, report.optimizer_state
        ),
    );
    let utilisation = report.utilisation.zip(report.peak_tflops_per_s);
    let share = utilisation.map(|(share, peak)| format!(", {:.1}% of {peak} TFLOP/s", 100.0 * share));
    line(
        "operations",
        format!(
            "{:.4e} a step, {}{}",
            report.flops.total() as f64,
            flops(report.tflops_per_s),
            share.unwrap_or_default()
        ),
    );
    let measured = [
        ("process at its peak", report.peak_rss_bytes),
        ("on the device", report.device_peak_bytes),
        ("less free on the device", report.device_taken_bytes),
    ];
    let measured = measured.into_iter().filter_map(|(what, bytes)| Some(format!("{what} {}, ", gib(bytes?))));
    line("memory", format!("{}plan {}", measured.collect::<String>(), gib(report.plan_bytes)));
    if report.facts.build == "debug" {
        line("build", "debug: these times say nothing about a release build".to_owned());
    }
    if !report.operations.is_empty() {
        text += &operations(report);
    }
    text
}

/// Where the time of a step went, the longest first.
fn operations(report: &StepReport) -> String {
    let mut text = format!("\n{:36} {:>5} {:>12} {:>7}\n", "operation", "calls", "a step", "share");
    let all = report.step_times_s.iter().sum::<f64>() / report.step_times_s.len() as f64;
    for operation in &report.operations {
        let rate = operation.flops.map(|count| format!("  {}", flops(count / operation.seconds / 1e12)));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:36} {:>5} {:>12} {:>6.1}%{}",
            operation.name,
            operation.calls,
            time(operation.seconds),
            100.0 * operation.seconds / all,
            rate.unwrap_or_default()
        );
    }
    text
}
