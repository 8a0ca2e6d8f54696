//! Which target an instruction needs. A text for `sm_80` with an instruction of `sm_90` would run here, but no real assembler
//! takes it, so neither does this engine.
//!
//! The boundary: only what needs more than `sm_80`, the oldest device there is here, and only of what is executed.

use crate::engine::ast::{Instruction, Operand};
use crate::engine::error::PtxError;
use crate::engine::lexer::Position;

/// Refuses an instruction of a later target than the text's, `sm_80` being 80.
pub(super) fn check(
    instruction: &Instruction<'_>,
    position: Position,
    architecture: u32,
) -> Result<(), PtxError> {
    let needed = needed_by_modifiers(instruction).max(needed_by_operands(&instruction.operands));
    if needed <= architecture {
        return Ok(());
    }
    let name = instruction.name();
    Err(position
        .semantic(format!("`{name}` needs the target sm_{needed}; the text is for sm_{architecture}")))
}

/// The notes "Target ISA" of the instructions in ISA section 9.7.
fn needed_by_modifiers(instruction: &Instruction<'_>) -> u32 {
    let has = |name: &str| instruction.modifiers.contains(&name);
    let any = |names: &[&str]| names.iter().any(|name| has(name));
    let bf16 = any(&["bf16", "bf16x2"]);
    if any(&["cluster", "shared::cluster"]) {
        return 90;
    }
    match instruction.mnemonic {
        "mapa" | "getctarank" | "elect" | "stmatrix" | "griddepcontrol" => 90,
        "add" | "sub" | "mul" | "fma" if any(&["f32x2"]) || has("f32") && any(&["f16", "bf16"]) => 100,
        "ld" | "st" if has("v8") || has("v4") && any(&["b64", "u64", "s64", "f64"]) => 100,
        "redux" if has("f32") => 100,
        "add" | "sub" | "mul" | "set" | "setp" | "ex2" | "tanh" | "atom" | "red" if bf16 => 90,
        "atom" | "red" if any(&["v2", "v4", "v8", "b128"]) => 90,
        "add" | "min" | "max" if any(&["s16x2", "u16x2"]) || has("relu") && has("s32") => 90,
        "min" | "max" if has("xorsign") => 86,
        "fma" if has("oob") => 90,
        // bf16 to and from f32 is old; tf32 at first only rounded ties away from zero.
        "cvt" if bf16 && !has("f32") => 90,
        "cvt" if has("tf32") && !has("rna") => 90,
        "cvt" if any(&["e4m3x2", "e5m2x2"]) => 89,
        _ => 80,
    }
}

/// The special registers of clusters (ISA section 10).
fn needed_by_operands(operands: &[Operand<'_>]) -> u32 {
    let of_clusters = operands.iter().any(|operand| {
        matches!(operand, Operand::Name { name, .. }
            if ["%cluster", "%nclusterid", "%is_explicit_cluster", "%aggr_smem_size"]
                .iter()
                .any(|prefix| name.starts_with(prefix)))
    });
    if of_clusters { 90 } else { 80 }
}
