//! The driver as an unmodified client (cudarc) sees it: device, contexts, memory, pools, streams, events.

mod driver_support;

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};
use driver_support::{code, simulate};

#[test]
fn the_device_is_an_h200_by_default() {
    simulate("the_device_is_an_h200_by_default", &[], || {
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "cuda-sim");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).unwrap(), 132);
        assert_eq!(context.total_mem().unwrap(), 143_155 << 20);
        assert_eq!(context.uuid().unwrap().bytes.map(|byte| byte as u8), *b"cuda-sim-device0");
        assert!(context.has_async_alloc());
        let (free, total) = context.mem_get_info().unwrap();
        assert_eq!((free, total), (143_155 << 20, 143_155 << 20));
        assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
        let mut version = 0;
        // SAFETY: a place for the result.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
        assert_eq!(version, 13_000);
    });
}

#[test]
fn the_environment_makes_it_an_a100() {
    simulate("the_environment_makes_it_an_a100", &[("CUDA_SIM_CC", "8.0")], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.compute_capability().unwrap(), (8, 0));
        let optin = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        assert_eq!(context.attribute(optin).unwrap(), 163 * 1024);
    });
}

#[test]
fn a_wrong_environment_is_refused_by_name() {
    for (variable, value) in
        [("CUDA_SIM_CC", "12.0"), ("CUDA_SIM_MEMORY", "-1"), ("CUDA_SIM_REPORT", "/nowhere/x")]
    {
        let outcome = simulate("a_wrong_environment_is_refused_by_name", &[(variable, value)], || {
            assert_eq!(code(result::init()), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        });
        if let Some(outcome) = outcome {
            outcome.says(variable).says(value);
        }
    }
}

#[test]
fn nothing_works_before_cu_init_or_without_a_context() {
    simulate("nothing_works_before_cu_init_or_without_a_context", &[], || {
        assert_eq!(code(result::device::get_count()), CUresult::CUDA_ERROR_NOT_INITIALIZED);
        result::init().unwrap();
        assert_eq!(result::ctx::get_current().unwrap(), None);
        // SAFETY: it fails for want of a context.
        assert_eq!(code(unsafe { result::malloc_sync(16) }), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        // SAFETY: a number that names no context; it is looked up, not followed.
        let wrong = unsafe { result::ctx::set_current(0x1234_5670 as sys::CUcontext) };
        assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
}

#[test]
fn contexts_have_a_stack_limits_and_flags() {
    simulate("contexts_have_a_stack_limits_and_flags", &[], || {
        let primary = CudaContext::new(0).unwrap();
        let own = CudaContext::new_non_primary(0, 0).unwrap();
        own.bind_to_thread().unwrap();
        // SAFETY: nobody uses the memory, which goes with its context.
        let leaked = unsafe { result::malloc_sync(1000) }.unwrap();
        let before = own.mem_get_info().unwrap().0;
        drop(own);
        primary.bind_to_thread().unwrap();
        let after = primary.mem_get_info().unwrap().0;
        assert_eq!(after, before + 1000, "what a context owned is freed with it");
        // SAFETY: an address that is no allocation any more is refused.
        assert_eq!(code(unsafe { result::free_sync(leaked) }), CUresult::CUDA_ERROR_INVALID_VALUE);
        let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
        result::ctx::set_limit(stack, 4096).unwrap();
        assert_eq!(result::ctx::get_limit(stack).unwrap(), 4096);
        assert_eq!(result::stream::get_priority_range().unwrap(), (0, -5));
        let popped = {
            let mut popped = ptr::null_mut();
            // SAFETY: a place for the result.
            unsafe { sys::cuCtxPopCurrent_v2(&mut popped) }.result().unwrap();
            popped
        };
        assert!(!popped.is_null());
        assert_eq!(result::ctx::get_current().unwrap(), None);
        // SAFETY: the context that was popped.
        unsafe { sys::cuCtxPushCurrent_v2(popped) }.result().unwrap();
        assert_eq!(result::ctx::get_current().unwrap(), Some(popped));
    });
}

#[test]
fn bytes_come_back_as_they_went() {
    simulate("bytes_come_back_as_they_went", &[], || {
        let context = CudaContext::new(0).unwrap();
        for stream in [context.default_stream(), context.new_stream().unwrap()] {
            for count in [1usize, 3, 255, 4097, 1_000_003] {
                let host: Vec<u8> = (0..count).map(|at| (at * 7 + at / 251) as u8).collect();
                let device = stream.clone_htod(&host).unwrap();
                let copy = stream.clone_dtod(&device).unwrap();
                assert_eq!(stream.clone_dtoh(&copy).unwrap(), host);
                if count > 200 {
                    assert_eq!(stream.clone_dtoh(&copy.slice(77..200)).unwrap(), host[77..200]);
                }
            }
            let mut zeroed = stream.alloc_zeros::<f64>(33).unwrap();
            assert_eq!(stream.clone_dtoh(&zeroed).unwrap(), [0.0; 33]);
            stream.memcpy_htod(&[1.5; 33], &mut zeroed).unwrap();
            assert_eq!(stream.clone_dtoh(&zeroed).unwrap(), [1.5; 33]);
        }
    });
}

#[test]
fn copies_that_leave_an_allocation_are_refused() {
    let outcome = simulate("copies_that_leave_an_allocation_are_refused", &[], || {
        let _context = CudaContext::new(0).unwrap();
        // SAFETY: every range that is wrong is refused before it is touched.
        unsafe {
            let address = result::malloc_sync(100).unwrap();
            let mut host = [0u8; 101];
            assert_eq!(code(result::memcpy_htod_sync(address, &host)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(
                code(result::memcpy_dtoh_sync(&mut host, address)),
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
            assert_eq!(code(result::memset_d8_sync(address + 1, 0, 100)), CUresult::CUDA_ERROR_INVALID_VALUE);
            let odd = sys::cuMemsetD32_v2(address + 2, 0, 1).result();
            assert_eq!(code(odd), CUresult::CUDA_ERROR_INVALID_VALUE);
            result::memcpy_htod_sync(address, &host[..100]).unwrap();
            assert_eq!(code(result::free_sync(address + 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
            result::free_sync(address).unwrap();
            assert_eq!(code(result::free_sync(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
            let after = result::memcpy_htod_sync(address, &host[..4]);
            assert_eq!(code(after), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
            result::free_sync(0).unwrap();
        }
    });
    if let Some(outcome) = outcome {
        outcome.says("101 bytes").says("which was freed");
    }
}

#[test]
fn memory_runs_out_where_the_device_ends() {
    simulate("memory_runs_out_where_the_device_ends", &[("CUDA_SIM_MEMORY", "1000000")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let first = stream.alloc_zeros::<u8>(600_000).unwrap();
        // SAFETY: nothing reads it.
        let second = unsafe { stream.alloc::<u8>(600_000) };
        assert_eq!(code(second.map(|_| ())), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(first);
        stream.synchronize().unwrap();
        stream.alloc_zeros::<u8>(600_000).unwrap();
    });
}

#[test]
fn fills_and_pitched_copies() {
    simulate("fills_and_pitched_copies", &[], || {
        let _context = CudaContext::new(0).unwrap();
        // SAFETY: every range is inside its allocation or array.
        unsafe {
            let (mut pitched, mut pitch) = (0, 0);
            sys::cuMemAllocPitch_v2(&mut pitched, &mut pitch, 12, 5, 4).result().unwrap();
            assert!(pitch >= 12 && pitch % 256 == 0);
            sys::cuMemsetD2D32_v2(pitched, pitch, 0x0102_0304, 3, 5).result().unwrap();
            sys::cuMemsetD16_v2(pitched + pitch as u64, 0xabcd, 2).result().unwrap();
            let mut rows = [[0u8; 16]; 6];
            let mut copy = sys::CUDA_MEMCPY2D {
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: pitched,
                srcPitch: pitch,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: rows.as_mut_ptr().cast(),
                dstPitch: 16,
                dstXInBytes: 2,
                dstY: 1,
                WidthInBytes: 12,
                Height: 5,
                ..MaybeUninit::zeroed().assume_init()
            };
            sys::cuMemcpy2D_v2(&copy).result().unwrap();
            assert_eq!(rows[0], [0; 16]);
            assert_eq!(rows[1], [0, 0, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1, 0, 0]);
            assert_eq!(rows[2], [0, 0, 0xcd, 0xab, 0xcd, 0xab, 4, 3, 2, 1, 4, 3, 2, 1, 0, 0]);
            copy.dstPitch = 13;
            assert_eq!(code(sys::cuMemcpy2D_v2(&copy).result()), CUresult::CUDA_ERROR_INVALID_VALUE);

            let source: Vec<u8> = (0..60).collect();
            let device = result::malloc_sync(60).unwrap();
            result::memcpy_htod_sync(device, &source).unwrap();
            let mut cube = [0u8; 12];
            let copy = sys::CUDA_MEMCPY3D {
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
                srcDevice: device,
                srcPitch: 5,
                srcHeight: 4,
                srcXInBytes: 1,
                srcY: 1,
                srcZ: 1,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: cube.as_mut_ptr().cast(),
                dstPitch: 3,
                dstHeight: 2,
                WidthInBytes: 3,
                Height: 2,
                Depth: 2,
                ..MaybeUninit::zeroed().assume_init()
            };
            sys::cuMemcpy3D_v2(&copy).result().unwrap();
            assert_eq!(cube, [26, 27, 28, 31, 32, 33, 46, 47, 48, 51, 52, 53]);

            // One address space: the sides are told by the addresses.
            let mut back = [0u8; 60];
            sys::cuMemcpy(back.as_mut_ptr() as u64, device, 60).result().unwrap();
            assert_eq!(back, source[..]);
        }
    });
}

#[test]
fn pinned_memory_is_known() {
    simulate("pinned_memory_is_known", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned_with_flags::<u32>(1000, 0) }.unwrap();
        pinned.as_mut_slice().unwrap().copy_from_slice(&(0..1000).collect::<Vec<_>>());
        let device = stream.clone_htod(&pinned).unwrap();
        pinned.as_mut_slice().unwrap().fill(0);
        stream.memcpy_dtoh(&device, &mut pinned).unwrap();
        assert_eq!(pinned.as_slice().unwrap()[999], 999);
        let host = pinned.as_ptr().unwrap() as u64;
        let mut own = [0u8; 64];
        let address = own.as_mut_ptr().cast::<c_void>();
        // SAFETY: places for the results, and memory of this process.
        unsafe {
            let mut kind = 0u32;
            let memory_type = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            sys::cuPointerGetAttribute((&raw mut kind).cast(), memory_type, host + 40).result().unwrap();
            assert_eq!(kind, sys::CUmemorytype::CU_MEMORYTYPE_HOST as u32);
            sys::cuMemHostRegister_v2(address, 64, 0).result().unwrap();
            let twice = sys::cuMemHostRegister_v2(address.byte_add(8), 8, 0).result();
            assert_eq!(code(twice), CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            sys::cuMemHostUnregister(address).result().unwrap();
            let again = sys::cuMemHostUnregister(address).result();
            assert_eq!(code(again), CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
            assert_eq!(code(result::free_host(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn pools_keep_the_books() {
    const STEP: u64 = 32 << 20;
    simulate("pools_keep_the_books", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        // SAFETY: device 0 and its pool; the values have the attributes' types.
        let (pool, get) = unsafe {
            let pool = result::device::get_default_mem_pool(0).unwrap();
            let get = move |attribute| {
                let mut value = 0u64;
                result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()).unwrap();
                value
            };
            (pool, get)
        };
        use sys::CUmemPool_attribute as A;
        let first = stream.alloc_zeros::<u8>(1000).unwrap();
        assert_eq!(get(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 1000);
        assert_eq!(get(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), STEP);
        let free = context.mem_get_info().unwrap().0 as u64;
        assert_eq!(free, context.total_mem().unwrap() as u64 - STEP, "what is reserved is not free");
        drop(first);
        stream.synchronize().unwrap();
        assert_eq!(get(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0, "the threshold is 0");
        let mut threshold = u64::MAX;
        let attribute = A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: a pool, and a value of the attribute's type.
        unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) }.unwrap();
        drop(stream.alloc_zeros::<u8>(2000).unwrap());
        stream.synchronize().unwrap();
        assert_eq!(get(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), STEP);
        assert_eq!(get(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 2000);
        // SAFETY: a pool of its own, used and destroyed once; the address comes from it.
        unsafe {
            let mut properties: sys::CUmemPoolProps = MaybeUninit::zeroed().assume_init();
            properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
            properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
            properties.maxSize = 5000;
            let own = result::mem_pool::create(&properties).unwrap();
            let address = result::mem_pool::alloc_async(own, 4000, ptr::null_mut()).unwrap();
            let more = result::mem_pool::alloc_async(own, 4000, ptr::null_mut());
            assert_eq!(code(more), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            result::free_async(address, ptr::null_mut()).unwrap();
            result::mem_pool::trim_to(own, 0).unwrap();
            result::mem_pool::destroy(own).unwrap();
            assert_eq!(code(result::mem_pool::destroy(own)), CUresult::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(code(result::mem_pool::destroy(pool)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

unsafe extern "C" fn sleep_and_count(counter: *mut c_void) {
    std::thread::sleep(Duration::from_millis(30));
    // SAFETY: the test passes its counter and outlives the call.
    unsafe { *counter.cast::<u32>() += 1 };
}

#[test]
fn streams_and_events_order_and_time() {
    simulate("streams_and_events_order_and_time", &[], || {
        let context = CudaContext::new(0).unwrap();
        let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (context.new_event(timed).unwrap(), context.new_event(timed).unwrap());
        assert!(start.elapsed_ms(&end).is_err(), "nothing was recorded");
        start.record(&one).unwrap();
        let mut counter = 0u32;
        // SAFETY: the counter outlives the synchronisation below.
        unsafe {
            let argument = (&raw mut counter).cast();
            result::stream::launch_host_function(one.cu_stream(), sleep_and_count, argument).unwrap();
        }
        end.record(&one).unwrap();
        two.wait(&end).unwrap();
        two.synchronize().unwrap();
        assert_eq!(counter, 1);
        let elapsed = start.elapsed_ms(&end).unwrap();
        assert!((30.0..3000.0).contains(&elapsed), "{elapsed} ms");
        assert!(end.elapsed_ms(&start).unwrap() < 0.0);
        let untimed = one.record_event(None).unwrap();
        assert_eq!(code(untimed.elapsed_ms(&end)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let forked = one.fork().unwrap();
        forked.join(&two).unwrap();
        context.synchronize().unwrap();
        // SAFETY: handles that are not streams are looked up, not followed.
        unsafe {
            let wrong = 0x40 as sys::CUstream;
            assert_eq!(code(result::stream::synchronize(wrong)), CUresult::CUDA_ERROR_INVALID_HANDLE);
            let prioritised =
                result::stream::create_with_priority(result::stream::StreamKind::NonBlocking, -99).unwrap();
            let (mut priority, mut flags) = (1, 0);
            sys::cuStreamGetPriority(prioritised, &mut priority).result().unwrap();
            sys::cuStreamGetFlags(prioritised, &mut flags).result().unwrap();
            assert_eq!((priority, flags), (-5, 1), "brought into the range");
            result::stream::destroy(prioritised).unwrap();
            assert_eq!(code(result::stream::destroy(prioritised)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn errors_have_the_header_s_names() {
    simulate("errors_have_the_header_s_names", &[], || {
        use CUresult::*;
        let codes = [
            CUDA_SUCCESS,
            CUDA_ERROR_INVALID_VALUE,
            CUDA_ERROR_OUT_OF_MEMORY,
            CUDA_ERROR_NOT_INITIALIZED,
            CUDA_ERROR_NO_DEVICE,
            CUDA_ERROR_INVALID_DEVICE,
            CUDA_ERROR_INVALID_IMAGE,
            CUDA_ERROR_INVALID_CONTEXT,
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUDA_ERROR_UNSUPPORTED_LIMIT,
            CUDA_ERROR_INVALID_PTX,
            CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
            CUDA_ERROR_FILE_NOT_FOUND,
            CUDA_ERROR_INVALID_HANDLE,
            CUDA_ERROR_ILLEGAL_STATE,
            CUDA_ERROR_NOT_FOUND,
            CUDA_ERROR_NOT_READY,
            CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUDA_ERROR_LAUNCH_TIMEOUT,
            CUDA_ERROR_CONTEXT_IS_DESTROYED,
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
            CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
            CUDA_ERROR_MISALIGNED_ADDRESS,
            CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_NOT_SUPPORTED,
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            CUDA_ERROR_STREAM_CAPTURE_MERGE,
            CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
            CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
            CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            CUDA_ERROR_CAPTURED_EVENT,
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
            CUDA_ERROR_INVALID_CLUSTER_SIZE,
            CUDA_ERROR_UNKNOWN,
        ];
        for known in codes {
            let error = DriverError(known);
            assert_eq!(error.error_name().unwrap().to_str().unwrap(), format!("{known:?}"));
            assert!(!error.error_string().unwrap().is_empty());
        }
        let text = |known| DriverError(known).error_string().unwrap().to_str().unwrap().to_owned();
        assert_eq!(text(CUDA_ERROR_ILLEGAL_ADDRESS), "an illegal memory access was encountered");
        assert_eq!(
            text(CUDA_ERROR_NO_BINARY_FOR_GPU),
            "no kernel image is available for execution on the device"
        );
    });
}

#[test]
fn what_is_not_implemented_says_so() {
    let outcome = simulate("what_is_not_implemented_says_so", &[], || {
        let _context = CudaContext::new(0).unwrap();
        let attach = sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL;
        // SAFETY: it fails whatever it is given.
        let managed = unsafe { result::malloc_managed(16, attach) };
        assert_eq!(code(managed), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let mut table = ptr::null();
        // SAFETY: as above.
        let export = unsafe { sys::cuGetExportTable(&mut table, ptr::null()) }.result();
        assert_eq!(code(export), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    });
    if let Some(outcome) = outcome {
        outcome.says("cuMemAllocManaged is not implemented").says("cuGetExportTable is not implemented");
    }
}

#[test]
fn entry_points_are_found_by_name_and_version() {
    simulate("entry_points_are_found_by_name_and_version", &[], || {
        result::init().unwrap();
        let find = |name: &CStr, version| {
            let (mut address, mut status) =
                (ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
            // SAFETY: a C string and places for the results.
            let outcome =
                unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status) };
            (outcome, address, status)
        };
        let (outcome, address, _) = find(c"cuDeviceGetCount", 13_000);
        assert_eq!(outcome, CUresult::CUDA_SUCCESS);
        // SAFETY: the name's own type.
        let count: unsafe extern "C" fn(*mut i32) -> CUresult = unsafe { std::mem::transmute(address) };
        let mut devices = 0;
        // SAFETY: a place for the result.
        assert_eq!(unsafe { count(&mut devices) }, CUresult::CUDA_SUCCESS);
        assert_eq!(devices, 1);
        assert_eq!(
            find(c"cuMemAlloc", 12_000).1,
            find(c"cuMemAlloc_v2", 12_000).1,
            "the base name is version 2"
        );
        assert_ne!(find(c"cuCtxCreate", 11_000).1, find(c"cuCtxCreate", 13_000).1);
        let (outcome, address, status) = find(c"cuNoSuchThing", 13_000);
        assert_eq!(outcome, CUresult::CUDA_ERROR_NOT_FOUND);
        assert!(address.is_null());
        assert_eq!(status, sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    });
}
