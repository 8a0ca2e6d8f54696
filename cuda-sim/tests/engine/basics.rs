//! Whole programs: the classics, control flow of every kind, calls, printing.

use crate::harness::{Device, have_nvrtc, kernel_file};
use cuda_sim::engine::{Module, Options};

fn with_basics(test: impl FnOnce(&Device, &Module)) {
    if have_nvrtc() {
        let device = Device::new();
        let module = device.load(&kernel_file("basics.cu", "sm_80"));
        test(&device, &module);
    }
}

fn random(count: usize, seed: u64) -> Vec<u64> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 20
        })
        .collect()
}

#[test]
fn addition_of_vectors() {
    with_basics(|device, module| {
        let a: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
        let b: Vec<f32> = (0..1000).map(|i| 1.0 / (i + 1) as f32).collect();
        let c = device.room::<f32>(1000);
        let (a_address, b_address) = (device.upload(&a), device.upload(&b));
        let report = device.call(module, "add", 8, 128).args(&[a_address, b_address, c]).arg(1000).ok();
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(device.download::<f32>(c, 1000), expected);
        assert_eq!((report.global_read.bytes, report.global_write.bytes), (8000, 4000));
        assert_eq!(report.global_read.sectors, 250);
    });
}

#[test]
fn divergent_loops_and_calls() {
    with_basics(|device, module| {
        let out = device.room::<u32>(256);
        device.call(module, "collatz_steps", 4, 64).arg(out).ok();
        let steps = |mut n: u64| {
            let mut steps = 0;
            while n != 1 {
                n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
                steps += 1;
            }
            steps
        };
        assert_eq!(device.download::<u32>(out, 256), (1..=256).map(steps).collect::<Vec<_>>());
    });
}

#[test]
fn recursion_and_indirect_calls() {
    with_basics(|device, module| {
        let out = device.room::<i32>(64);
        device.call(module, "recursion", 1, 64).arg(out).ok();
        let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
        assert_eq!(device.download::<i32>(out, 64), (0..64).map(|i| fibonacci[i % 12]).collect::<Vec<_>>());
        device.call(module, "indirect", 1, 64).arg(out).ok();
        let expected: Vec<i32> = (0..64).map(|i| [2 * i, i * i, -i][i as usize % 3]).collect();
        assert_eq!(device.download::<i32>(out, 64), expected);
    });
}

#[test]
fn a_switch_becomes_an_indexed_branch() {
    with_basics(|device, module| {
        let which: Vec<i32> = (0..64).map(|i| (i * 5 + i / 7) % 9).collect();
        let (input, out) = (device.upload(&which), device.room::<i32>(64));
        device.call(module, "switched", 1, 64).args(&[input, out]).ok();
        let expected: Vec<i32> = (0..64)
            .zip(&which)
            .map(|(i, which)| match which {
                0 => 10,
                1 => i * 3,
                2 => i * i + 7,
                3 => 7,
                4 => (0..i).sum(),
                5 => -i,
                6 => i ^ 0x55,
                _ => 1000,
            })
            .collect();
        assert_eq!(device.download::<i32>(out, 64), expected);
    });
}

#[test]
fn arrays_in_local_memory() {
    with_basics(|device, module| {
        let index: Vec<i32> = (0..16).map(|i| (i * 7 + 3) % 16).collect();
        let (input, out) = (device.upload(&index), device.room::<i32>(48));
        let report = device.call(module, "local_array", 1, 48).args(&[input, out]).ok();
        let expected: Vec<i32> = (0..48)
            .map(|thread: i32| {
                let mut values: Vec<i32> = (0..16).map(|j| j * j + thread).collect();
                for j in 0..16 {
                    values[index[(thread as usize + j) & 15] as usize] += values[j];
                }
                values.iter().fold(0i32, |sum, value| sum.wrapping_mul(3).wrapping_add(*value))
            })
            .collect();
        assert_eq!(device.download::<i32>(out, 48), expected);
        assert!(report.local_bytes > 0, "the array was meant to be in local memory");
    });
}

#[test]
fn reduction_scan_histogram() {
    with_basics(|device, module| {
        let input: Vec<i32> = random(3000, 1).iter().map(|v| (v % 1000) as i32 - 500).collect();
        let (address, total) = (device.upload(&input), device.upload(&[0i32]));
        device.call(module, "sum", 12, 256).args(&[address, total]).arg(3000).ok();
        assert_eq!(device.download::<i32>(total, 1)[0], input.iter().sum::<i32>());

        let out = device.room::<i32>(1024);
        device.call(module, "scan", 1, 1024).args(&[address, out]).ok();
        let expected: Vec<i32> = input[..1024]
            .iter()
            .scan(0, |sum, value| {
                *sum += value;
                Some(*sum)
            })
            .collect();
        assert_eq!(device.download::<i32>(out, 1024), expected);

        let bytes: Vec<u8> = random(5000, 2).iter().map(|v| *v as u8).collect();
        let (input, bins) = (device.upload(&bytes), device.upload(&[0u32; 64]));
        device.call(module, "histogram", 3, 128).args(&[input, bins]).arg(5000).ok();
        let mut expected = vec![0u32; 64];
        bytes.iter().for_each(|byte| expected[*byte as usize % 64] += 1);
        assert_eq!(device.download::<u32>(bins, 64), expected);
    });
}

#[test]
fn transposition_and_tiled_product() {
    with_basics(|device, module| {
        let n = 64usize;
        let a: Vec<f32> = random(n * n, 3).iter().map(|v| (v % 17) as f32 - 8.0).collect();
        let b: Vec<f32> = random(n * n, 4).iter().map(|v| (v % 13) as f32 - 6.0).collect();
        let (a_address, b_address, out) = (device.upload(&a), device.upload(&b), device.room::<f32>(n * n));
        let report =
            device.call(module, "transpose", [2, 2], [32, 8]).args(&[a_address, out]).arg(n as i32).ok();
        let transposed: Vec<f32> = (0..n * n).map(|i| a[i % n * n + i / n]).collect();
        assert_eq!(device.download::<f32>(out, n * n), transposed);
        assert_eq!(report.shared_read.bank_conflicts + report.shared_write.bank_conflicts, 0);
        assert_eq!(report.global_write.efficiency(), 1.0);
        device
            .call(module, "product", [4, 4], [16, 16])
            .args(&[a_address, b_address, out])
            .arg(n as i32)
            .ok();
        let expected: Vec<f32> =
            (0..n * n).map(|i| (0..n).map(|k| a[i / n * n + k] * b[k * n + i % n]).sum()).collect();
        assert_eq!(device.download::<f32>(out, n * n), expected);
    });
}

#[test]
fn printing() {
    with_basics(|device, module| {
        let name = device.upload(b"kernel\0");
        let report = device.call(module, "print", 1, 32).arg(name).ok();
        assert_eq!(report.output, "kernel 0  0.00 123456789abc x%\nkernel 1  1.50 123456789abc x%\n");
    });
}

#[test]
fn threads_of_a_warp_make_progress_past_a_lock() {
    with_basics(|device, module| {
        let (mutex, counter) = (device.upload(&[0i32]), device.upload(&[0i32]));
        device.call(module, "lock", 2, 64).args(&[mutex, counter]).ok();
        assert_eq!(device.download::<i32>(counter, 1), [128]);
    });
}

#[test]
fn blocks_can_wait_for_blocks_that_start_later() {
    with_basics(|device, module| {
        for threads in [1, 2] {
            let (arrived, data) = (device.upload(&[0i32]), device.room::<i32>(7));
            let out = device.room::<i32>(7);
            let options = Options { threads, ..device.options.clone() };
            let call = device.call(module, "grid_barrier", 7, 32).args(&[arrived, data, out]);
            call.run_with(&options).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(device.download::<i32>(out, 7), [28; 7]);
        }
    });
}

#[test]
fn carries_through_128_bits() {
    with_basics(|device, module| {
        let words = random(128, 5);
        let wide: Vec<u64> = words.iter().map(|w| w.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let (a, b) = wide.split_at(64);
        let (a_address, b_address, out) = (device.upload(a), device.upload(b), device.room::<u64>(6 * 32));
        device.call(module, "carry", 1, 32).args(&[a_address, b_address, out]).ok();
        let result = device.download::<u64>(out, 6 * 32);
        for i in 0..32 {
            let x = u128::from(a[2 * i + 1]) << 64 | u128::from(a[2 * i]);
            let y = u128::from(b[2 * i + 1]) << 64 | u128::from(b[2 * i]);
            for (at, expected) in
                [x.wrapping_add(y), x.wrapping_sub(y), x.wrapping_mul(y)].into_iter().enumerate()
            {
                let got = u128::from(result[6 * i + 2 * at + 1]) << 64 | u128::from(result[6 * i + 2 * at]);
                assert_eq!(got, expected, "result {at} of thread {i}");
            }
        }
    });
}
