//! cublasLt as a client uses it, against a triple loop in f64.

mod driver_support;

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::{mem, ptr};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self as blas, cublasStatus_t as Status, cudaDataType as DataType};
use cudarc::cublaslt::{Activation, CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use driver_support::simulate;
use half::{bf16, f16};

const F32: DataType = DataType::CUDA_R_32F;
const F16: DataType = DataType::CUDA_R_16F;
const BF16: DataType = DataType::CUDA_R_16BF;
const COMPUTE: blas::cublasComputeType_t = blas::cublasComputeType_t::CUBLAS_COMPUTE_32F;

/// Host data in a device type.
#[derive(Clone)]
struct Numbers {
    kind: DataType,
    bytes: Vec<u8>,
}

impl Numbers {
    fn new(kind: DataType, values: &[f32]) -> Numbers {
        let bytes = match kind {
            F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes()).collect(),
            _ => values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes()).collect(),
        };
        Numbers { kind, bytes }
    }

    fn values(&self) -> Vec<f64> {
        match self.kind {
            F32 => self.bytes.chunks(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
            F16 => self.bytes.chunks(2).map(|b| f16::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
            _ => self.bytes.chunks(2).map(|b| bf16::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
        }
    }
}

/// Relative distance of neighbouring numbers of a type.
fn epsilon(kind: DataType) -> f64 {
    match kind {
        F32 => 2f64.powi(-23),
        F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    }
}

/// Deterministic values in [-1, 1).
fn noise(seed: &mut u64, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// One product as a client describes it.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
    transpose_b: bool,
    /// Added to every leading dimension.
    gap: usize,
    row_major: bool,
    batches: usize,
    operands: DataType,
    result: DataType,
    alpha: f32,
    beta: f32,
    in_place: bool,
}

impl Case {
    fn stored(rows: usize, columns: usize, transposed: bool) -> (usize, usize) {
        if transposed { (columns, rows) } else { (rows, columns) }
    }

    fn leading(&self, (rows, columns): (usize, usize)) -> usize {
        if self.row_major { columns + self.gap } else { rows + self.gap }
    }

    /// Elements from the start of one batch to the start of the next.
    fn stride(&self, stored: (usize, usize)) -> usize {
        self.leading(stored) * if self.row_major { stored.0 } else { stored.1 } + 3
    }

    fn index(&self, stored: (usize, usize), row: usize, column: usize) -> usize {
        let leading = self.leading(stored);
        if self.row_major { row * leading + column } else { row + column * leading }
    }
}

struct Layout(blas::cublasLtMatrixLayout_t);

impl Layout {
    fn new(case: &Case, kind: DataType, stored: (usize, usize)) -> Layout {
        let (rows, columns) = stored;
        let layout =
            lt::create_matrix_layout(kind, rows as u64, columns as u64, case.leading(stored) as i64).unwrap();
        use blas::cublasLtMatrixLayoutAttribute_t as A;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: a live layout and a value of the attribute's size.
            unsafe { lt::set_matrix_layout_attribute(layout, attribute, value, bytes) }.unwrap();
        };
        let (batches, stride) = (case.batches as c_int, case.stride(stored) as i64);
        set(A::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (&raw const batches).cast(), 4);
        set(A::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, (&raw const stride).cast(), 8);
        let order = i32::from(case.row_major);
        set(A::CUBLASLT_MATRIX_LAYOUT_ORDER, (&raw const order).cast(), 4);
        Layout(layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { lt::destroy_matrix_layout(self.0) }.unwrap();
    }
}

/// Descriptors of one product.
struct Plan {
    handle: blas::cublasLtHandle_t,
    operation: blas::cublasLtMatmulDesc_t,
    layouts: [Layout; 4],
}

impl Plan {
    fn new(case: &Case, compute: blas::cublasComputeType_t) -> Plan {
        let handle = lt::create_handle().unwrap();
        let operation = lt::create_matmul_desc(compute, F32).unwrap();
        use blas::cublasLtMatmulDescAttributes_t as A;
        for (attribute, transposed) in [
            (A::CUBLASLT_MATMUL_DESC_TRANSA, case.transpose_a),
            (A::CUBLASLT_MATMUL_DESC_TRANSB, case.transpose_b),
        ] {
            let value = i32::from(transposed);
            // SAFETY: a live descriptor and a 32-bit value.
            unsafe { lt::set_matmul_desc_attribute(operation, attribute, (&raw const value).cast(), 4) }
                .unwrap();
        }
        let a = Layout::new(case, case.operands, Case::stored(case.m, case.k, case.transpose_a));
        let b = Layout::new(case, case.operands, Case::stored(case.k, case.n, case.transpose_b));
        let c = Layout::new(case, case.result, (case.m, case.n));
        let d = Layout::new(case, case.result, (case.m, case.n));
        Plan { handle, operation, layouts: [a, b, c, d] }
    }

    fn heuristic(&self) -> Result<blas::cublasLtMatmulHeuristicResult_t, CublasError> {
        let preference = lt::create_matmul_pref().unwrap();
        let [a, b, c, d] = &self.layouts;
        let workspace = 32usize << 20;
        let attribute = blas::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: live descriptors.
        unsafe {
            lt::set_matmul_pref_attribute(preference, attribute, (&raw const workspace).cast(), 8).unwrap();
            let found =
                lt::get_matmul_algo_heuristic(self.handle, self.operation, a.0, b.0, c.0, d.0, preference);
            lt::destroy_matmul_pref(preference).unwrap();
            found
        }
    }

    fn run(&self, scalars: (f32, f32), at: [u64; 4], stream: &CudaStream) -> Result<(), CublasError> {
        let algorithm = self.heuristic()?.algo;
        let [a, b, c, d] = &self.layouts;
        let (alpha, beta) = scalars;
        // SAFETY: live descriptors, and matrices that the caller allocated for them.
        unsafe {
            lt::matmul(
                self.handle,
                self.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                at[0] as *const c_void,
                a.0,
                at[1] as *const c_void,
                b.0,
                at[2] as *const c_void,
                c.0,
                at[3] as *mut c_void,
                d.0,
                &algorithm,
                ptr::null_mut(),
                0,
                stream.cu_stream().cast(),
            )
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe {
            lt::destroy_matmul_desc(self.operation).unwrap();
            lt::destroy_handle(self.handle).unwrap();
        }
    }
}

fn address(stream: &Arc<CudaStream>, slice: &CudaSlice<u8>) -> u64 {
    slice.device_ptr(stream).0
}

/// Computes a case on the device and compares every element with the sum in f64; gives back D's bytes.
fn check(stream: &Arc<CudaStream>, case: Case, seed: u64) -> Vec<u8> {
    let mut seed = seed;
    let stored_a = Case::stored(case.m, case.k, case.transpose_a);
    let stored_b = Case::stored(case.k, case.n, case.transpose_b);
    let mut numbers =
        |kind, stored| Numbers::new(kind, &noise(&mut seed, case.stride(stored) * case.batches));
    let (a, b) = (numbers(case.operands, stored_a), numbers(case.operands, stored_b));
    let (c, d) = (numbers(case.result, (case.m, case.n)), numbers(case.result, (case.m, case.n)));
    let device = [&a, &b, &c, &d].map(|numbers| stream.clone_htod(&numbers.bytes).unwrap());
    let mut at = device.each_ref().map(|slice| address(stream, slice));
    if case.in_place {
        at[3] = at[2];
    }
    Plan::new(&case, COMPUTE).run((case.alpha, case.beta), at, stream).unwrap();
    let result = stream.clone_dtoh(&device[if case.in_place { 2 } else { 3 }]).unwrap();
    compare(&case, [&a, &b, &c, if case.in_place { &c } else { &d }], &result);
    result
}

fn compare(case: &Case, [a, b, c, before]: [&Numbers; 4], result: &[u8]) {
    let stored_a = Case::stored(case.m, case.k, case.transpose_a);
    let stored_b = Case::stored(case.k, case.n, case.transpose_b);
    let stored_d = (case.m, case.n);
    let (a, b, c) = (a.values(), b.values(), c.values());
    let got = Numbers { kind: case.result, bytes: result.to_vec() }.values();
    let mut touched = vec![false; got.len()];
    for batch in 0..case.batches {
        let start = |stored| batch * case.stride(stored);
        for column in 0..case.n {
            for row in 0..case.m {
                let (mut sum, mut size) = (0.0, 0.0);
                for depth in 0..case.k {
                    let (i, j) = if case.transpose_a { (depth, row) } else { (row, depth) };
                    let (p, q) = if case.transpose_b { (column, depth) } else { (depth, column) };
                    let left = a[start(stored_a) + case.index(stored_a, i, j)];
                    let term = left * b[start(stored_b) + case.index(stored_b, p, q)];
                    sum += term;
                    size += term.abs();
                }
                let at = start(stored_d) + case.index(stored_d, row, column);
                touched[at] = true;
                let (alpha, beta) = (f64::from(case.alpha), f64::from(case.beta));
                let old = if case.beta == 0.0 { 0.0 } else { beta * c[at] };
                let expected = alpha * sum + old;
                // k + 2 roundings in f32, each relative to what is summed so far, then one to the result's type.
                let summing = (case.k + 2) as f64 * 2f64.powi(-24) * (alpha.abs() * size + old.abs());
                let bound = summing + 0.5 * epsilon(case.result) * (expected.abs() + summing);
                let error = (got[at] - expected).abs();
                assert!(
                    error <= bound,
                    "{case:?} [{row}, {column}]: {} for {expected}, bound {bound}",
                    got[at]
                );
            }
        }
    }
    // What lies between the columns and the batches is left alone.
    let size = result.len() / got.len();
    for at in (0..got.len()).filter(|&at| !touched[at]) {
        assert_eq!(
            result[at * size..][..size],
            before.bytes[at * size..][..size],
            "{case:?}: a gap was written"
        );
    }
}

const SQUARE: Case = Case {
    m: 16,
    n: 16,
    k: 16,
    transpose_a: false,
    transpose_b: false,
    gap: 0,
    row_major: false,
    batches: 1,
    operands: BF16,
    result: F32,
    alpha: 1.0,
    beta: 0.0,
    in_place: false,
};

#[test]
fn every_transpose_type_and_odd_size_agrees_with_f64() {
    simulate("every_transpose_type_and_odd_size_agrees_with_f64", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let sizes = [(1, 1, 1), (3, 5, 7), (33, 17, 65), (1, 97, 31), (130, 1, 257), (64, 100, 16)];
        let types = [(F32, F32), (BF16, BF16), (BF16, F32), (F16, F16), (F16, F32)];
        let scalars = [(1.0, 0.0, false), (1.0, 1.0, true), (-0.75, 2.5, false), (0.5, -1.0, true)];
        let mut seed = 1;
        for (size, &(m, n, k)) in sizes.iter().enumerate() {
            for (operands, result) in types {
                for flags in 0..16 {
                    let (alpha, beta, in_place) = scalars[(flags + size) % scalars.len()];
                    let case = Case {
                        m,
                        n,
                        k,
                        transpose_a: flags & 1 != 0,
                        transpose_b: flags & 2 != 0,
                        gap: if flags & 4 != 0 { 3 } else { 0 },
                        row_major: flags & 8 != 0,
                        batches: 1 + flags % 3,
                        operands,
                        result,
                        alpha,
                        beta,
                        in_place,
                    };
                    check(&stream, case, seed);
                    seed += 1;
                }
            }
        }
    });
}

#[test]
fn the_number_of_threads_and_the_rows_around_do_not_change_a_bit() {
    let bits = |threads: &str, file: &std::path::Path| {
        let variables = [("CUDA_SIM_THREADS", threads), ("PRODUCT_FILE", file.to_str().unwrap())];
        let test = "the_number_of_threads_and_the_rows_around_do_not_change_a_bit";
        simulate(test, &variables, || {
            let context = CudaContext::new(0).unwrap();
            let stream = context.new_stream().unwrap();
            let case = Case { m: 300, n: 260, k: 333, ..SQUARE };
            let whole = check(&stream, case, 5);
            // The same first 7 columns alone: B and D are stored column by column, so they are prefixes.
            let alone = Case { n: 7, ..case };
            let mut seed = 5;
            let a = Numbers::new(BF16, &noise(&mut seed, case.stride((300, 333))));
            let b = Numbers::new(BF16, &noise(&mut seed, case.stride((333, 260))));
            let device = [&a, &b].map(|numbers| stream.clone_htod(&numbers.bytes).unwrap());
            let d = stream.alloc_zeros::<u8>(300 * 7 * 4).unwrap();
            let at = [address(&stream, &device[0]), address(&stream, &device[1]), address(&stream, &d)];
            Plan::new(&alone, COMPUTE).run((1.0, 0.0), [at[0], at[1], at[2], at[2]], &stream).unwrap();
            assert_eq!(stream.clone_dtoh(&d).unwrap(), whole[..300 * 7 * 4]);
            std::fs::write(std::env::var("PRODUCT_FILE").unwrap(), whole).unwrap();
        });
    };
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = ["1", "3"].map(|threads| (threads, folder.join(format!("product-{threads}"))));
    for (threads, file) in &files {
        bits(threads, file);
    }
    if std::env::var_os("PRODUCT_FILE").is_none() {
        assert_eq!(std::fs::read(&files[0].1).unwrap(), std::fs::read(&files[1].1).unwrap());
    }
}

#[test]
fn fast_compute_types_round_aligned_f32_operands() {
    simulate("fast_compute_types_round_aligned_f32_operands", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        use blas::cublasComputeType_t as C;
        // 1 + 2^-9 needs 9 bits of mantissa, 1 + 2^-12 needs 12: bf16 has 7, tf32 and f16 have 10, f32 has 23.
        let (nine, twelve) = (1.0 + 2f32.powi(-9), 1.0 + 2f32.powi(-12));
        let run = |compute, rows, value: f32| {
            let case = Case { m: rows, n: 1, k: rows, operands: F32, ..SQUARE };
            // Nothing but the first number, so that only their product is not zero.
            let first = |value| Numbers::new(F32, &[&[value][..], &[0.0; 15]].concat()).bytes;
            let device = [value, 1.0, 0.0].map(|value| stream.clone_htod(&first(value)).unwrap());
            let [a, b, d] = device.each_ref().map(|slice| address(&stream, slice));
            Plan::new(&case, compute).run((1.0, 0.0), [a, b, d, d], &stream).unwrap();
            let bytes = stream.clone_dtoh(&device[2]).unwrap();
            f32::from_ne_bytes(bytes[..4].try_into().unwrap())
        };
        for (compute, of_nine, of_twelve) in [
            (C::CUBLAS_COMPUTE_32F, nine, twelve),
            (C::CUBLAS_COMPUTE_32F_FAST_TF32, nine, 1.0),
            (C::CUBLAS_COMPUTE_32F_FAST_16F, nine, 1.0),
            (C::CUBLAS_COMPUTE_32F_FAST_16BF, 1.0, 1.0),
        ] {
            assert_eq!((run(compute, 4, nine), run(compute, 4, twelve)), (of_nine, of_twelve), "{compute:?}");
            assert_eq!(run(compute, 3, twelve), twelve, "{compute:?}: no tensor core takes 12-byte columns");
        }
    });
}

#[test]
fn cudarc_s_own_matmul_with_bias_and_relu() {
    simulate("cudarc_s_own_matmul_with_bias_and_relu", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let library = CudaBlasLT::new(stream.clone()).unwrap();
        let (m, n, k) = (5usize, 3usize, 4usize);
        let to = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let a = to((0..m * k).map(|at| at as f32 - 9.0).collect());
        let b = to((0..k * n).map(|at| 5.0 - at as f32).collect());
        let bias = to((0..m).map(|at| at as f32 * 8.0).collect());
        let device = [&a, &b, &bias].map(|host| stream.clone_htod(host).unwrap());
        let mut d = stream.alloc_zeros::<bf16>(m * n).unwrap();
        let config = MatmulConfig {
            transa: false,
            transb: false,
            transc: false,
            m: m as u64,
            n: n as u64,
            k: k as u64,
            alpha: 1.0,
            lda: m as i64,
            ldb: k as i64,
            beta: 0.0,
            ldc: m as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        // SAFETY: sizes and leading dimensions are those of the slices.
        unsafe {
            library.matmul(config, &device[0], &device[1], &mut d, Some(&device[2]), Some(&Activation::Relu))
        }
        .unwrap();
        let got = stream.clone_dtoh(&d).unwrap();
        let mut clipped = 0;
        for column in 0..n {
            for row in 0..m {
                let sum: f32 = (0..k).map(|at| a[row + at * m].to_f32() * b[at + column * k].to_f32()).sum();
                let value = sum + bias[row].to_f32();
                clipped += usize::from(value < 0.0);
                assert_eq!(got[row + column * m], bf16::from_f32(value.max(0.0)), "[{row}, {column}]");
            }
        }
        assert!(clipped > 0 && clipped < m * n);
        // SAFETY: as above.
        let gelu =
            unsafe { library.matmul(config, &device[0], &device[1], &mut d, None, Some(&Activation::Gelu)) };
        assert_eq!(gelu.unwrap_err().0, Status::CUBLAS_STATUS_NOT_SUPPORTED);
    });
}

#[test]
fn a_bias_is_added_to_every_column_in_either_order() {
    simulate("a_bias_is_added_to_every_column_in_either_order", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        use blas::cublasLtMatmulDescAttributes_t as A;
        let (m, n, batches) = (5, 3, 2);
        let bias: Vec<f32> = (0..batches * 8).map(|at| at as f32 + 0.25).collect();
        let device_bias = stream.clone_htod(&Numbers::new(F32, &bias).bytes).unwrap();
        for row_major in [false, true] {
            let case = Case { m, n, k: 2, row_major, batches, result: BF16, ..SQUARE };
            let plan = Plan::new(&case, COMPUTE);
            let set = |attribute, value: *const c_void, bytes| {
                // SAFETY: a live descriptor and a value of the attribute's size.
                unsafe { lt::set_matmul_desc_attribute(plan.operation, attribute, value, bytes) }.unwrap();
            };
            let (kind, epilogue, at, stride) =
                (F32, blas::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS, address(&stream, &device_bias), 8i64);
            set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), 4);
            set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const at).cast(), 8);
            set(A::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, (&raw const stride).cast(), 8);
            set(A::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (&raw const kind).cast(), 4);
            // Zero times zero: the bias alone.
            let zeros = stream.alloc_zeros::<u8>(1000).unwrap();
            let d = stream.alloc_zeros::<u8>(1000).unwrap();
            let (zero, result) = (address(&stream, &zeros), address(&stream, &d));
            plan.run((1.0, 0.0), [zero, zero, result, result], &stream).unwrap();
            let got = Numbers { kind: BF16, bytes: stream.clone_dtoh(&d).unwrap() }.values();
            for (batch, column, row) in
                (0..batches).flat_map(|b| (0..n).flat_map(move |c| (0..m).map(move |r| (b, c, r))))
            {
                let at = batch * case.stride((m, n)) + case.index((m, n), row, column);
                assert_eq!(got[at], f64::from(bias[batch * 8 + row]), "batch {batch} [{row}, {column}]");
            }
        }
    });
}

#[test]
fn a_captured_product_is_done_at_every_launch() {
    simulate("a_captured_product_is_done_at_every_launch", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: everything happens in one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let ones = Numbers::new(BF16, &[1.0; 256]);
        let a = stream.clone_htod(&ones.bytes).unwrap();
        let mut b = stream.clone_htod(&ones.bytes).unwrap();
        let d = stream.alloc_zeros::<f32>(256).unwrap();
        let at = [address(&stream, &a), b.device_ptr(&stream).0, d.device_ptr(&stream).0];
        let plan = Plan::new(&SQUARE, COMPUTE);
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        plan.run((1.0, 1.0), [at[0], at[1], at[2], at[2]], &stream).unwrap();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        drop(plan);
        assert_eq!(stream.clone_dtoh(&d).unwrap(), [0.0; 256], "capturing does nothing");
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&d).unwrap(), [16.0; 256]);
        stream.memcpy_htod(&Numbers::new(BF16, &[-2.0; 256]).bytes, &mut b).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&d).unwrap(), [-16.0; 256], "16 - 32");
    });
}

#[test]
fn wrong_products_are_refused_with_a_reason() {
    let outcome = simulate("wrong_products_are_refused_with_a_reason", &[], || {
        let context = CudaContext::new(0).unwrap();
        let status = |case: &Case, compute| Plan::new(case, compute).heuristic().unwrap_err().0;
        use blas::cublasComputeType_t as C;
        assert_eq!(status(&SQUARE, C::CUBLAS_COMPUTE_16F), Status::CUBLAS_STATUS_NOT_SUPPORTED);
        assert_eq!(status(&SQUARE, C::CUBLAS_COMPUTE_32F_FAST_TF32), Status::CUBLAS_STATUS_NOT_SUPPORTED);
        let mixed = Case { operands: F32, result: BF16, ..SQUARE };
        assert_eq!(status(&mixed, COMPUTE), Status::CUBLAS_STATUS_NOT_SUPPORTED);
        let doubles = Case { operands: DataType::CUDA_R_64F, result: DataType::CUDA_R_64F, ..SQUARE };
        assert_eq!(status(&doubles, COMPUTE), Status::CUBLAS_STATUS_NOT_SUPPORTED);
        let empty = Case { k: 0, ..SQUARE };
        assert_eq!(status(&empty, COMPUTE), Status::CUBLAS_STATUS_INVALID_VALUE);
        let mut crooked = Plan::new(&SQUARE, COMPUTE);
        crooked.layouts[1] = Layout::new(&SQUARE, BF16, (17, 16));
        assert_eq!(crooked.heuristic().unwrap_err().0, Status::CUBLAS_STATUS_INVALID_VALUE);
        let mut narrow = Plan::new(&SQUARE, COMPUTE);
        let layout = lt::create_matrix_layout(BF16, 16, 16, 15).unwrap();
        narrow.layouts[0] = Layout(layout);
        assert_eq!(narrow.heuristic().unwrap_err().0, Status::CUBLAS_STATUS_INVALID_VALUE);
        // SAFETY: handles that are none are looked up, not followed; values of wrong sizes are refused.
        unsafe {
            let plan = Plan::new(&SQUARE, COMPUTE);
            let attribute = blas::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
            let value = 1u64;
            let wrong_size =
                lt::set_matmul_desc_attribute(plan.operation, attribute, (&raw const value).cast(), 8);
            assert_eq!(wrong_size.unwrap_err().0, Status::CUBLAS_STATUS_INVALID_VALUE);
            let scale = blas::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER;
            let unknown = lt::set_matmul_desc_attribute(plan.operation, scale, (&raw const value).cast(), 8);
            assert_eq!(unknown.unwrap_err().0, Status::CUBLAS_STATUS_NOT_SUPPORTED);
            let destroyed = lt::destroy_matmul_desc(ptr::null_mut());
            assert_eq!(destroyed.unwrap_err().0, Status::CUBLAS_STATUS_INVALID_VALUE);
            let (mut read, mut written) = (7i32, 0usize);
            let get = blas::cublasLtMatmulDescGetAttribute;
            let outcome =
                get(plan.operation, attribute, (&raw mut read).cast(), mem::size_of::<i32>(), &mut written);
            outcome.result().unwrap();
            assert_eq!((read, written), (0, 4));
        }
        drop(context);
    });
    if let Some(outcome) = outcome {
        outcome
            .says("16x16 * 17x16 + 16x16 does not give 16x16")
            .says("A has a leading dimension of 15, below 16")
            .says("cudaDataType 1")
            .says("attribute 17 of a Matmul descriptor is not implemented");
    }
}

#[test]
fn a_matrix_that_leaves_its_memory_breaks_the_context() {
    let outcome = simulate("a_matrix_that_leaves_its_memory_breaks_the_context", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let whole = stream.alloc_zeros::<u8>(512).unwrap();
        let mut short = stream.alloc_zeros::<u8>(1023).unwrap();
        let (a, d) = (address(&stream, &whole), short.device_ptr_mut(&stream).0);
        let plan = Plan::new(&SQUARE, COMPUTE);
        let failed = plan.run((1.0, 0.0), [a, a, d, d], &stream);
        assert_eq!(failed.unwrap_err().0, Status::CUBLAS_STATUS_EXECUTION_FAILED);
        let after = stream.synchronize().unwrap_err().0;
        assert_eq!(after, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    if let Some(outcome) = outcome {
        outcome.says("cublasLtMatmul: matrix D: 1024 bytes");
    }
}

#[test]
fn operands_that_nobody_wrote_are_found() {
    for (check, uninitialised) in [("on", "A"), ("on", "B"), ("on", "C"), ("off", "A")] {
        let variables = [("CUDA_SIM_CHECK", check), ("UNINITIALISED", uninitialised)];
        let outcome = simulate("operands_that_nobody_wrote_are_found", &variables, || {
            let (check, uninitialised) =
                (std::env::var("CUDA_SIM_CHECK").unwrap(), std::env::var("UNINITIALISED").unwrap());
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let mut at = [0; 4];
            let mut kept = Vec::new();
            for (name, at) in ["A", "B", "C", "D"].into_iter().zip(&mut at) {
                // SAFETY: that some of it is never written is what is tested.
                let mut slice = unsafe { stream.alloc::<u8>(1024) }.unwrap();
                if name != "D" && name != uninitialised {
                    stream.memset_zeros(&mut slice).unwrap();
                }
                *at = address(&stream, &slice);
                kept.push(slice);
            }
            let written = if uninitialised == "B" { at[0] } else { at[1] };
            // C is read only where beta is not 0.
            Plan::new(&Case { m: 1, n: 1, k: 1, ..SQUARE }, COMPUTE)
                .run((1.0, 0.0), [written, written, at[2], at[3]], &stream)
                .unwrap();
            let outcome = Plan::new(&SQUARE, COMPUTE).run((1.0, 1.0), at, &stream);
            if check == "off" {
                return outcome.unwrap();
            }
            assert_eq!(outcome.unwrap_err().0, Status::CUBLAS_STATUS_EXECUTION_FAILED);
            assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
        });
        if let Some(outcome) = outcome
            && check == "on"
        {
            outcome.says(&format!("matrix {uninitialised}: nobody wrote byte 0"));
        }
    }
}

/// bf16 matrices with gaps between their columns: the gaps may stay unwritten, every element must be written.
#[test]
fn gaps_may_stay_unwritten_and_elements_may_not() {
    for missing in ["nothing", "A", "B"] {
        let variables = [("MISSING", missing)];
        let outcome = simulate("gaps_may_stay_unwritten_and_elements_may_not", &variables, || {
            let missing = std::env::var("MISSING").unwrap();
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let case = Case { operands: BF16, gap: 8, ..SQUARE };
            let stored = (16, 16);
            let mut kept = Vec::new();
            let mut operand = |name: &str| {
                // SAFETY: written below, element by element.
                let slice = unsafe { stream.alloc::<u8>(case.stride(stored) * 2) }.unwrap();
                let base = address(&stream, &slice);
                let last = case.index(stored, 15, 15);
                for (row, column) in (0..16).flat_map(|row| (0..16).map(move |column| (row, column))) {
                    let at = case.index(stored, row, column);
                    if at == last && name == missing {
                        continue;
                    }
                    // SAFETY: the element is inside the allocation.
                    unsafe {
                        cudarc::driver::result::memcpy_htod_sync(base + 2 * at as u64, &[0x80u8, 0x3f])
                    }
                    .unwrap();
                }
                kept.push(slice);
                base
            };
            let (a, b) = (operand("A"), operand("B"));
            let d = stream.alloc_zeros::<u8>(case.stride(stored) * 4).unwrap();
            let d = [d.device_ptr(&stream).0; 2];
            let outcome = Plan::new(&case, COMPUTE).run((1.0, 0.0), [a, b, d[0], d[1]], &stream);
            if missing == "nothing" {
                return outcome.unwrap();
            }
            assert_eq!(outcome.unwrap_err().0, Status::CUBLAS_STATUS_EXECUTION_FAILED);
        });
        if let Some(outcome) = outcome
            && missing != "nothing"
        {
            // The last element is the 16th of the 16th column of 24.
            outcome.says(&format!("matrix {missing}: nobody wrote byte {}", 2 * (15 * 24 + 15)));
        }
    }
}

/// `cargo test -p cuda-sim --test cublaslt speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let outcome = simulate("speed", &[("MEASURE", "1")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        for (m, n, k) in [(64, 64, 64), (512, 512, 512), (2048, 2048, 2048)] {
            for transpose_a in [false, true] {
                let case = Case { m, n, k, transpose_a, ..SQUARE };
                let device = [m * k * 2, k * n * 2, m * n * 4]
                    .map(|bytes| stream.clone_htod(&vec![0u8; bytes]).unwrap());
                let [a, b, d] = device.each_ref().map(|slice| address(&stream, slice));
                let plan = Plan::new(&case, COMPUTE);
                let start = std::time::Instant::now();
                let rounds = if k < 1000 { 20 } else { 3 };
                for _ in 0..rounds {
                    plan.run((1.0, 0.0), [a, b, d, d], &stream).unwrap();
                }
                let seconds = start.elapsed().as_secs_f64() / f64::from(rounds);
                let rate = 2.0 * (m * n * k) as f64 / seconds * 1e-9;
                eprintln!(
                    "{m} x {n} x {k}, transpose_a {transpose_a}: {:.3} ms, {rate:.1} GFLOP/s",
                    seconds * 1e3
                );
            }
        }
    });
    if let Some(outcome) = outcome {
        print!("{}", outcome.stderr);
    }
}
