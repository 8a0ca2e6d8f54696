//! `asft plan`: what a run would take, before it takes anything.

use asft::backend::cpu::CpuBackend;
use asft::backend::{Backend, DeviceKind, probe};
use asft::config::{Device, ExistingFolder, ReferenceMode, TrainArguments, TrainConfig};
use asft::plan::{Arena, Entry};
use asft::train::{DiskNeed, Estimate, Layout, Prepared, Shortfall, Target, disk, plan_without_data};
use bytesize::ByteSize;
use clap::Args;

use super::exit::OrUsage;
use super::progress::Bars;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers, output, plan_json, plan_table};

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
    let mut config =
        arguments.train.merge().or_usage()?.arguments.resolve_plan(default_learning_rate).or_usage()?;
    if matches!(config.run.existing, ExistingFolder::ResumeLatest | ExistingFolder::Resume(_)) {
        // A run that goes on is cut into the micro-batches that it began with.
        let command: Vec<String> = std::env::args().collect();
        asft::train::start(&mut config, &command).or_usage()?;
    }
    let (target, whose) = target(&config, arguments.gpu_memory)?;
    let planned = Planned::new(&config, target, whose)?;
    output::print(&if arguments.json { plan_json::json(&planned) } else { plan_table::table(&planned) })?;
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

/// What is printed.
pub struct Planned {
    /// Every tensor.
    pub layout: Layout,
    /// Why it cannot start, if it is too large.
    pub shortfall: Option<Shortfall>,
    /// What it was planned for.
    pub target: Target,
    /// Words for where `target.memory` is.
    pub whose: &'static str,
    /// What follows from the data, if there are any.
    pub run: Option<RunPlan>,
    /// What it writes; without data no checkpoint is counted.
    pub disk: DiskNeed,
    /// Bytes that it may write where the run folder will lie.
    pub disk_available: Option<u64>,
}

/// What is known once the data are.
pub struct RunPlan {
    /// Optimizer steps.
    pub steps: usize,
    /// Passes over the data.
    pub epochs: f64,
    /// Pairs trained on.
    pub pairs: usize,
    /// Pairs held out.
    pub held_out: usize,
    /// Pairs of a step.
    pub batch_size: usize,
    /// Micro-batches of all steps.
    pub batches: usize,
    /// What is in them.
    pub work: asft::data::Work,
    /// What they compute.
    pub estimate: Estimate,
    /// Where reference log-probs come from.
    pub reference_mode: ReferenceMode,
    /// Bytes that the model takes which scores reference log-probs beforehand.
    pub reference_bytes: Option<u64>,
}

/// What the reference models that stay beside the policy have of their own in an arena.
pub fn reference_entries(layout: &Layout, arena: Arena) -> impl Iterator<Item = &Entry> {
    let entries = layout.references.iter().flat_map(|reference| reference.plan.entries());
    entries.filter(move |entry| entry.arena == arena)
}

/// The name of that in the table.
pub fn reference_title(arena: Arena) -> String {
    format!("reference: {}", arena.title())
}

impl Planned {
    fn new(config: &TrainConfig, target: Target, whose: &'static str) -> anyhow::Result<Self> {
        let disk_available = disk::available(config);
        if config.data.files.is_empty() {
            let outline = plan_without_data(config, target).or_usage()?;
            let disk = DiskNeed { written: 0, ..DiskNeed::new(outline.folders, config, 0) };
            let (layout, shortfall) = (outline.layout, outline.shortfall);
            return Ok(Self { layout, shortfall, target, whose, run: None, disk, disk_available });
        }
        let prepared = Prepared::plan(config, target, &mut Bars::default()).or_usage()?;
        let run = RunPlan {
            steps: prepared.steps,
            epochs: prepared.epochs,
            pairs: prepared.train.groups.len(),
            held_out: prepared.eval.as_ref().map_or(0, |eval| eval.groups.len()),
            batch_size: prepared.config.batch.groups,
            batches: prepared.extent.all_batches,
            work: prepared.extent.work,
            estimate: prepared.estimate(),
            reference_mode: prepared.config.objective.reference_mode,
            reference_bytes: prepared.reference_bytes,
        };
        let (disk, run) = (prepared.disk, Some(run));
        let (layout, shortfall) = (prepared.layout, prepared.shortfall);
        Ok(Self { layout, shortfall, target, whose, run, disk, disk_available })
    }

    /// Whether the run folder has room, if both are known.
    pub fn disk_fits(&self) -> Option<bool> {
        self.disk_available.map(|available| available >= self.disk.total())
    }
}
