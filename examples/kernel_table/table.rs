//! Budgets as the headers of `kernels/*.cu` promise them, what the cubins hold, and the table of both.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail};
use asft::backend::cuda::images::{self, IMAGES, SOURCES};

use super::cubin::{self, Kernel};

/// Architecture -> kernel, as compiled by the build.
pub type Built = BTreeMap<&'static str, Kernel>;

/// What a line `// budget: NAME R registers S bytes shared[, 16-byte loads][, HMMA]` promises, on every architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The entry point.
    pub name: String,
    /// Registers of a thread, at most.
    pub registers: u32,
    /// Bytes of static shared memory, at most.
    pub shared: u64,
    /// Loads of 16 bytes per thread are among its instructions.
    pub wide_loads: bool,
    /// Tensor-core products (`mma.sync`, `wgmma`) are.
    pub tensor: bool,
}

impl Budget {
    /// The line that a kernel as it was built would satisfy.
    pub fn of(built: &Built) -> Self {
        let most = |value: fn(&Kernel) -> u64| built.values().map(value).max().unwrap_or(0);
        Self {
            name: built.values().next().map_or_else(String::new, |kernel| kernel.name.clone()),
            registers: most(|kernel| kernel.registers.into()) as u32,
            shared: most(|kernel| kernel.shared),
            wide_loads: built.values().all(|kernel| kernel.instructions.wide_loads > 0),
            tensor: built.values().all(|kernel| kernel.instructions.tensor > 0),
        }
    }

    /// The line in a source's header.
    pub fn line(&self) -> String {
        let Self { name, registers, shared, .. } = self;
        let loads = if self.wide_loads { ", 16-byte loads" } else { "" };
        let tensor = if self.tensor { ", HMMA" } else { "" };
        format!("// budget: {name} {registers} registers {shared} bytes shared{loads}{tensor}")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("// budget: ")?.split(", ");
        let words: Vec<&str> = parts.next()?.split(' ').collect();
        let [name, registers, "registers", shared, "bytes", "shared"] = words[..] else { return None };
        let mut budget = Self {
            name: name.to_owned(),
            registers: registers.parse().ok()?,
            shared: shared.parse().ok()?,
            ..Self::default()
        };
        for flag in parts {
            match flag {
                "16-byte loads" => budget.wide_loads = true,
                "HMMA" => budget.tensor = true,
                _ => return None,
            }
        }
        Some(budget)
    }
}

/// The budget lines of a source.
pub fn budgets(source: &str) -> anyhow::Result<Vec<Budget>> {
    let text = SOURCES.iter().find(|(name, _)| *name == source).map_or("", |(_, text)| text);
    parse_budgets(source, text)
}

/// The budget lines of a source's text.
pub fn parse_budgets(source: &str, text: &str) -> anyhow::Result<Vec<Budget>> {
    let mut all: Vec<Budget> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.contains("budget:")) {
        let place = || format!("kernels/{source}:{}", index + 1);
        let budget = Budget::parse(line).with_context(|| {
            let form = "// budget: NAME R registers S bytes shared[, 16-byte loads][, HMMA]";
            format!("{}: a budget has the form `{form}`", place())
        })?;
        if all.iter().any(|other| other.name == budget.name) {
            bail!("{}: a second budget of {}", place(), budget.name);
        }
        all.push(budget);
    }
    Ok(all)
}

/// The entry points of a source by name, in the order of the alphabet.
pub fn built(source: &str) -> anyhow::Result<BTreeMap<String, Built>> {
    let mut all: BTreeMap<String, Built> = BTreeMap::new();
    for image in IMAGES.iter().filter(|image| image.source == source) {
        let kernels = cubin::kernels(image.cubin);
        for kernel in kernels.with_context(|| format!("the cubin of {source} for {}", image.architecture))? {
            all.entry(kernel.name.clone()).or_default().insert(image.architecture, kernel);
        }
    }
    Ok(all)
}

/// What of a budget does not hold.
pub fn violations(budget: &Budget, built: &Built) -> Vec<String> {
    let mut all = Vec::new();
    for (architecture, kernel) in built {
        let mut complain = |what: String| all.push(format!("{} on {architecture}: {what}", kernel.name));
        let counts = kernel.instructions;
        if kernel.registers > budget.registers {
            complain(format!("{} registers, budget {}", kernel.registers, budget.registers));
        }
        if kernel.shared > budget.shared {
            complain(format!("{} bytes of shared memory, budget {}", kernel.shared, budget.shared));
        }
        if kernel.local > 0 || counts.local > 0 {
            complain(format!(
                "{} bytes of local memory and {} instructions on it: spilled registers, or an array indexed at run time",
                kernel.local, counts.local
            ));
        }
        if budget.wide_loads && counts.wide_loads == 0 {
            complain(format!("no 16-byte load among {} loads", counts.global_loads));
        }
        if budget.tensor && counts.tensor == 0 {
            complain("no tensor-core product".to_owned());
        }
    }
    all
}

const HEADER: &str = "\
# Kernels

What the compiler made of `kernels/*.cu`, read from the cubins that the build embeds. This file is written by

```
cargo run --example kernel_table -- --write
```

and `cargo test --test kernels` fails where it differs from what that command would write, where a kernel exceeds the budget in
its source's header, or where it uses local memory at all. After a change to a kernel, edit its budget if that is meant
(`-- --budgets` prints the lines as they would have to be) and run the command.

A cell has one value for each architecture, or one for both. *Registers* are those of a thread, with the budget in brackets;
*shared* is static shared memory per block in bytes, without the 1,024 that the system reserves on sm_90; *local* is local
memory per thread in bytes: spilled registers and arrays indexed at run time. *Blocks* per SM is what registers and threads
allow, where the kernel promises its block's size. *16-byte loads* are those from global memory of 16 bytes per thread, out of
all (asynchronous copies to shared memory included), and *stores* likewise; *tensor* counts `HMMA` and `HGMMA`; *barriers* those
of the block. Instructions are counted as they stand in the code, not as they are executed.

Registers, shared and local memory are what `cuobjdump --dump-resource-usage` (CUDA 13.1) prints for the same cubins, and
the instruction counts are those of `nvdisasm`'s text, on these kernels and on Triton's; NVIDIA documents neither encoding. For
instructions of compute capability 8.0 and 9.0 (16 bytes each), bits 0 to 8 are the operation (`LD` 0x180, `LDG` 0x181, `LDL`
0x183, `ST` 0x185, `STG` 0x186, `STL` 0x187, `LDGSTS` 0x1ae, `LDSM` 0x03b, `HMMA` 0x03c, `HGMMA` 0x1f0, `BAR` 0x11d), and bits 73 to
75 of a load or store its width (6: 16 bytes).
";

/// The whole of `docs/kernels.md`.
pub fn document() -> anyhow::Result<String> {
    let Some((major, minor)) = images::COMPILED_BY else {
        bail!("this build holds no images: ./test.sh --setup brings NVRTC, then build again")
    };
    let architectures = images::architectures().join(" / ");
    let mut text = format!("{HEADER}\nNVRTC {major}.{minor}, {architectures}.\n");
    for source in images::kernel_sources() {
        let budgets = budgets(source)?;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n## {source}\n\n\
             | kernel | registers | shared | local | blocks | 16-byte loads | 16-byte stores | tensor | barriers |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        );
        for (name, built) in built(source)? {
            let budget = budgets.iter().find(|budget| budget.name == name);
            let budget = budget.map_or_else(|| "none".to_owned(), |budget| budget.registers.to_string());
            let cells = [
                format!("{} ({budget})", cell(&built, |kernel| kernel.registers.to_string())),
                cell(&built, |kernel| kernel.shared.to_string()),
                cell(&built, |kernel| kernel.local.to_string()),
                cell(&built, |kernel| blocks(kernel).map_or_else(|| "-".to_owned(), |n| n.to_string())),
                cell(&built, |kernel| of(kernel.instructions.wide_loads, kernel.instructions.global_loads)),
                cell(&built, |kernel| of(kernel.instructions.wide_stores, kernel.instructions.global_stores)),
                cell(&built, |kernel| kernel.instructions.tensor.to_string()),
                cell(&built, |kernel| kernel.instructions.barriers.to_string()),
            ];
            let _ = writeln!(text, "| `{name}` | {} |", cells.join(" | "));
        }
    }
    Ok(text)
}

/// One value for each architecture; one alone if they are equal.
fn cell(built: &Built, value: impl Fn(&Kernel) -> String) -> String {
    let mut values: Vec<String> = built.values().map(value).collect();
    values.dedup();
    values.join(" / ")
}

fn of(part: usize, whole: usize) -> String {
    format!("{part} of {whole}")
}

/// Blocks that fit on one SM of compute capability 8.0 or 9.0 by registers and threads: 64 warps, 32 blocks and 65,536
/// registers, which a warp takes in units of 256 (CUDA C++ Programming Guide, "Technical Specifications").
fn blocks(kernel: &Kernel) -> Option<u32> {
    let warps = kernel.threads?.div_ceil(32);
    let registers = (kernel.registers * 32).next_multiple_of(256);
    Some((65_536 / registers / warps).min(64 / warps).min(32))
}

/// The instructions of a PTX text that add, compare or exchange floats in memory atomically: their order, and so the
/// rounding, would be the hardware's.
pub fn float_atomics(ptx: &str) -> Vec<&str> {
    const FAMILIES: [&str; 4] = ["atom.", "red.", "multimem.", "cp.reduce."];
    const FLOATS: [&str; 7] = ["f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64"];
    let code = ptx.lines().map(|line| line.split("//").next().unwrap_or("").trim());
    code.filter(|line| {
        line.split_whitespace().any(|token| {
            FAMILIES.iter().any(|family| token.starts_with(family))
                && token.split('.').any(|part| FLOATS.contains(&part))
        })
    })
    .collect()
}
