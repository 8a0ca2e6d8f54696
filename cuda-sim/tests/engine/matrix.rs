//! Tensor-core fragments, element by element against the tables of the PTX ISA; clusters.

use crate::harness::{Call, Device, have_nvrtc, kernel_file};
use cuda_sim::engine::{FindingKind, Module};
use half::{bf16, f16};

fn with_matrix(test: impl FnOnce(&Device, &Module)) {
    if have_nvrtc() {
        let device = Device::new();
        let module = device.load(&kernel_file("matrix.cu", "sm_90"));
        test(&device, &module);
    }
}

/// ISA, "ldmatrix": thread t holds row t / 4, columns 2 (t mod 4) and the next; with `.trans` row and column change places.
#[test]
fn ldmatrix_fragments() {
    with_matrix(|device, module| {
        for transposed in [0, 1] {
            let out = device.room::<u32>(128);
            let report = device.call(module, "load_matrix", 1, 32).arg(out).arg(transposed).ok();
            for (index, value) in device.download::<u32>(out, 128).into_iter().enumerate() {
                let (matrix, thread) = (index / 32, index % 32);
                let element = |column: usize| {
                    let (row, column) = (thread / 4, thread % 4 * 2 + column);
                    let (row, column) = if transposed == 1 { (column, row) } else { (row, column) };
                    (matrix * 64 + row * 8 + column) as u32
                };
                assert_eq!(value, element(0) | element(1) << 16, "matrix {matrix}, thread {thread}");
            }
            // 512 bytes in four wavefronts.
            assert_eq!(report.shared_read.wavefronts, 4);
        }
    });
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    with_matrix(|device, module| {
        let out = device.room::<u16>(128);
        device.call(module, "store_matrix", 1, 32).arg(out).ok();
        let result = device.download::<u16>(out, 128);
        for row in 0..8 {
            for column in 0..8 {
                assert_eq!(usize::from(result[row * 8 + column]), row * 8 + column);
                assert_eq!(usize::from(result[64 + row * 8 + column]), column * 8 + row);
            }
        }
    });
}

/// ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": row and column of element i of thread `lane`.
fn a16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, lane >> 2)
}

/// ISA, "Matrix Fragments for mma.m16n8k8", `.tf32`.
fn a8(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

fn b8(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane % 4 } else { lane % 4 + 4 }, lane >> 2)
}

fn c(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 2 + (i & 1))
}

/// Small integers, exact in every format.
fn value(seed: usize) -> f32 {
    ((seed * 2_654_435_761) >> 7) as u8 as f32 % 17.0 - 8.0
}

struct Problem {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    k: usize,
}

impl Problem {
    fn new(k: usize) -> Problem {
        let fill = |count: usize, seed: usize| (0..count).map(|i| value(i * 3 + seed)).collect();
        Problem { a: fill(16 * k, 1), b: fill(k * 8, 1000), c: fill(128, 2000), k }
    }

    fn expected(&self, row: usize, column: usize) -> f32 {
        self.c[row * 8 + column]
            + (0..self.k).map(|k| self.a[row * self.k + k] * self.b[k * 8 + column]).sum::<f32>()
    }
}

#[test]
fn mma_with_16_bit_operands() {
    with_matrix(|device, module| {
        type Encode = fn(f32) -> u16;
        let encodings: [(&str, Encode); 2] =
            [("mma_bf16", |v| bf16::from_f32(v).to_bits()), ("mma_f16", |v| f16::from_f32(v).to_bits())];
        for (name, encode) in encodings {
            let problem = Problem::new(16);
            let halves = |lane: usize, count: usize, place: &dyn Fn(usize, usize) -> f32| -> Vec<u32> {
                let one = |i| u32::from(encode(place(lane, i)));
                (0..count / 2).map(|r| one(2 * r) | one(2 * r + 1) << 16).collect()
            };
            let at_a = |lane, i| {
                let (r, k) = a16(lane, i);
                problem.a[r * 16 + k]
            };
            let at_b = |lane, i| {
                let (k, n) = b16(lane, i);
                problem.b[k * 8 + n]
            };
            let at_c = |lane, i| {
                let (r, n) = c(lane, i);
                problem.c[r * 8 + n]
            };
            let a: Vec<u32> = (0..32).flat_map(|lane| halves(lane, 8, &at_a)).collect();
            let b: Vec<u32> = (0..32).flat_map(|lane| halves(lane, 4, &at_b)).collect();
            let acc: Vec<f32> = (0..128).map(|i| at_c(i / 4, i % 4)).collect();
            let out = device.room::<f32>(128);
            let inputs = [device.upload(&a), device.upload(&b), device.upload(&acc), out];
            let report = device.call(module, name, 1, 32).args(&inputs).ok();
            assert_eq!(report.tensor_operations, 2 * 16 * 8 * 16);
            for (index, got) in device.download::<f32>(out, 128).into_iter().enumerate() {
                let (row, column) = c(index / 4, index % 4);
                assert_eq!(
                    got,
                    problem.expected(row, column),
                    "{name}, thread {}, element {}",
                    index / 4,
                    index % 4
                );
            }
        }
    });
}

#[test]
fn mma_with_f16_accumulators_and_tf32() {
    with_matrix(|device, module| {
        let mut problem = Problem::new(16);
        problem.c.iter_mut().for_each(|value| *value *= 0.25);
        let bits = |v: f32| u32::from(f16::from_f32(v).to_bits());
        let pack = |f: &dyn Fn(usize, usize) -> f32, per_lane: usize| -> Vec<u32> {
            (0..32 * per_lane)
                .map(|i| {
                    bits(f(i / per_lane, i % per_lane * 2))
                        | bits(f(i / per_lane, i % per_lane * 2 + 1)) << 16
                })
                .collect()
        };
        let a = pack(
            &|lane, i| {
                let (r, k) = a16(lane, i);
                problem.a[r * 16 + k]
            },
            4,
        );
        let b = pack(
            &|lane, i| {
                let (k, n) = b16(lane, i);
                problem.b[k * 8 + n]
            },
            2,
        );
        let acc = pack(
            &|lane, i| {
                let (r, n) = c(lane, i);
                problem.c[r * 8 + n]
            },
            2,
        );
        let out = device.room::<u32>(64);
        let inputs = [device.upload(&a), device.upload(&b), device.upload(&acc), out];
        device.call(module, "mma_f16_f16", 1, 32).args(&inputs).ok();
        for (index, got) in device.download::<u32>(out, 64).into_iter().enumerate() {
            for part in 0..2 {
                let (row, column) = c(index / 2, index % 2 * 2 + part);
                let got = f16::from_bits((got >> (16 * part)) as u16).to_f32();
                assert_eq!(got, f16::from_f32(problem.expected(row, column)).to_f32());
            }
        }

        let problem = Problem::new(8);
        // The low 13 bits of a tf32 operand do not count.
        let noise = 0x1abc;
        let a: Vec<u32> = (0..128)
            .map(|i| {
                let (r, k) = a8(i / 4, i % 4);
                problem.a[r * 8 + k].to_bits() | noise
            })
            .collect();
        let b: Vec<u32> = (0..64)
            .map(|i| {
                let (k, n) = b8(i / 2, i % 2);
                problem.b[k * 8 + n].to_bits()
            })
            .collect();
        let acc: Vec<f32> = (0..128)
            .map(|i| {
                let (r, n) = c(i / 4, i % 4);
                problem.c[r * 8 + n]
            })
            .collect();
        let out = device.room::<f32>(128);
        let inputs = [device.upload(&a), device.upload(&b), device.upload(&acc), out];
        device.call(module, "mma_tf32", 1, 32).args(&inputs).ok();
        for (index, got) in device.download::<f32>(out, 128).into_iter().enumerate() {
            let (row, column) = c(index / 4, index % 4);
            assert_eq!(got, problem.expected(row, column), "thread {}, element {}", index / 4, index % 4);
        }
    });
}

#[test]
fn clusters_share_their_memory() {
    with_matrix(|device, module| {
        for size in [1u32, 2, 4] {
            let out = device.room::<i32>(256);
            device.call(module, "cluster_ring", 8, 32).cluster(size).arg(out).ok();
            for (index, got) in device.download::<i32>(out, 256).into_iter().enumerate() {
                let (rank, thread) = ((index as u32 / 32) % size, index as u32 % 32);
                assert_eq!(got as u32, (rank + size - 1) % size * 100 + thread);
            }
        }
        let call: Call<'_> =
            device.call(module, "cluster_ring_bad", 8, 32).cluster(2).arg(device.room::<i32>(256));
        let error = call.run().expect_err("nobody waits for the neighbour");
        assert!(error.findings().iter().any(|f| f.kind == FindingKind::CrossBlockRace), "{error}");
        assert!(
            device.call(module, "cluster_ring", 8, 32).cluster(3).arg(device.room::<i32>(256)).run().is_err()
        );
    });
}

#[test]
fn counters_have_the_known_answers() {
    with_matrix(|device, module| {
        let (input, out) = (device.upload(&vec![1f32; 4096]), device.room::<f32>(1024));
        let copy = |stride: i32| device.call(module, "copy", 8, 128).args(&[input, out]).arg(stride).ok();
        let dense = copy(1);
        assert_eq!((dense.global_read.bytes, dense.global_read.sectors * 32), (4096, 4096));
        assert_eq!((dense.global_write.bytes, dense.global_write.sectors * 32), (4096, 4096));
        assert_eq!(dense.global_read.efficiency(), 1.0);
        assert_eq!(copy(2).global_read.efficiency(), 0.5);
        assert_eq!(copy(4).global_read.efficiency(), 0.25);
        let column = |width: i32| {
            let call = device
                .call(module, "column", 1, 32)
                .shared(33 * 32 * 4)
                .arg(device.room::<f32>(32))
                .arg(width);
            let report = call.ok();
            (report.shared_read.wavefronts, report.shared_write.bank_conflicts)
        };
        assert_eq!(column(32), (32, 31));
        assert_eq!(column(33), (1, 0));
        assert_eq!(column(2), (2, 1));
        let json = dense.to_json();
        assert!(
            json.contains("\"kernel\":\"copy\"") && json.contains("\"global_read_sectors\":128,"),
            "{json}"
        );
        assert!(!json.contains('\n'));
    });
}
