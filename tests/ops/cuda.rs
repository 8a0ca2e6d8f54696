//! The same checks on a CUDA device: a real one where there is one, else the stand-in of `cuda-sim/`, which executes the
//! PTX with all its own checks on (bounds, uninitialised reads, races), as both architectures and in two orders of warps
//! and blocks, which must give the same bits.
//!
//! A process loads the driver once, so every run is a child process of its own.

use std::hash::{DefaultHasher, Hash, Hasher};

use asft::backend::cuda::CudaBackend;
use asft::backend::probe;

use crate::device::Storage;
use crate::{
    adamw, adamw_formats, attention, embedding, gather, gradient_norm, head, head_statistics, matmul,
    objective, rmsnorm, rope, simulator, swiglu,
};

/// How a child says what came out.
const BITS: &str = "bits of the check: ";

/// Compute capability, order of warps and blocks, when asynchronous copies arrive.
const RUNS: [(&str, Option<&str>, &str); 3] =
    [("9.0", None, "wait"), ("9.0", Some("7"), "issue"), ("8.0", Some("1"), "issue")];

fn on_cuda(test: &str, check: impl Fn(&mut CudaBackend) -> Vec<u32>) {
    if simulator::is_child() {
        let mut backend = CudaBackend::new(probe::cuda(true).unwrap()).unwrap();
        let bits = check(&mut backend);
        assert!(!bits.is_empty(), "the check computed nothing");
        let mut hasher = DefaultHasher::new();
        bits.hash(&mut hasher);
        println!("{BITS}{:016x}", hasher.finish());
        return;
    }
    if probe::cuda(false).is_ok() {
        run(test, &[]);
        return;
    }
    let all: Vec<String> = RUNS
        .iter()
        .map(|(capability, schedule, copies)| {
            let mut variables = vec![("CUDA_SIM_CC", *capability), ("CUDA_SIM_ASYNC", *copies)];
            variables.extend(schedule.map(|seed| ("CUDA_SIM_SCHEDULE", seed)));
            run(test, &variables)
        })
        .collect();
    assert!(
        all.iter().all(|bits| *bits == all[0]),
        "{test}: the bits depend on order or architecture: {all:?}"
    );
}

/// Runs the test in a child process and gives the bits it reports.
fn run(test: &str, variables: &[(&str, &str)]) -> String {
    let said = simulator::child(test, variables);
    // With --nocapture the harness has begun the line already.
    let bits = said.lines().find_map(|line| line.split_once(BITS)).map(|(_, bits)| bits.to_owned());
    bits.unwrap_or_else(|| panic!("{test} reported nothing:\n{said}"))
}

/// Checks of stored values, in both formats.
macro_rules! stored_checks {
    ($($test:ident: $check:path;)+) => {
        mod f32 {
            use super::*;
            stored_checks!(@ "f32", Storage::F32 => $($test: $check;)+);
        }
        mod bf16 {
            use super::*;
            stored_checks!(@ "bf16", Storage::Bf16 => $($test: $check;)+);
        }
    };
    (@ $format:literal, $storage:expr => $($test:ident: $check:path;)+) => {
        $(#[test]
        fn $test() {
            on_cuda(concat!("cuda::", $format, "::", stringify!($test)), |backend| $check(backend, $storage));
        })+
    };
}

stored_checks! {
    attention_of_packed_groups: attention::check_small_packed_groups;
    attention_to_a_cache: attention::check_small_cache;
    attention_wherever_packed: attention::check_small_packing;
    rmsnorm_both_ways: rmsnorm::check;
    rmsnorm_of_a_frozen_weight: rmsnorm::check_frozen;
    products: matmul::check;
    product_rows_alone: matmul::check_rows_alone;
    product_of_columns: matmul::check_columns_of_a;
    embedding_both_ways: embedding::check;
    gather_and_scatter: gather::check;
    gather_and_scatter_of_mixtures: gather::check_mixtures;
    copy_rows: gather::check_copy;
    head_rows: head::check;
    head_rows_beside: head::check_beside;
    head_rows_of_llama: head::check_large;
    head_rows_two: head::check_two;
    head_rows_two_beside: head::check_two_beside;
    head_rows_two_near_certainty: head::check_two_near_one;
    head_rows_two_of_what_is_not_finite: head::check_two_not_finite;
    head_rows_alone: head::check_alone;
    head_rows_near_certainty: head::check_near_one;
    head_rows_own_entry: head::check_own_entry;
    head_rows_ties: head::check_ties;
    head_rows_of_what_is_not_finite: head::check_not_finite;
    head_rows_of_an_infinite_target: head::check_infinite_target;
    target_logits: head::check_target_logits;
    head_statistics: head_statistics::check;
    rope_both_ways: rope::check;
    swiglu_both_ways: swiglu::check;
    swiglu_of_nan: swiglu::check_nan;
}

macro_rules! checks {
    ($($test:ident: $check:path;)+) => {
        $(#[test]
        fn $test() {
            on_cuda(concat!("cuda::", stringify!($test)), $check);
        })+
    };
}

checks! {
    adamw_update: adamw::check;
    adamw_while_bad: adamw::check_bad;
    adamw_with_remainders: adamw_formats::check_remainder;
    adamw_of_every_format: adamw_formats::check_formula;
    adamw_in_several_calls: adamw_formats::check_cuts;
    adamw_of_every_format_while_bad: adamw_formats::check_bad;
    adamw_rounds_stochastically: adamw_formats::check_rounding;
    adamw_small_beside_large: adamw_formats::check_small_beside_large;
    adamw_minimises: adamw_formats::check_minimises;
    gradient_norm_and_clip: gradient_norm::check;
    gradient_norm_of_what_is_not_finite: gradient_norm::check_bad;
    objective_on_the_device: objective::check;
    objective_of_what_is_not_finite: objective::check_not_finite;
}
