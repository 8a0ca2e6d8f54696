//! `asft plan`: what a run would take, before it takes anything.

use std::fmt::Write;

use asft::backend::cpu::CpuBackend;
use asft::backend::{Backend, DeviceKind, probe};
use asft::config::{Device, TrainArguments, TrainConfig};
use asft::model::Recompute;
use asft::plan::{ARENAS, Arena, MemoryPlan};
use asft::train::{Prepared, Target, TrainError, plan_without_data};
use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::exit::OrUsage;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers, output};

/// The flags of train, and how to print.
#[derive(Args, Clone, Debug)]
pub struct PlanArguments {
    /// Print JSON instead of a table: every tensor with its shape and bytes
    #[arg(long, help_heading = "Settings")]
    json: bool,
    /// Plan for a GPU with this much memory, which need not be there: 80GB, 141GB, 24GiB
    #[arg(long, value_name = "SIZE", help_heading = "Settings")]
    gpu_memory: Option<ByteSize>,
    #[command(flatten)]
    train: Layers<TrainArguments>,
}

/// Plans the run of the merged settings.
pub fn run(arguments: &PlanArguments) -> anyhow::Result<ExitStatus> {
    let config =
        arguments.train.merge().or_usage()?.arguments.resolve_plan(default_learning_rate).or_usage()?;
    let (target, whose) = target(&config, arguments.gpu_memory)?;
    let planned = Planned::new(&config, target)?;
    output::print(&if arguments.json { planned.json(target.memory) } else { planned.table(target, whose) })?;
    Ok(ExitStatus::Success)
}

/// What to plan for, and whose memory that is.
fn target(config: &TrainConfig, gpu_memory: Option<ByteSize>) -> anyhow::Result<(Target, &'static str)> {
    if let Some(memory) = gpu_memory {
        if config.device.device == Device::Cpu {
            return Err(anyhow::anyhow!("--gpu-memory is for --device cuda")).or_usage();
        }
        return Ok((Target::new(DeviceKind::Cuda, Some(memory.as_u64())), "are left on that GPU"));
    }
    let found = match config.device.device {
        Device::Cpu => None,
        device => probe::cuda(device == Device::Cuda).ok(),
    };
    if let Some(context) = found {
        let memory = context.mem_get_info().ok().map(|(free, _)| free as u64);
        return Ok((Target::new(DeviceKind::Cuda, memory), "are left on the GPU"));
    }
    if config.device.device == Device::Cuda {
        return Ok((Target { kind: DeviceKind::Cuda, memory: None }, ""));
    }
    let memory = CpuBackend::new(1).or_usage()?.available_memory();
    Ok((Target { kind: DeviceKind::Cpu, memory }, "are free on this machine"))
}

/// What the table shows.
struct Planned {
    plan: MemoryPlan,
    tokens: usize,
    rows: usize,
    head_rows: usize,
    recompute: Recompute,
    /// Bytes of activations kept at each level.
    kept: [usize; Recompute::ALL.len()],
    parameters: usize,
    steps: Option<usize>,
}

impl Planned {
    fn new(config: &TrainConfig, target: Target) -> anyhow::Result<Self> {
        let (layout, steps) = if config.data.files.is_empty() {
            (plan_without_data(config, target).or_usage()?, None)
        } else {
            let prepared = match Prepared::new(config, target) {
                // The smallest plan is shown even if it does not fit.
                Err(TrainError::Memory { tokens, .. }) => {
                    let mut smallest = config.clone();
                    smallest.device.max_tokens_per_batch = Some(tokens);
                    smallest.device.recompute.get_or_insert(Recompute::Blocks);
                    Prepared::new(&smallest, Target { memory: None, ..target })
                }
                prepared => prepared,
            };
            let prepared = prepared.or_usage()?;
            (prepared.layout, Some(prepared.steps))
        };
        let activations = &layout.activations;
        Ok(Self {
            parameters: layout.model.table.count(),
            tokens: activations.budget.tokens,
            rows: activations.budget.rows,
            head_rows: activations.budget.head_rows,
            recompute: activations.recompute,
            kept: Recompute::ALL.map(|level| layout.kept_at(level)),
            plan: layout.plan,
            steps,
        })
    }

    fn table(&self, target: Target, whose: &str) -> String {
        let mut text = String::new();
        let total = self.plan.total_bytes() as u64;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} parameters; micro-batches of up to {} tokens and {} scored tokens, {} rows of logits at a time; the \
             backward pass computes again: {}",
            self.parameters,
            self.tokens,
            self.rows,
            self.head_rows,
            self.recompute.name()
        );
        if let Some(steps) = self.steps {
            let _ = writeln!(text, "{steps} optimizer steps");
        }
        let _ = writeln!(text, "\n{:36} {:>8} {:>14} {:>10}", "", "tensors", "bytes", "GiB");
        for arena in ARENAS {
            let tensors = self.plan.entries().iter().filter(|entry| entry.arena == arena).count();
            if tensors > 0 {
                let shared = if arena.is_scratch() { " *" } else { "" };
                let bytes = self.plan.bytes(arena);
                let _ = writeln!(
                    text,
                    "{:36} {tensors:>8} {bytes:>14} {:>10.3}",
                    format!("{}{shared}", arena.title()),
                    gib(bytes as u64)
                );
            }
        }
        let _ = writeln!(text, "{:36} {:>8} {total:>14} {:>10.3}", "total", "", gib(total));
        let levels = Recompute::ALL.iter().zip(self.kept);
        let kept = levels.map(|(level, bytes)| format!("{} {:.3} GiB", level.name(), gib(bytes as u64)));
        let _ = writeln!(
            text,
            "\nactivations kept for backward by --recompute: {}",
            kept.collect::<Vec<_>>().join(", ")
        );
        text.push_str("* used one after another in the same memory; the largest counts\n");
        let verdict = match target.memory {
            Some(free) if free >= total => format!("fits: {:.2} GiB {whose}", gib(free)),
            Some(free) => format!(
                "does not fit: {:.2} GiB {whose}. Smaller --max-tokens-per-batch shrinks the activations, --recompute \
                 blocks too, --head-rows the logits, --max-length all of these{}",
                gib(free),
                if target.kind == DeviceKind::Cuda {
                    ", --optimizer-state 8bit what the optimizer keeps"
                } else {
                    ""
                }
            ),
            None if target.kind == DeviceKind::Cuda => {
                "no GPU here to compare with; --gpu-memory SIZE plans for one".to_owned()
            }
            None => "this system does not say how much memory is free".to_owned(),
        };
        let _ = writeln!(text, "{verdict}");
        text
    }

    fn json(&self, available: Option<u64>) -> String {
        let tensors: Vec<Value> = self
            .plan
            .entries()
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.name,
                    "arena": entry.arena.title(),
                    "dtype": entry.view.element.name(),
                    "shape": entry.shape,
                    "bytes": entry.view.bytes(),
                })
            })
            .collect();
        let arenas: serde_json::Map<String, Value> = ARENAS
            .iter()
            .map(|&arena: &Arena| (arena.title().to_owned(), json!(self.plan.bytes(arena))))
            .collect();
        let plan = json!({
            "parameters": self.parameters,
            "tokens": self.tokens,
            "rows": self.rows,
            "head_rows": self.head_rows,
            "recompute": self.recompute.name(),
            "activations_by_recompute": Recompute::ALL
                .iter()
                .zip(self.kept)
                .map(|(level, bytes)| (level.name().to_owned(), json!(bytes)))
                .collect::<serde_json::Map<_, _>>(),
            "steps": self.steps,
            "total_bytes": self.plan.total_bytes(),
            "available_bytes": available,
            "arenas": arenas,
            "tensors": tensors,
        });
        format!("{plan}\n")
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}
