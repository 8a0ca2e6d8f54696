//! `asft plan`: what a run would take, before it takes anything.

use std::fmt::Write;

use asft::backend::Backend;
use asft::backend::cpu::CpuBackend;
use asft::config::{TrainArguments, TrainConfig};
use asft::plan::{ARENAS, Arena, MemoryPlan};
use asft::train::{Prepared, plan_without_data};
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
    #[command(flatten)]
    train: Layers<TrainArguments>,
}

/// Plans the run of the merged settings.
pub fn run(arguments: &PlanArguments) -> anyhow::Result<ExitStatus> {
    let config =
        arguments.train.merge().or_usage()?.arguments.resolve_plan(default_learning_rate).or_usage()?;
    let available = CpuBackend::new(1).or_usage()?.available_memory();
    let planned = Planned::new(&config)?;
    output::print(&if arguments.json { planned.json(available) } else { planned.table(available) })?;
    Ok(ExitStatus::Success)
}

/// What the table shows.
struct Planned {
    plan: MemoryPlan,
    tokens: usize,
    rows: usize,
    head_rows: usize,
    parameters: usize,
    steps: Option<usize>,
}

impl Planned {
    fn new(config: &TrainConfig) -> anyhow::Result<Self> {
        let (layout, steps) = if config.data.files.is_empty() {
            (plan_without_data(config).or_usage()?, None)
        } else {
            // The plan is shown even if it does not fit.
            let prepared = Prepared::new(config, None).or_usage()?;
            (prepared.layout, Some(prepared.steps))
        };
        let budget = layout.activations.budget;
        Ok(Self {
            parameters: layout.model.table.count(),
            plan: layout.plan,
            tokens: budget.tokens,
            rows: budget.rows,
            head_rows: budget.head_rows,
            steps,
        })
    }

    fn table(&self, available: Option<u64>) -> String {
        let mut text = String::new();
        let total = self.plan.total_bytes() as u64;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} parameters; micro-batches of up to {} tokens and {} scored tokens, {} rows of logits at a time",
            self.parameters, self.tokens, self.rows, self.head_rows
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
        text.push_str("\n* used one after another in the same memory; the largest counts\n");
        let verdict = match available {
            Some(free) if free >= total => format!("fits: {:.2} GiB are free on this machine", gib(free)),
            Some(free) => format!(
                "does not fit: {:.2} GiB are free on this machine. Smaller --max-tokens-per-batch shrinks the \
                 activations, --head-rows the logits, --max-length both",
                gib(free)
            ),
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
