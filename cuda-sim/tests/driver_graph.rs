//! Stream capture and graphs through an unmodified client.

mod driver_support;

use std::ptr;

use cudarc::driver::sys::{self, CUresult::*, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use driver_support::{SAXPY, code, simulate};

const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

#[test]
fn graphs_replay_what_was_captured() {
    simulate("graphs_replay_what_was_captured", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: every use is ordered by hand.
        unsafe { context.disable_event_tracking() };
        let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let kernel = context.load_module(Ptx::from_src(SAXPY)).unwrap().load_function("saxpy").unwrap();
        let mut x = stream.clone_htod(&[1.0f32; 32]).unwrap();
        let mut y = stream.clone_htod(&[0.0f32; 32]).unwrap();
        let mut z = stream.alloc_zeros::<f32>(32).unwrap();
        let capture = |mode| stream.begin_capture(mode).unwrap();
        capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        let mut launch = stream.launch_builder(&kernel);
        let mut scale = 3.0f32;
        launch.arg(&scale).arg(&x).arg(&mut y);
        // SAFETY: 32 threads stay inside the vectors.
        unsafe {
            launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 })
        }
        .unwrap();
        side.join(&stream).unwrap();
        side.memcpy_dtod(&y, &mut z).unwrap();
        stream.join(&side).unwrap();
        let active = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        assert_eq!((stream.capture_status().unwrap(), side.capture_status().unwrap()), (active, active));
        let graph = stream.end_capture(NO_FLAGS).unwrap().unwrap();
        scale = 0.0;
        assert_eq!(scale, 0.0, "the graph has its own copy");
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 32], "capturing does nothing");
        graph.upload().unwrap();
        for round in 1..=3 {
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            assert_eq!(stream.clone_dtoh(&z).unwrap(), [3.0 * round as f32; 32]);
        }
        stream.memcpy_htod(&[10.0f32; 32], &mut x).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&z).unwrap(), [39.0; 32]);
        let mut nodes = 0;
        // SAFETY: a live graph; the nodes themselves are not asked for.
        unsafe { sys::cuGraphGetNodes(graph.cu_graph(), ptr::null_mut(), &mut nodes) }.result().unwrap();
        assert_eq!(nodes, 2);
    });
}

#[test]
fn captures_refuse_what_would_break_them() {
    simulate("captures_refuse_what_would_break_them", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: every use is ordered by hand.
        unsafe { context.disable_event_tracking() };
        let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let mut data = stream.alloc_zeros::<u8>(16).unwrap();
        let thread_local = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let begin = || stream.begin_capture(thread_local).unwrap();
        let end = || code(stream.end_capture(NO_FLAGS).map(|_| ()));

        assert_eq!(
            code(context.default_stream().begin_capture(thread_local)),
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        );
        assert_eq!(end(), CUDA_ERROR_ILLEGAL_STATE);

        begin();
        assert_eq!(code(stream.begin_capture(thread_local)), CUDA_ERROR_ILLEGAL_STATE);
        stream.memset_zeros(&mut data).unwrap();
        assert_eq!(end(), CUDA_SUCCESS);

        begin();
        assert_eq!(code(stream.synchronize()), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(code(stream.memset_zeros(&mut data)), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin();
        // SAFETY: refused.
        assert_eq!(code(unsafe { result::malloc_sync(16) }), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        // Another thread's calls do not disturb a thread-local capture, but they do a global one.
        let elsewhere = || {
            let context = context.clone();
            let allocate = move || {
                context.bind_to_thread().unwrap();
                // SAFETY: freed at once, or refused.
                unsafe { result::malloc_sync(16).and_then(|address| result::free_sync(address)) }
            };
            code(std::thread::spawn(allocate).join().unwrap())
        };
        begin();
        assert_eq!(elsewhere(), CUDA_SUCCESS);
        assert_eq!(end(), CUDA_SUCCESS);
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        assert_eq!(elsewhere(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin();
        side.join(&stream).unwrap();
        side.memset_zeros(&mut data).unwrap();
        assert_eq!(code(side.end_capture(NO_FLAGS).map(|_| ())), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin();
        side.join(&stream).unwrap();
        side.memset_zeros(&mut data).unwrap();
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        side.memset_zeros(&mut data).expect("the end frees every stream");

        let before = side.record_event(None).unwrap();
        begin();
        assert_eq!(code(stream.wait(&before)), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin();
        let inside = stream.record_event(None).unwrap();
        assert_eq!(code(inside.synchronize()), CUDA_ERROR_CAPTURED_EVENT);
        assert_eq!(end(), CUDA_SUCCESS);

        begin();
        side.begin_capture(thread_local).unwrap();
        let inside = stream.record_event(None).unwrap();
        assert_eq!(code(side.wait(&inside)), CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(code(side.end_capture(NO_FLAGS).map(|_| ())), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin();
        let both = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
            | sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
        assert_eq!(code(stream.end_capture(both).map(|_| ())), CUDA_ERROR_INVALID_VALUE);

        // A stream that waits for the legacy stream is capturing: the legacy stream cannot be used.
        // SAFETY: a live stream, ended and destroyed below.
        unsafe {
            let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
            result::stream::begin_capture(blocking, thread_local).unwrap();
            let implicit = context.default_stream().memset_zeros(&mut data);
            assert_eq!(code(implicit), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            assert_eq!(code(result::stream::end_capture(blocking)), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            result::stream::destroy(blocking).unwrap();
        }
    });
}
