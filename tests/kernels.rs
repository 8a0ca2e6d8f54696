//! The kernels as compiled, checked without a GPU: within the budgets of their headers, no local memory, the instructions
//! they were written for, no float atomics, and `docs/kernels.md` as it would be written now.

#[path = "../examples/kernel_table/cubin.rs"]
mod cubin;
mod skip;
#[path = "../examples/kernel_table/table.rs"]
mod table;

use std::collections::BTreeSet;

use asft::backend::cuda::images::{self, IMAGES};
use asft::backend::cuda::libraries;
use table::{Budget, Built};

/// NVRTC of scripts/nvrtc-wheels.txt: what the budgets and the table are made with. Another compiler allocates otherwise.
const PINNED: (u32, u32) = (12, 9);

/// Whether there are images made by the pinned NVRTC; else `test` is reported as skipped.
fn images_or_skip(test: &str) -> bool {
    match images::COMPILED_BY {
        Some(PINNED) => true,
        Some(other) => {
            skip::skip(test, "NVRTC 12.9", &format!("the kernels were compiled by {}.{}", other.0, other.1));
            false
        }
        None => {
            skip::skip(test, "NVRTC", "the build embedded no images");
            false
        }
    }
}

#[test]
fn every_kernel_keeps_its_budget() {
    if !images_or_skip("kernels::every_kernel_keeps_its_budget") {
        return;
    }
    let mut wrong = Vec::new();
    let mut checked = 0;
    for source in images::kernel_sources() {
        let budgets = table::budgets(source).unwrap();
        let built = table::built(source).unwrap();
        let names: BTreeSet<&String> = budgets.iter().map(|budget| &budget.name).collect();
        wrong.extend(
            names
                .iter()
                .filter(|name| !built.contains_key(**name))
                .map(|name| format!("kernels/{source}: a budget of {name}, which is no kernel of this file")),
        );
        for (name, built) in &built {
            match budgets.iter().find(|budget| budget.name == *name) {
                Some(budget) => wrong.extend(table::violations(budget, built)),
                None => wrong.push(format!("kernels/{source} lacks `{}`", Budget::of(built).line())),
            }
            checked += built.len();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 0, "nothing was checked");
}

#[test]
fn the_table_is_current() {
    if !images_or_skip("kernels::the_table_is_current") {
        return;
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kernels.md");
    let written = std::fs::read_to_string(file).unwrap_or_default();
    let now = table::document().unwrap();
    let change = written.lines().zip(now.lines()).find(|(written, now)| written != now);
    assert!(
        written == now,
        "docs/kernels.md is not what the kernels are; run: cargo run --example kernel_table -- --write\n{change:#?}"
    );
}

#[test]
fn no_float_is_changed_atomically() {
    if IMAGES.is_empty() {
        return skip::skip(
            "kernels::no_float_is_changed_atomically",
            "NVRTC",
            "the build embedded no images",
        );
    }
    for image in IMAGES {
        let found = table::float_atomics(image.ptx);
        assert!(found.is_empty(), "{} for {}: {found:?}", image.source, image.architecture);
    }
}

#[test]
fn float_atomics_are_recognised_in_all_their_forms() {
    for line in [
        "red.global.add.f32 [%rd1], %f1;",
        "@%p1 atom.global.add.f32 %f2, [%rd1], %f1;",
        "atom.global.add.noftz.bf16x2 %r1, [%rd1], %r2;",
        "{ red.relaxed.gpu.global.add.f64 [%rd1], %fd1; }",
        "multimem.red.relaxed.sys.global.add.v4.f32 [%rd1], {%f1, %f2, %f3, %f4};",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd1], [%r1], 16;",
    ] {
        assert_eq!(table::float_atomics(line), [line]);
    }
    for line in [
        "atom.shared.min.u32 %r1, [%r2], %r3;",
        "redux.sync.add.s32 %r1, %r2, %r3;",
        "add.f32 %f1, %f2, %f3; // red.global.add.f32",
        "ld.global.f32 %f1, [%rd1];",
    ] {
        assert!(table::float_atomics(line).is_empty(), "{line}");
    }
}

#[test]
fn a_budget_says_what_it_says() {
    let text = "// budget: a_f32 40 registers 1024 bytes shared, 16-byte loads, HMMA\n// budget: b 8 registers 0 bytes shared\n";
    let budgets = table::parse_budgets("a.cu", text).unwrap();
    assert_eq!(budgets.iter().map(Budget::line).collect::<Vec<_>>(), text.lines().collect::<Vec<_>>());
    assert!(budgets[0].wide_loads && budgets[0].tensor && !budgets[1].wide_loads && !budgets[1].tensor);
    for bad in [
        "// budget: a 40 registers",
        "// budget: a 40 registers 0 bytes shared, HMMMA",
        "// budget: a many registers 0 bytes shared",
        "//budget: a 40 registers 0 bytes shared",
    ] {
        let error = table::parse_budgets("a.cu", &format!("\n{bad}")).unwrap_err().to_string();
        assert!(error.starts_with("kernels/a.cu:2: "), "{error}");
    }
    let twice = "// budget: b 8 registers 0 bytes shared\n".repeat(2);
    assert!(table::parse_budgets("a.cu", &twice).unwrap_err().to_string().contains("a second budget of b"));
}

#[test]
fn what_exceeds_a_budget_is_named() {
    let mut kernel = cubin::Kernel { name: "k".to_owned(), registers: 40, shared: 64, ..Default::default() };
    kernel.instructions.global_loads = 2;
    let budget = Budget { name: "k".to_owned(), registers: 40, shared: 64, ..Budget::default() };
    let with = |change: &dyn Fn(&mut cubin::Kernel)| {
        let mut changed = kernel.clone();
        change(&mut changed);
        Built::from([("sm_80", kernel.clone()), ("sm_90a", changed)])
    };
    assert!(table::violations(&budget, &with(&|_| ())).is_empty());
    let only = |budget: &Budget, built: &Built| {
        let all = table::violations(budget, built);
        assert!(all.iter().all(|line| line.starts_with("k on sm_90a: ")), "{all:?}");
        assert_eq!(all.len(), 1, "{all:?}");
    };
    only(&budget, &with(&|kernel| kernel.registers = 41));
    only(&budget, &with(&|kernel| kernel.shared = 65));
    only(&budget, &with(&|kernel| kernel.local = 8));
    only(&budget, &with(&|kernel| kernel.instructions.local = 1));
    for (flagged, count) in
        [(Budget { wide_loads: true, ..budget.clone() }, 0), (Budget { tensor: true, ..budget.clone() }, 1)]
    {
        assert_eq!(table::violations(&flagged, &with(&|_| ())).len(), 2, "on both architectures");
        let mut held = with(&|_| ());
        for kernel in held.values_mut() {
            let counts = &mut kernel.instructions;
            *[&mut counts.wide_loads, &mut counts.tensor][count] = 1;
        }
        assert!(table::violations(&flagged, &held).is_empty());
    }
}

/// One thing of each kind that the table counts.
const PROBE: &str = r#"
extern "C" __global__ void __launch_bounds__(96) probe(const float4 *from, float4 *to, float *local, unsigned n) {
    __shared__ __align__(16) float tile[512];
    const unsigned at = (unsigned)__cvta_generic_to_shared(tile);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from + 64));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at + 64), "l"(from + 65));
    asm volatile("cp.async.wait_all;");
    __syncthreads();
    unsigned a, b, c, d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at));
    float4 sum = from[threadIdx.x];
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%4,%5}, {%0,%1,%2,%3};"
                 : "+f"(sum.x), "+f"(sum.y), "+f"(sum.z), "+f"(sum.w) : "r"(a), "r"(b), "r"(c), "r"(d));
    to[threadIdx.x] = sum;
}
extern "C" __global__ void indexed(const float *from, float *to, unsigned n) {
    float array[32], sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 32; ++i) array[i] = from[i];
    for (unsigned i = 0; i < n; ++i) sum += array[(i * 7 + n) & 31];
    to[threadIdx.x] = sum;
}
"#;

#[test]
fn the_decoder_sees_what_a_kernel_was_written_with() {
    let Ok((nvrtc, _)) = libraries::nvrtc(None) else {
        let test = "kernels::the_decoder_sees_what_a_kernel_was_written_with";
        return skip::skip(test, "NVRTC", "none at run time");
    };
    for architecture in ["sm_80", "sm_90a"] {
        let cubin = nvrtc.compile("probe.cu", PROBE, &[], architecture).unwrap().cubin;
        let kernels = cubin::kernels(&cubin).unwrap();
        let find = |name| kernels.iter().find(|kernel: &&cubin::Kernel| kernel.name == name).unwrap();
        let probe = find("probe");
        assert_eq!((probe.shared, probe.local, probe.threads), (2048, 0, Some(96)), "{architecture}");
        let expected = cubin::Instructions {
            global_loads: 3,
            wide_loads: 2,
            global_stores: 1,
            wide_stores: 1,
            local: 0,
            tensor: 1,
            matrix_loads: 1,
            barriers: 1,
        };
        assert_eq!(probe.instructions, expected, "{architecture}");
        let indexed = find("indexed");
        assert_eq!((indexed.shared, indexed.local, indexed.threads), (0, 128, None), "{architecture}");
        assert!(indexed.instructions.local > 1, "{architecture}: {indexed:?}");
        assert_eq!(kernels.len(), 2);
    }
    assert!(cubin::kernels(b"no cubin").is_err());
}
