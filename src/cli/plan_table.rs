//! `asft plan` for people: the run, its memory, its disk, and what to do where something does not fit.

use std::fmt::Write;

use asft::backend::DeviceKind;
use asft::config::ReferenceMode;
use asft::model::{Flops, Recompute};
use asft::plan::ARENAS;
use asft::train::{Shortfall, gibibytes};

use super::plan::{Planned, RunPlan, reference_entries, reference_title};

// Writing to a String cannot fail, so its results are dropped throughout.

/// The whole text.
pub fn table(planned: &Planned) -> String {
    let mut text = String::new();
    let budget = planned.layout.activations.budget;
    let _ = writeln!(
        text,
        "{} parameters; micro-batches of up to {} tokens and {} scored tokens, {} rows of logits at a time; the \
         backward pass computes again: {}",
        planned.layout.model.table.count(),
        budget.tokens,
        budget.rows,
        budget.head_rows,
        planned.layout.activations.recompute.name()
    );
    match &planned.run {
        Some(run) => of_run(&mut text, run),
        None => text.push_str("no --data: as for pairs of the full --max-length, every token scored\n"),
    }
    memory(&mut text, planned);
    disk(&mut text, planned);
    text
}

fn of_run(text: &mut String, run: &RunPlan) {
    let steps = run.steps as f64;
    let _ = writeln!(
        text,
        "{} optimizer steps of {} pairs: {} of {} pairs{}",
        run.steps,
        run.batch_size.min(run.pairs),
        plural(run.epochs, "epoch"),
        run.pairs,
        if run.held_out > 0 { format!(", {} held out", run.held_out) } else { String::new() }
    );
    let estimate = &run.estimate;
    let mut beside = String::new();
    let resident = run.reference_mode == ReferenceMode::Resident;
    for (flops, what) in [
        (estimate.recomputed, "computed again"),
        (estimate.scoring, "of a first pass without gradients"),
        (if resident { estimate.reference } else { Flops::default() }, "of the reference model"),
    ] {
        if flops.total() > 0 {
            let _ = write!(beside, ", and {} {what}", operations(flops.total() as f64 / steps));
        }
    }
    let _ = writeln!(
        text,
        "a step on average: {:.0} tokens, {:.0} of them scored, in {}; {} (blocks {}, head {}, attention {}){beside}",
        run.work.tokens as f64 / steps,
        run.work.rows as f64 / steps,
        plural(run.batches as f64 / steps, "micro-batch"),
        operations(estimate.training.total() as f64 / steps),
        operations(estimate.training.blocks as f64 / steps),
        operations(estimate.training.head as f64 / steps),
        operations(estimate.training.attention as f64 / steps),
    );
    let mut parts = Vec::new();
    if estimate.evaluations > 0 {
        parts.push(format!(
            "{} evaluations of {}",
            estimate.evaluations,
            operations(estimate.evaluation.total() as f64)
        ));
    }
    if let Some(bytes) = run.reference_bytes {
        parts.push(format!(
            "reference log-probs {}, once, with {} of memory that is given back before training",
            operations(estimate.reference.total() as f64),
            gibibytes(bytes)
        ));
    }
    let parts = if parts.is_empty() { String::new() } else { format!(" (with {})", parts.join("; ")) };
    let _ = writeln!(text, "the whole run: {}{parts}", operations(estimate.total() as f64));
}

fn memory(text: &mut String, planned: &Planned) {
    let plan = &planned.layout.plan;
    let total = planned.layout.total_bytes() as u64;
    let _ = writeln!(text, "\n{:36} {:>8} {:>14} {:>10}", "memory", "tensors", "bytes", "GiB");
    for arena in ARENAS {
        let tensors = plan.entries().iter().filter(|entry| entry.arena == arena).count();
        if tensors > 0 {
            let shared = if arena.is_scratch() { " *" } else { "" };
            let bytes = planned.layout.bytes(arena);
            let name = format!("{}{shared}", arena.title());
            let _ = writeln!(text, "{name:36} {tensors:>8} {bytes:>14} {:>10.3}", gib(bytes as u64));
        }
    }
    for arena in ARENAS.into_iter().filter(|arena| arena.is_of_each_model()) {
        let bytes = planned.layout.reference_bytes(arena);
        if bytes > 0 {
            let tensors = reference_entries(&planned.layout, arena).count();
            let _ = writeln!(
                text,
                "{:36} {tensors:>8} {bytes:>14} {:>10.3}",
                reference_title(arena),
                gib(bytes as u64)
            );
        }
    }
    let _ = writeln!(text, "{:36} {:>8} {total:>14} {:>10.3}", "total", "", gib(total));
    text.push_str("* used one after another in the same memory; the largest counts\n");
    let kept = Recompute::ALL
        .iter()
        .map(|&level| format!("{} {:.3} GiB", level.name(), gib(planned.layout.kept_at(level) as u64)));
    let _ = writeln!(
        text,
        "activations kept for backward by --recompute: {}",
        kept.collect::<Vec<_>>().join(", ")
    );
    match (&planned.shortfall, planned.target.memory) {
        (Some(shortfall), _) => does_not_fit(text, planned, shortfall),
        (None, Some(free)) => {
            let _ = writeln!(text, "fits: {} {}", gibibytes(free), planned.whose);
        }
        (None, None) if planned.target.kind == DeviceKind::Cuda => {
            text.push_str("no GPU here to compare with; --gpu-memory SIZE plans for one\n");
        }
        (None, None) => text.push_str("this system does not say how much memory is free\n"),
    }
}

fn does_not_fit(text: &mut String, planned: &Planned, shortfall: &Shortfall) {
    let free = gibibytes(shortfall.available);
    let _ = writeln!(text, "does not fit: {free} {}", planned.whose);
    if shortfall.remedies.is_empty() {
        let _ = writeln!(text, "{}", shortfall.advice());
    } else {
        text.push_str("any of these would make it fit:\n");
        for remedy in &shortfall.remedies {
            let _ = writeln!(text, "  {:48} {:>10}", remedy.settings.join(" and "), gibibytes(remedy.bytes));
        }
    }
    if planned.target.kind == DeviceKind::Cuda {
        let whole = planned.target.whole_memory(shortfall.needed);
        let _ = writeln!(text, "as it is, it needs a GPU with {:.0} GB", (whole as f64 / 1e9).ceil());
    }
}

fn disk(text: &mut String, planned: &Planned) {
    let disk = &planned.disk;
    let _ = writeln!(text, "\n{:36} {:>8} {:>14} {:>10}", "disk", "", "bytes", "GiB");
    let mut line = |name: &str, count: &str, bytes: u64| {
        let _ = writeln!(text, "{name:36} {count:>8} {bytes:>14} {:>10.3}", gib(bytes));
    };
    line("the trained model", "1", disk.folders.model);
    let count = if planned.run.is_some() { disk.kept().to_string() } else { String::new() };
    line("a checkpoint", &count, disk.folders.checkpoint);
    if planned.run.is_none() {
        return;
    }
    line("at most at a time", "", disk.total());
    let _ = match (planned.disk_available, planned.disk_fits()) {
        (Some(free), Some(true)) => writeln!(text, "fits: {} are free at --output", gibibytes(free)),
        (Some(free), _) => {
            writeln!(text, "does not fit: {} are free at --output. {}", gibibytes(free), disk.advice(free))
        }
        (None, _) => writeln!(text, "this system does not say how much is free at --output"),
    };
}

/// `1 epoch`, `2 epochs`, `2.5 micro-batches`.
fn plural(count: f64, unit: &str) -> String {
    let number = format!("{count:.2}");
    let number = number.trim_end_matches('0').trim_end_matches('.');
    let ending = match (number, unit.ends_with("tch")) {
        ("1", _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {unit}{ending}")
}

/// Floating-point operations with a prefix that leaves one to three digits before the point.
fn operations(count: f64) -> String {
    const PREFIXES: [(f64, &str); 5] = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")];
    let (scale, prefix) = PREFIXES.into_iter().find(|(scale, _)| count >= *scale).unwrap_or((1e6, "M"));
    format!("{:.3} {prefix}FLOP", count / scale)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_operations_in_words() {
        let words = [(1.0, "epoch"), (2.5, "epoch"), (1.0, "micro-batch"), (3.0, "micro-batch")];
        assert_eq!(
            words.map(|(count, unit)| plural(count, unit)),
            ["1 epoch", "2.5 epochs", "1 micro-batch", "3 micro-batches"]
        );
        assert_eq!(
            [1.5e3, 999e6, 1e12, 2.5e21].map(operations),
            ["0.002 MFLOP", "999.000 MFLOP", "1.000 TFLOP", "2500.000 EFLOP"]
        );
    }
}
