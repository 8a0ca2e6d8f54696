//! What the bf16 attention kernels do in shared memory and on tensor cores, as the simulator counts it.

use asft::backend::cuda::CudaBackend;

use crate::attention;
use crate::counters::{Launch, counted, only};
use crate::device::Storage;

/// Head sizes that are tuned, and one whose rows are no power of two.
const HEAD_SIZES: [usize; 3] = [64, 96, 128];

/// A prompt and answers over several tiles of every kernel, with partial ones, so that the inner loops are what counts.
fn work(backend: &mut CudaBackend) {
    for size in HEAD_SIZES {
        attention::run_both_ways(backend, Storage::Bf16, size);
    }
}

/// The kernels that have inner loops, forward and backward.
fn kernels(size: usize) -> [String; 3] {
    ["forward_bf16", "backward_key_bf16", "backward_query_bf16"]
        .map(|kernel| format!("attention_{kernel}_d{size}"))
}

/// Loads of fragments, copies into tiles, and results on their way out.
#[test]
fn no_access_of_shared_memory_has_a_bank_conflict() {
    counted("attention_counters::no_access_of_shared_memory_has_a_bank_conflict", work, |_, launches| {
        for kernel in HEAD_SIZES.iter().flat_map(|&size| kernels(size)) {
            let Launch { shared_read_wavefronts, shared_write_wavefronts, .. } = *only(launches, &kernel);
            assert!(shared_read_wavefronts > 1000 && shared_write_wavefronts > 100, "{kernel} did not work");
            let launch = only(launches, &kernel);
            let conflicts = [launch.shared_read_bank_conflicts, launch.shared_write_bank_conflicts];
            assert_eq!(conflicts, [0, 0], "{kernel}: of reads, of writes");
            assert_eq!((launch.local_bytes, launch.global_atomic_requests), (0, 0), "{kernel}");
        }
    });
}

/// Two products of 2 D per query and key forward, seven backward, and no more than what whole tiles add.
#[test]
fn tensor_cores_do_the_products_and_not_much_more() {
    counted("attention_counters::tensor_cores_do_the_products_and_not_much_more", work, |_, launches| {
        for size in HEAD_SIZES {
            let minimum = |products: usize| (products * 2 * size * attention::SEEN_PAIRS) as f64;
            for (kernel, products) in kernels(size).into_iter().zip([2, 4, 3]) {
                let done = only(launches, &kernel).tensor_operations as f64;
                let times = done / minimum(products);
                println!("{kernel}: {times:.2} times the products' operations");
                assert!((1.0..1.5).contains(&times), "{kernel}: {times}");
            }
        }
    });
}
