//! `asft plan --json`: everything that is known of a plan.

use asft::model::{Flops, Recompute};
use asft::plan::{ARENAS, Entry};
use asft::train::{Remedy, Shortfall};
use serde_json::{Map, Value, json};

use super::plan::{Planned, RunPlan, reference_entries, reference_title};

/// One JSON object and a newline.
pub fn json(planned: &Planned) -> String {
    let layout = &planned.layout;
    let budget = layout.activations.budget;
    let tensor = |entry: &Entry, arena: String| {
        json!({
            "name": entry.name,
            "arena": arena,
            "dtype": entry.view.element.name(),
            "shape": entry.shape,
            "bytes": entry.view.bytes(),
        })
    };
    let entries = layout.plan.entries().iter();
    let mut tensors: Vec<Value> =
        entries.map(|entry| tensor(entry, entry.arena.title().to_owned())).collect();
    let mut arenas: Map<String, Value> =
        ARENAS.iter().map(|&arena| (arena.title().to_owned(), json!(layout.bytes(arena)))).collect();
    for arena in ARENAS.into_iter().filter(|arena| arena.is_of_each_model() && !layout.references.is_empty())
    {
        let title = reference_title(arena);
        tensors.extend(reference_entries(layout, arena).map(|entry| tensor(entry, title.clone())));
        arenas.insert(title, json!(layout.reference_bytes(arena)));
    }
    let kept: Map<String, Value> = Recompute::ALL
        .iter()
        .map(|&level| (level.name().to_owned(), json!(planned.layout.kept_at(level))))
        .collect();
    let mut object = json!({
        "parameters": planned.layout.model.table.count(),
        "tokens": budget.tokens,
        "rows": budget.rows,
        "head_rows": budget.head_rows,
        "recompute": planned.layout.activations.recompute.name(),
        "activations_by_recompute": kept,
        "total_bytes": layout.total_bytes(),
        "available_bytes": planned.target.memory,
        "fits": planned.target.memory.map(|_| planned.shortfall.is_none()),
        "remedies": planned.shortfall.as_ref().map(remedies),
        "disk": disk(planned),
        "steps": null,
        "arenas": arenas,
        "tensors": tensors,
    });
    if let (Some(run), Some(object)) = (&planned.run, object.as_object_mut()) {
        object.extend(of_run(run));
    }
    format!("{object}\n")
}

fn remedies(shortfall: &Shortfall) -> Vec<Value> {
    let remedy = |remedy: &Remedy| json!({ "settings": remedy.settings, "total_bytes": remedy.bytes });
    shortfall.remedies.iter().map(remedy).collect()
}

fn disk(planned: &Planned) -> Value {
    let disk = &planned.disk;
    json!({
        "model_bytes": disk.folders.model,
        "checkpoint_bytes": disk.folders.checkpoint,
        "checkpoints_kept": disk.kept(),
        "total_bytes": disk.total(),
        "available_bytes": planned.disk_available,
        "fits": planned.disk_fits(),
    })
}

fn of_run(run: &RunPlan) -> Map<String, Value> {
    let per_step = |sum: u64| sum as f64 / run.steps as f64;
    let flops = |flops: Flops| json!({ "blocks": flops.blocks, "head": flops.head, "attention": flops.attention, "total": flops.total() });
    let estimate = &run.estimate;
    let fields = json!({
        "steps": run.steps,
        "epochs": run.epochs,
        "pairs": run.pairs,
        "held_out_pairs": run.held_out,
        "per_step": {
            "pairs": run.batch_size,
            "micro_batches": per_step(run.batches as u64),
            "tokens": per_step(run.work.tokens),
            "scored_tokens": per_step(run.work.rows),
            "flops": per_step(estimate.training.total()),
            "flops_recomputed": per_step(estimate.recomputed.total()),
            "flops_scoring": per_step(estimate.scoring.total()),
        },
        "flops": {
            "training": flops(estimate.training),
            "recomputed": flops(estimate.recomputed),
            "scoring": flops(estimate.scoring),
            "evaluation": flops(estimate.evaluation),
            "evaluations": estimate.evaluations,
            "reference": flops(estimate.reference),
            "total": estimate.total(),
        },
        "reference_mode": run.reference_mode,
        "reference_bytes": run.reference_bytes,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => unreachable!("an object was written"),
    }
}
