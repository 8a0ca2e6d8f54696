//! Modules, functions and launches through an unmodified client, with PTX written by hand.

mod driver_support;

use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;
use std::{env, fs, mem, ptr};

use cudarc::driver::sys::{self, CUfunction_attribute as FunctionAttribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use driver_support::{SAXPY, VECTOR_ADD, code, simulate};

fn function(context: &Arc<CudaContext>, ptx: &str, name: &str) -> CudaFunction {
    context.load_module(Ptx::from_src(ptx)).unwrap().load_function(name).unwrap()
}

fn config(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

/// Adds two vectors of `n` numbers on the device, with a grid for `grid_n`.
fn add(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    n: usize,
    passed_n: u32,
) -> Result<Vec<f32>, DriverError> {
    let host = |scale: f32| (0..n).map(|at| at as f32 * scale).collect::<Vec<_>>();
    let (a, b) = (stream.clone_htod(&host(1.0))?, stream.clone_htod(&host(0.5))?);
    let mut c = stream.alloc_zeros::<f32>(n)?;
    let mut launch = stream.launch_builder(function);
    launch.arg(&a).arg(&b).arg(&mut c).arg(&passed_n);
    // SAFETY: the arguments are those of the kernel; what it does with a wrong `passed_n` is what is tested.
    unsafe { launch.launch(LaunchConfig::for_num_elems(passed_n)) }?;
    stream.clone_dtoh(&c)
}

#[test]
fn vectors_are_added() {
    simulate("vectors_are_added", &[], || {
        let context = CudaContext::new(0).unwrap();
        let kernel = function(&context, VECTOR_ADD, "vector_add");
        for stream in [context.default_stream(), context.new_stream().unwrap()] {
            for n in [1usize, 31, 1024, 5000] {
                let expected: Vec<f32> = (0..n).map(|at| at as f32 * 1.5).collect();
                assert_eq!(add(&stream, &kernel, n, n as u32).unwrap(), expected);
            }
        }
    });
}

#[test]
fn parameters_of_every_form_arrive() {
    simulate("parameters_of_every_form_arrive", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(SAXPY)).unwrap();
        let kernel = module.load_function("saxpy").unwrap();
        let x = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut y = stream.clone_htod(&[10.0f32; 64]).unwrap();
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&2.5f32).arg(&x).arg(&mut y);
        // SAFETY: the arguments are those of the kernel, and 64 threads stay inside the vectors.
        unsafe { launch.launch(config(2, 32, 0)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [12.5; 64]);

        // One packed buffer: an f32, a gap, two addresses.
        let mut packed = [0u8; 24];
        packed[..4].copy_from_slice(&(-2.5f32).to_ne_bytes());
        packed[8..16].copy_from_slice(&x.device_ptr(&stream).0.to_ne_bytes());
        packed[16..].copy_from_slice(&y.device_ptr(&stream).0.to_ne_bytes());
        let mut bytes = packed.len();
        let mut raw = ptr::null_mut();
        // SAFETY: a live module (leaked: its handle is used below) and lists as the documentation has them.
        unsafe {
            let handle = result::module::load_data(CString::new(SAXPY).unwrap().as_ptr().cast()).unwrap();
            sys::cuModuleGetFunction(&mut raw, handle, c"saxpy".as_ptr()).result().unwrap();
            let mut again = ptr::null_mut();
            sys::cuModuleGetFunction(&mut again, handle, c"saxpy".as_ptr()).result().unwrap();
            assert_eq!(raw, again, "one function, one handle");
            let mut launch = |bytes: *mut usize| {
                let mut extra = [
                    ptr::without_provenance_mut(1),
                    packed.as_mut_ptr().cast(),
                    ptr::without_provenance_mut(2),
                    bytes.cast(),
                    ptr::null_mut(),
                ];
                let none = ptr::null_mut();
                sys::cuLaunchKernel(raw, 2, 1, 1, 32, 1, 1, 0, none, ptr::null_mut(), extra.as_mut_ptr())
                    .result()
            };
            launch(&mut bytes).unwrap();
            bytes = 20;
            assert_eq!(
                code(launch(&mut bytes)),
                CUresult::CUDA_ERROR_INVALID_VALUE,
                "the buffer is too short"
            );
            let (mut address, mut size) = (0, 0);
            sys::cuModuleGetGlobal_v2(&mut address, &mut size, handle, c"calls".as_ptr()).result().unwrap();
            let mut value = [0u32];
            result::memcpy_dtoh_sync(&mut value, address).unwrap();
            assert_eq!((value, size), ([7], 4));
            let missing =
                sys::cuModuleGetGlobal_v2(&mut address, &mut size, handle, c"none".as_ptr()).result();
            assert_eq!(code(missing), CUresult::CUDA_ERROR_NOT_FOUND);
            sys::cuModuleUnload(handle).result().unwrap();
            assert_eq!(code(sys::cuModuleUnload(handle).result()), CUresult::CUDA_ERROR_INVALID_HANDLE);
            let gone = sys::cuLaunchKernel(
                raw,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            );
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [10.0; 64]);
    });
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let outcome = simulate("images_that_do_not_fit_are_refused", &[("CUDA_SIM_CC", "8.0")], || {
        let context = CudaContext::new(0).unwrap();
        let load = |ptx: &str| code(context.load_module(Ptx::from_src(ptx)));
        let binary = |bytes: &[u8]| code(context.load_module(Ptx::from_binary(bytes.to_vec())));
        assert_eq!(binary(b"\x7fELF\x02\x01\x01rest of a cubin"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(binary(b"\x50\xed\x55\xbarest of a fatbin"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load(VECTOR_ADD), CUresult::CUDA_SUCCESS);
        let newer = VECTOR_ADD.replace("sm_80", "sm_90");
        assert_eq!(load(&newer), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load(&newer.replace("sm_90", "sm_90a")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load("this is no PTX"), CUresult::CUDA_ERROR_INVALID_PTX);
        assert_eq!(load(""), CUresult::CUDA_ERROR_INVALID_PTX);
        let undeclared = VECTOR_ADD.replace("add.f32 %f3,", "add.f32 %f9,");
        assert_eq!(load(&undeclared), CUresult::CUDA_ERROR_INVALID_PTX);
        let missing = context.load_module(Ptx::from_file("/no/such/module.ptx"));
        assert_eq!(code(missing), CUresult::CUDA_ERROR_FILE_NOT_FOUND);
        let module = context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
        assert_eq!(code(module.load_function("vector_sub")), CUresult::CUDA_ERROR_NOT_FOUND);

        let mut log = [b'x'; 64];
        let (mut handle, source) = (ptr::null_mut(), CString::new(undeclared).unwrap());
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(64)];
        // SAFETY: a C string, a buffer of the size given, places for the results.
        let refused = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&mut handle, source.as_ptr().cast(), 2, options, values)
        };
        assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_PTX);
        let log = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
        assert!(log.starts_with("PTX line 3"), "{log}");
    });
    if let Some(outcome) = outcome {
        outcome.says("PTX line 1, column 1").says("CUDA_ERROR_INVALID_PTX").says("/no/such/module.ptx");
    }
}

#[test]
fn modules_are_read_from_files() {
    simulate("modules_are_read_from_files", &[], || {
        let context = CudaContext::new(0).unwrap();
        let path = env::temp_dir().join(format!("cuda-sim-{}.ptx", std::process::id()));
        fs::write(&path, VECTOR_ADD).unwrap();
        let module = context.load_module(Ptx::from_file(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        let kernel = module.load_function("vector_add").unwrap();
        assert_eq!(add(&context.default_stream(), &kernel, 3, 3).unwrap(), [0.0, 1.5, 3.0]);
    });
}

#[test]
fn limits_are_enforced_before_anything_runs() {
    let outcome = simulate("limits_are_enforced_before_anything_runs", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(SAXPY)).unwrap();
        let kernel = module.load_function("shared_user").unwrap();
        let out = stream.alloc_zeros::<u32>(1).unwrap();
        let launch = |kernel: &CudaFunction, grid_dim, block_dim, shared_mem_bytes| {
            let mut launch = stream.launch_builder(kernel);
            launch.arg(&out).arg(&0u64).arg(&0u64);
            // SAFETY: one thread writes one number; what is wrong is refused.
            code(unsafe { launch.launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes }) })
        };
        use CUresult::*;
        assert_eq!(launch(&kernel, (1, 1, 1), (1, 1, 1), 0), CUDA_SUCCESS);
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [5]);
        assert_eq!(launch(&kernel, (0, 1, 1), (1, 1, 1), 0), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(&kernel, (1, 65_536, 1), (1, 1, 1), 0), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(&kernel, (1, 1, 1), (1025, 1, 1), 0), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(&kernel, (1, 1, 1), (1, 1, 65), 0), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(&kernel, (1, 1, 1), (512, 4, 1), 0), CUDA_ERROR_INVALID_VALUE);
        let bounded = module.load_function("saxpy").unwrap();
        assert_eq!(bounded.max_threads_per_block().unwrap(), 128);
        assert_eq!(launch(&bounded, (1, 1, 1), (129, 1, 1), 0), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);

        // 1024 static bytes leave 47 KiB, and 226 KiB once that is asked for.
        assert_eq!(kernel.shared_size_bytes().unwrap(), 1024);
        assert_eq!(launch(&kernel, (1, 1, 1), (1, 1, 1), 47 << 10), CUDA_SUCCESS);
        assert_eq!(launch(&kernel, (1, 1, 1), (1, 1, 1), (47 << 10) + 1), CUDA_ERROR_INVALID_VALUE);
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(kernel.set_attribute(attribute, (226 << 10) + 1)), CUDA_ERROR_INVALID_VALUE);
        kernel.set_attribute(attribute, 226 << 10).unwrap();
        assert_eq!(kernel.get_attribute(attribute).unwrap(), 226 << 10);
        assert_eq!(launch(&kernel, (1, 1, 1), (1, 1, 1), 226 << 10), CUDA_SUCCESS);
        assert_eq!(kernel.get_attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_PTX_VERSION).unwrap(), 80);
        stream.synchronize().expect("a refused launch breaks nothing");
    });
    if let Some(outcome) = outcome {
        outcome
            .says("shared_user: a grid of [1, 65536, 1] blocks")
            .says("saxpy: 129 threads per block; the kernel allows 128 (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)")
            .says("48129 bytes of dynamic shared memory; 48128 are allowed beside 1024 static ones");
    }
}

#[test]
fn clusters_are_checked_and_passed_on() {
    simulate("clusters_are_checked_and_passed_on", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let source = r#"
.version 8.0
.target sm_90
.address_size 64
.visible .entry ranks(.param .u64 pout)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [pout];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %cluster_ctarank;
    mov.u32 %r3, %cluster_nctarank;
    mad.lo.s32 %r2, %r3, 100, %r2;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r2;
    ret;
}
"#;
        let out = stream.alloc_zeros::<u32>(12).unwrap();
        let mut address = out.device_ptr(&stream).0;
        // SAFETY: a live module and function; the parameter and attributes outlive the calls.
        unsafe {
            let module = result::module::load_data(CString::new(source).unwrap().as_ptr().cast()).unwrap();
            let kernel = result::module::get_function(module, c"ranks".to_owned()).unwrap();
            let mut launch = |blocks: u32, cluster: u32| {
                let mut attribute: sys::CUlaunchAttribute = mem::zeroed();
                attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
                attribute.value.clusterDim.x = cluster;
                attribute.value.clusterDim.y = 1;
                attribute.value.clusterDim.z = 1;
                let config = sys::CUlaunchConfig {
                    gridDimX: blocks,
                    gridDimY: 1,
                    gridDimZ: 1,
                    blockDimX: 1,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: 0,
                    hStream: stream.cu_stream(),
                    attrs: &mut attribute,
                    numAttrs: 1,
                };
                let mut parameters = [(&raw mut address).cast::<c_void>()];
                sys::cuLaunchKernelEx(&config, kernel, parameters.as_mut_ptr(), ptr::null_mut())
            };
            assert_eq!(launch(12, 4), CUresult::CUDA_SUCCESS);
            assert_eq!(launch(10, 4), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
            assert_eq!(launch(9, 9), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
            let non_portable = FunctionAttribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            result::function::set_function_attribute(kernel, non_portable, 1).unwrap();
            assert_eq!(launch(34, 17), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        }
        let expected: Vec<u32> = (0..12).map(|block| 400 + block % 4).collect();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), expected);
    });
}

#[test]
fn the_limits_of_an_a100() {
    let outcome = simulate("the_limits_of_an_a100", &[("CUDA_SIM_CC", "8.0")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let kernel = function(&context, SAXPY, "shared_user");
        let out = stream.alloc_zeros::<u32>(1).unwrap();
        let launch = |shared| {
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&out);
            // SAFETY: one thread writes one number; what is wrong is refused.
            code(unsafe { launch.launch(config(1, 1, shared)) })
        };
        use CUresult::*;
        // 163 KiB per block at most, of which the kernel has 1 KiB as its own.
        assert_eq!(launch(48 << 10), CUDA_ERROR_INVALID_VALUE);
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(kernel.set_attribute(attribute, (162 << 10) + 1)), CUDA_ERROR_INVALID_VALUE);
        kernel.set_attribute(attribute, 162 << 10).unwrap();
        assert_eq!(launch(162 << 10), CUDA_SUCCESS);
        assert_eq!(launch((162 << 10) + 1), CUDA_ERROR_INVALID_VALUE);

        // 164 KiB per multiprocessor: (1 static + 1 reserved + 39 or 40 dynamic) fit 4 or 3 times.
        let blocks =
            |shared| kernel.occupancy_max_active_blocks_per_multiprocessor(32, shared, None).unwrap();
        assert_eq!([0, 39 << 10, 40 << 10, 162 << 10, (162 << 10) + 1].map(blocks), [32, 4, 3, 1, 0]);
        extern "C" fn none(_threads: i32) -> usize {
            0
        }
        assert_eq!(kernel.occupancy_max_potential_block_size(none, 0, 0, None).unwrap(), (2 * 108, 1024));

        // There are no clusters.
        let supported = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH;
        assert_eq!(context.attribute(supported).unwrap(), 0);
        let mut address = out.device_ptr(&stream).0;
        // SAFETY: a live module and function; the parameter and attributes outlive the calls.
        unsafe {
            let module = result::module::load_data(CString::new(SAXPY).unwrap().as_ptr().cast()).unwrap();
            let kernel = result::module::get_function(module, c"shared_user".to_owned()).unwrap();
            let mut attribute: sys::CUlaunchAttribute = mem::zeroed();
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attribute.value.clusterDim.x = 2;
            attribute.value.clusterDim.y = 1;
            attribute.value.clusterDim.z = 1;
            let mut config = sys::CUlaunchConfig {
                gridDimX: 2,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: 1,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: stream.cu_stream(),
                attrs: &mut attribute,
                numAttrs: 1,
            };
            let mut parameters = [(&raw mut address).cast::<c_void>()];
            let refused = sys::cuLaunchKernelEx(&config, kernel, parameters.as_mut_ptr(), ptr::null_mut());
            assert_eq!(refused, CUDA_ERROR_NOT_SUPPORTED);
            let mut clusters = 7;
            let refused = sys::cuOccupancyMaxActiveClusters(&mut clusters, kernel, &config);
            assert_eq!((refused, clusters), (CUDA_ERROR_NOT_SUPPORTED, 7));
            config.numAttrs = 0;
            config.gridDimX = 1;
            sys::cuOccupancyMaxActiveClusters(&mut clusters, kernel, &config).result().unwrap();
            assert_eq!(clusters, 32 * 108);
            let launched = sys::cuLaunchKernelEx(&config, kernel, parameters.as_mut_ptr(), ptr::null_mut());
            assert_eq!(launched, CUDA_SUCCESS);
        }

        // Nor what else came with compute capability 9.0, even in a text that says it is for 8.0.
        let newer = SAXPY.replace("mov.u32 %r1, 5;", "mov.u32 %r1, %cluster_ctarank;");
        assert_ne!(newer, SAXPY);
        assert_eq!(code(context.load_module(Ptx::from_src(newer))), CUDA_ERROR_INVALID_PTX);
    });
    if let Some(outcome) = outcome {
        outcome
            .says("shared_user: clusters need compute capability 9.0 (CUDA_ERROR_NOT_SUPPORTED)")
            .says("`mov.u32` needs the target sm_90; the text is for sm_80");
    }
}

#[test]
fn a_pointer_of_the_host_is_no_address_of_the_device() {
    let outcome = simulate("a_pointer_of_the_host_is_no_address_of_the_device", &[], || {
        // Many allocations, on the heap, the stack, mapped: none is at an address that the device has.
        let (small, large, local) = (Box::new(7u32), vec![7u32; 64 << 20], 7u32);
        let pinned = {
            let _context = CudaContext::new(0).unwrap();
            // SAFETY: nothing is done with it but taking its address.
            unsafe { result::malloc_host(4, 0) }.unwrap() as u64
        };
        let pointers = [(&raw const *small) as u64, large.as_ptr() as u64, (&raw const local) as u64, pinned];
        for pointer in pointers {
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let numbers = stream.clone_htod(&[1f32; 16]).unwrap();
            let device = numbers.device_ptr(&stream).0;
            assert!(device >= 1 << 48 && pointer < 1 << 48, "{device:#x} {pointer:#x}");
            let kernel = function(&context, VECTOR_ADD, "vector_add");
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&numbers).arg(&pointer).arg(&numbers).arg(&1u32);
            // SAFETY: the fault is what is tested.
            let faulted = code(unsafe { launch.launch(config(1, 1, 0)) });
            assert_eq!(faulted, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
    });
    if let Some(outcome) = outcome {
        outcome.says("not an address of device memory; it could be one of the host's");
    }
}

#[test]
fn a_fault_names_the_kernel_and_stays_in_the_context() {
    let outcome = simulate("a_fault_names_the_kernel_and_stays_in_the_context", &[], || {
        {
            let context = CudaContext::new(0).unwrap();
            let stream = context.new_stream().unwrap();
            let kernel = function(&context, VECTOR_ADD, "vector_add");
            // 100 numbers, but the kernel is told of 101.
            assert_eq!(code(add(&stream, &kernel, 100, 101)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            assert_eq!(code(result::ctx::synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            // SAFETY: refused.
            assert_eq!(code(unsafe { result::malloc_sync(8) }), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            assert_eq!(code(add(&stream, &kernel, 4, 4)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        // The broken context went with its last reference; a new one is whole.
        let context = CudaContext::new(0).unwrap();
        let kernel = function(&context, VECTOR_ADD, "vector_add");
        assert_eq!(add(&context.default_stream(), &kernel, 2, 2).unwrap(), [0.0, 1.5]);
    });
    if let Some(outcome) = outcome {
        outcome.says("vector_add, block (0,0,0), thread (100,0,0), PTX line").says("ld.global.f32");
    }
}

#[test]
fn each_kind_of_fault_has_its_code() {
    let kernel = |body: &str| {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry faulty(.param .u64 p)\n{{\n\
             .reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.u64 %rd1, [p];\n{body}\nret;\n}}\n"
        )
    };
    use CUresult::*;
    let faults = [
        ("st.global.u32 [%rd1+2], 1;", CUDA_ERROR_MISALIGNED_ADDRESS),
        ("mov.u64 %rd2, 0; st.global.u32 [%rd2], 1;", CUDA_ERROR_ILLEGAL_ADDRESS),
        ("ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd1+4], %r1;", CUDA_ERROR_LAUNCH_FAILED),
        ("trap;", CUDA_ERROR_LAUNCH_FAILED),
    ];
    for (at, (body, expected)) in faults.into_iter().enumerate() {
        if let Ok(wanted) = env::var("FAULT")
            && wanted != at.to_string()
        {
            continue;
        }
        let number = at.to_string();
        let outcome = simulate("each_kind_of_fault_has_its_code", &[("FAULT", &number)], || {
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let function = function(&context, &kernel(body), "faulty");
            // SAFETY: never read by the host.
            let memory = unsafe { stream.alloc::<u32>(4) }.unwrap();
            let mut launch = stream.launch_builder(&function);
            launch.arg(&memory);
            // SAFETY: the fault is what is tested.
            assert_eq!(code(unsafe { launch.launch(config(1, 1, 0)) }), expected, "{body}");
            assert_eq!(code(stream.synchronize()), expected, "{body}");
        });
        if let Some(outcome) = outcome {
            outcome.says("cuda-sim: ").says("faulty, block (0,0,0), thread (0,0,0), PTX line 9");
        }
    }
}

#[test]
fn every_launch_is_a_line_of_the_report() {
    let path = env::temp_dir().join(format!("cuda-sim-report-{}", std::process::id()));
    let variables = [("CUDA_SIM_REPORT", path.to_str().unwrap())];
    let outcome = simulate("every_launch_is_a_line_of_the_report", &variables, || {
        let context = CudaContext::new(0).unwrap();
        let kernel = function(&context, VECTOR_ADD, "vector_add");
        let stream = context.default_stream();
        add(&stream, &kernel, 10, 10).unwrap();
        add(&stream, &kernel, 20, 20).unwrap();
    });
    if outcome.is_some() {
        let report = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lines: Vec<_> = report.lines().collect();
        assert_eq!(lines.len(), 2, "{report}");
        assert!(lines.iter().all(|line| line.starts_with('{') && line.ends_with('}')), "{report}");
        assert!(lines.iter().all(|line| line.contains("\"kernel\":\"vector_add\"")), "{report}");
    }
}

#[test]
fn occupancy_follows_the_limits() {
    simulate("occupancy_follows_the_limits", &[], || {
        let context = CudaContext::new(0).unwrap();
        let module = context.load_module(Ptx::from_src(SAXPY)).unwrap();
        let kernel = module.load_function("shared_user").unwrap();
        // A handful of registers: 2048 threads, 32 blocks, or the shared memory decide.
        let blocks = |threads, shared| {
            kernel.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap()
        };
        assert_eq!(blocks(1024, 0), 2);
        assert_eq!(blocks(96, 0), 21);
        assert_eq!(blocks(32, 0), 32);
        // 228 KiB / (1 static + 1 reserved + 36 or 37 dynamic) = 6 or 5.8
        assert_eq!(blocks(32, 36 << 10), 6);
        assert_eq!(blocks(32, 37 << 10), 5);
        assert_eq!(blocks(32, 226 << 10), 1);
        assert_eq!(blocks(32, (226 << 10) + 1), 0);
        assert_eq!(blocks(1025, 0), 0);
        assert_eq!(kernel.occupancy_available_dynamic_smem_per_block(2, 128).unwrap(), (112 << 10));
        extern "C" fn none(_threads: i32) -> usize {
            0
        }
        let (grid, block) = kernel.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
        assert_eq!((grid, block), (2 * 132, 1024));
        let (grid, block) = kernel.occupancy_max_potential_block_size(none, 0, 256, None).unwrap();
        assert_eq!((grid, block), (8 * 132, 256));
    });
}
