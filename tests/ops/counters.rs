//! What kernels move, as the simulator counts it: the claims of `docs/kernels/` about bytes and accesses, as tests.
//!
//! Counted are the accesses of warps to global memory, before any cache: a byte that is read twice counts twice. Timing
//! is nobody's business here.

use asft::backend::cuda::CudaBackend;
use asft::backend::probe;
use asft::backend::{
    Backend, EmbeddingForward, EmbeddingMix, GatherRows, GradientNorm, HeadRows, NORM_BLOCK, RMSNORM_PARTS,
    RmsnormBackward, RmsnormForward, Rope, Rotation, SecondTargets, SwigluBackward, SwigluForward,
};
use serde::Deserialize;

use crate::device::{Device, Storage, normal};
use crate::simulator;

/// As which device the simulator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Sm80,
    Sm90,
}

/// One launch of a kernel: the fields of the simulator's report that a claim may be about.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code, reason = "what can be claimed is more than what is")]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Static and dynamic, per block.
    pub shared_bytes: u64,
    /// Bytes that threads asked for, each once per warp instruction, and the 32-byte sectors in which they lie.
    pub global_read_unique_bytes: u64,
    pub global_read_sectors: u64,
    pub global_write_unique_bytes: u64,
    pub global_write_sectors: u64,
    pub global_atomic_requests: u64,
    pub shared_read_wavefronts: u64,
    pub shared_read_bank_conflicts: u64,
    pub shared_write_wavefronts: u64,
    pub shared_write_bank_conflicts: u64,
    /// Spills and arrays in local memory.
    pub local_bytes: u64,
    pub tensor_operations: u64,
}

impl Launch {
    /// Bytes read from global memory, in whole sectors.
    pub fn read(&self) -> u64 {
        32 * self.global_read_sectors
    }

    /// Bytes written to global memory, in whole sectors.
    pub fn written(&self) -> u64 {
        32 * self.global_write_sectors
    }

    /// Used bytes over moved bytes.
    pub fn efficiency(&self) -> f64 {
        let used = self.global_read_unique_bytes + self.global_write_unique_bytes;
        used as f64 / (self.read() + self.written()) as f64
    }

    /// The project's claim about kernels that memory bounds: at most 1.05 times the bytes that must be moved, at least 95%
    /// of them used. And not fewer than must be: then the minimum, or the counter, would be wrong.
    pub fn moves_its_minimum(&self, minimum: u64) {
        let (moved, efficiency) = (self.read() + self.written(), self.efficiency());
        let times = moved as f64 / minimum as f64;
        println!("{}: {times:.4} times the minimum, {:.1}% of it used", self.kernel, 100.0 * efficiency);
        assert!((1.0..=1.05).contains(&times), "{}: {moved} bytes for {minimum}", self.kernel);
        assert!(efficiency >= 0.95, "{}: {efficiency:.3} of the moved bytes are used", self.kernel);
    }
}

/// Runs `work` in a child process under the simulator as both architectures, and `judge` on what its launches did.
/// `test` is the path of the calling test. On a real device nothing is counted.
pub fn counted(test: &str, work: impl Fn(&mut CudaBackend), judge: impl Fn(Architecture, &[Launch])) {
    if simulator::is_child() {
        return work(&mut CudaBackend::new(probe::cuda(true).unwrap()).unwrap());
    }
    if probe::cuda(false).is_ok() {
        return println!("{test}: only the simulator counts: not run");
    }
    for (architecture, capability) in [(Architecture::Sm90, "9.0"), (Architecture::Sm80, "8.0")] {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.jsonl");
        // Races and the like are looked for where results are compared.
        let variables = [
            ("CUDA_SIM_CC", capability),
            ("CUDA_SIM_REPORT", report.to_str().unwrap()),
            ("CUDA_SIM_CHECK", "off"),
        ];
        let said = simulator::child(test, &variables);
        let lines = std::fs::read_to_string(&report).unwrap_or_default();
        let launches: Vec<Launch> = lines
            .lines()
            .filter(|line| line.contains("\"grid\""))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert!(!launches.is_empty(), "{test} as {architecture:?} launched nothing:\n{said}");
        judge(architecture, &launches);
    }
}

/// The only launch of a kernel.
pub fn only<'l>(launches: &'l [Launch], kernel: &str) -> &'l Launch {
    let found: Vec<&Launch> = launches.iter().filter(|launch| launch.kernel == kernel).collect();
    let [launch] = found[..] else { panic!("{} launches of {kernel} in {launches:?}", found.len()) };
    launch
}

/// Rows of Llama-3-8B, so long that what is read once per row or launch vanishes.
const ROWS: usize = 64;
const HIDDEN: usize = 4096;
/// Bytes of one matrix of that size, stored as bf16.
const MATRIX: u64 = (2 * ROWS * HIDDEN) as u64;
const STORAGE: Storage = Storage::Bf16;

fn rmsnorm(backend: &mut CudaBackend) {
    let mut device = Device::storing(backend, STORAGE);
    let matrix = STORAGE.normal(1, ROWS * HIDDEN);
    let (x, other, weight) = (device.store(&matrix), device.store(&matrix), STORAGE.normal(2, HIDDEN));
    let weight = device.store(&weight);
    let (sum, out, rstd) =
        (device.store_out(ROWS * HIDDEN), device.store_out(ROWS * HIDDEN), device.out(ROWS));
    device.backend.rmsnorm_forward(RmsnormForward {
        x,
        residual: Some(other),
        sum: Some(sum),
        weight,
        out,
        rstd,
        hidden: HIDDEN,
        epsilon: 1e-5,
    });
    let (dx, dweight) = (device.store_out(ROWS * HIDDEN), device.out(HIDDEN));
    let partial = device.out(RMSNORM_PARTS * HIDDEN);
    device.backend.rmsnorm_backward(RmsnormBackward {
        dout: out,
        x: sum,
        weight,
        rstd,
        dresidual: Some(other),
        dx,
        dweight: Some(dweight),
        partial,
        accumulate: false,
        hidden: HIDDEN,
    });
    device.backend.read(dweight, &mut [0.0f32; HIDDEN]).unwrap();
}

#[test]
fn rmsnorm_moves_its_minimum() {
    counted("counters::rmsnorm_moves_its_minimum", rmsnorm, |_, launches| {
        // The weight is read for every row (twice in the backward pass): 2 bytes of each column, which the first-level
        // cache holds after a block's first row.
        only(launches, "rmsnorm_forward_bf16").moves_its_minimum(4 * MATRIX + MATRIX);
        only(launches, "rmsnorm_backward_bf16").moves_its_minimum(4 * MATRIX + 2 * MATRIX);
    });
}

#[test]
fn swiglu_moves_its_minimum() {
    let work = |backend: &mut CudaBackend| {
        let mut device = Device::storing(backend, STORAGE);
        let gate_up = device.store(&STORAGE.normal(1, 2 * ROWS * HIDDEN));
        let (out, dgate_up) = (device.store_out(ROWS * HIDDEN), device.store_out(2 * ROWS * HIDDEN));
        device.backend.swiglu_forward(SwigluForward { gate_up, out, feed_forward: HIDDEN });
        let backward = SwigluBackward { gate_up, dout: out, dgate_up, feed_forward: HIDDEN };
        device.backend.swiglu_backward(backward);
        device.stored(dgate_up);
    };
    counted("counters::swiglu_moves_its_minimum", work, |_, launches| {
        only(launches, "swiglu_forward_bf16").moves_its_minimum(3 * MATRIX);
        only(launches, "swiglu_backward_bf16").moves_its_minimum(5 * MATRIX);
    });
}

#[test]
fn rope_moves_its_minimum() {
    // The queries and keys of Llama-3.2-1B, and its values beside them.
    let (heads, head_dim, stride) = (40, 64, 48 * 64);
    let work = |backend: &mut CudaBackend| {
        let mut device = Device::storing(backend, STORAGE);
        let x = device.store(&STORAGE.normal(1, ROWS * stride));
        let positions: Vec<u32> = (0..ROWS as u32).collect();
        let table = normal(2, ROWS * head_dim / 2);
        let (positions, cos, sin) = (device.put(&positions), device.put(&table), device.put(&table));
        device.backend.rope(Rope {
            x,
            stride,
            heads,
            head_dim,
            positions,
            cos,
            sin,
            rotation: Rotation::Forward,
        });
        device.stored(x);
    };
    counted("counters::rope_moves_its_minimum", work, |_, launches| {
        // Each element in and out, a position and its row of both tables once per row.
        let minimum = ROWS * (2 * 2 * heads * head_dim + 4 + 4 * head_dim);
        only(launches, "rope_bf16").moves_its_minimum(minimum as u64);
    });
}

#[test]
fn copies_of_rows_and_the_gradient_norm_move_their_minimum() {
    let elements = 3 * NORM_BLOCK;
    let work = |backend: &mut CudaBackend| {
        let mut device = Device::storing(backend, STORAGE);
        let matrix = device.store(&STORAGE.normal(1, ROWS * HIDDEN));
        let out = device.store_out(ROWS * HIDDEN);
        let rows: Vec<u32> = (0..ROWS as u32).rev().collect();
        let mixed: Vec<u32> = rows.iter().map(|row| row ^ 1).collect();
        let mix = Some(EmbeddingMix { ids: device.put(&mixed), weight: 0.25 });
        let (rows, scale) = (device.put(&rows), device.put(&normal(2, ROWS)));
        let embedding = EmbeddingForward { ids: rows, mix: None, table: matrix, out, hidden: HIDDEN };
        device.backend.embedding_forward(embedding);
        device.backend.embedding_forward(EmbeddingForward { mix, ..embedding });
        device.backend.gather_rows(GatherRows {
            second: None,
            source: matrix,
            rows,
            scale: Some(scale),
            out,
            hidden: HIDDEN,
        });
        let gradients = device.put(&normal(3, elements));
        let (partial, state) = (device.put(&[f64::NAN; 3]), device.state(1.0, false));
        device.backend.gradient_norm(GradientNorm { gradients, max_norm: Some(1.0), partial, state });
        device.stored(out);
    };
    counted("counters::copies_of_rows_and_the_gradient_norm_move_their_minimum", work, |_, launches| {
        only(launches, "embedding_forward_bf16").moves_its_minimum(2 * MATRIX);
        only(launches, "embedding_mixed_forward_bf16").moves_its_minimum(3 * MATRIX);
        only(launches, "gather_rows_bf16").moves_its_minimum(2 * MATRIX);
        only(launches, "gradient_norm_partial_f32").moves_its_minimum(4 * elements as u64);
    });
}

/// Rows of Llama 3's vocabulary that the head's tests count.
const HEAD: (usize, usize) = (2, 128_256);

/// The row kernel on logits of one format, with the unit gradient in place or, from f32 logits, stored beside; then without.
fn head_rows(backend: &mut CudaBackend, two: bool, logits: Storage) {
    let (rows, vocabulary) = HEAD;
    let mut device = Device::storing(backend, STORAGE);
    let values = STORAGE.normal(1, rows * vocabulary);
    let logits_view = if logits == STORAGE { device.store(&values) } else { device.put(&values) };
    let unit = if logits == STORAGE { logits_view } else { device.store_out(rows * vocabulary) };
    let arguments = HeadRows {
        logits: logits_view,
        unit: Some(unit),
        target_logits: device.put(&[0.5f32, -0.5]),
        targets: device.put(&[7u32, 128_255]),
        second: None,
        logp: device.out(rows),
        lse: device.out(rows),
        argmax: device.put(&[0u32; 2]),
        vocabulary,
    };
    // The second row has one target.
    let second = two.then(|| SecondTargets {
        targets: device.put(&[70_000u32, 128_255]),
        logits: device.put(&[0.25f32, -0.5]),
        weights: device.put(&[0.75f32, 1.0]),
    });
    let arguments = HeadRows { second, ..arguments };
    device.backend.head_rows(arguments);
    device.backend.head_rows(HeadRows { unit: None, ..arguments });
    device.stored(unit);
}

/// Each logit's bytes once in and once out within 2% on sm_90, where a cluster holds the row; on sm_80 the row comes in
/// twice, and once where no gradient is asked for.
fn judge_head_rows(
    kernel: &str,
    in_bytes: u64,
    out_bytes: u64,
    architecture: Architecture,
    launches: &[Launch],
) {
    let logits = (HEAD.0 * HEAD.1) as u64;
    let reads = if architecture == Architecture::Sm90 { 1 } else { 2 };
    let (with, without) = match launches {
        [with, without] if with.kernel == kernel => (with, without),
        other => panic!("two launches of {kernel}, the first of which writes: {other:?}"),
    };
    for (launch, read, written) in
        [(with, reads * in_bytes * logits, out_bytes * logits), (without, in_bytes * logits, 0)]
    {
        let share = |moved: u64, expected: u64| moved as f64 / expected as f64;
        println!(
            "{architecture:?} {}: {} bytes read, {} written",
            launch.kernel,
            launch.read(),
            launch.written()
        );
        assert!((1.0..=1.02).contains(&share(launch.read(), read)), "{} read for {read}", launch.read());
        // Besides U only the row's results.
        assert!(
            launch.written() >= written
                && launch.written() <= written + written / 50 + 3 * 32 * HEAD.0 as u64
        );
        assert!(launch.efficiency() >= 0.95, "{}", launch.efficiency());
        assert_eq!((launch.local_bytes, launch.global_atomic_requests), (0, 0));
        // Of writes the simulator does not see that the four of a warp go to four blocks.
        assert_eq!(launch.shared_read_bank_conflicts, 0);
    }
}

#[test]
fn the_row_kernel_moves_each_logit_once() {
    let test = "counters::the_row_kernel_moves_each_logit_once";
    counted(
        test,
        |backend| head_rows(backend, false, Storage::Bf16),
        |architecture, launches| {
            judge_head_rows("head_rows_bf16", 2, 2, architecture, launches);
        },
    );
}

#[test]
fn the_row_kernel_moves_each_f32_logit_once() {
    let test = "counters::the_row_kernel_moves_each_f32_logit_once";
    counted(
        test,
        |backend| head_rows(backend, false, Storage::F32),
        |architecture, launches| {
            judge_head_rows("head_rows_f32_bf16", 4, 2, architecture, launches);
        },
    );
}

#[test]
fn the_row_kernel_of_two_targets_moves_each_logit_once() {
    let test = "counters::the_row_kernel_of_two_targets_moves_each_logit_once";
    counted(
        test,
        |backend| head_rows(backend, true, Storage::Bf16),
        |architecture, launches| {
            judge_head_rows("head_rows_two_bf16", 2, 2, architecture, launches);
        },
    );
}
