//! Capture and graphs: what may happen meanwhile, and that a replay does what was recorded.

mod common;
use common::*;
use cuda::alloc_calls::{cuMemAlloc_v2, cuMemFree_v2};
use cuda::capture_calls::*;
use cuda::event_calls::*;
use cuda::graph_build::*;
use cuda::graph_exec::*;
use cuda::graph_nodes::*;
use cuda::memcpy::*;
use cuda::memset_calls::*;
use cuda::stream_calls::*;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

fn begin(stream: usize, mode: u32) {
    ok(cuStreamBeginCapture_v2(stream, mode));
}

fn end(stream: usize) -> usize {
    got(|out| cuStreamEndCapture(stream, out))
}

/// Ends a capture that was spoiled.
#[track_caller]
fn spoiled(stream: usize) {
    let mut graph = 1;
    assert_eq!(cuStreamEndCapture(stream, out(&mut graph)), 901);
    assert_eq!(graph, 0);
}

fn instantiate(graph: usize) -> usize {
    got(|out| cuGraphInstantiateWithFlags(out, graph, 0))
}

isolated! {
    a_replay_does_what_was_recorded_and_the_recording_nothing [] {
        start();
        let (at, sum, stream) = (alloc(4096), alloc(8), stream());
        let (fill, add) = (function("gb_fill_u32"), function("gb_checksum_u32"));
        begin(stream, GLOBAL);
        let mut value = 5u64;
        ok(launch(fill, stream, &[at, 4, value]));
        value = 99;
        ok(launch(add, stream, &[at, 4, sum]));
        ok(cuMemcpyDtoDAsync_v2(at + 64, at, 16, stream));
        let graph = end(stream);
        assert_eq!((download(at, 1), value), (vec![0], 99));
        let exec = instantiate(graph);
        ok(cuda::graph_build::cuGraphDestroy(graph));
        for _ in 0..2 {
            ok(cuGraphLaunch(exec, stream));
        }
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(at + 64, 4), [5, 6, 7, 8]);
        assert_eq!(download(sum, 1), [2 * (5 + 6 * 3 + 7 * 5 + 8 * 7)]);
        ok(cuGraphExecDestroy(exec));
    }

    forks_join_by_events [SIMGPU_DELAY_US = "500"] {
        start();
        let (at, main, side) = (alloc(4096), stream(), stream());
        let fill = function("gb_fill_u32");
        let (fork, join) = (event(), event());
        begin(main, THREAD_LOCAL);
        ok(launch(fill, main, &[at, 1, 1]));
        ok(cuEventRecord(fork, main));
        ok(cuStreamWaitEvent(side, fork, 0));
        ok(cuMemcpyDtoDAsync_v2(at + 4, at, 4, side));
        assert_eq!(cuEventQuery(join), 900);
        let mut graph = 1;
        assert_eq!(cuStreamEndCapture(main, out(&mut graph)), 901);
        // Once more without the query.
        begin(main, THREAD_LOCAL);
        ok(launch(fill, main, &[at, 1, 1]));
        ok(cuEventRecord(fork, main));
        ok(cuStreamWaitEvent(side, fork, 0));
        ok(cuMemcpyDtoDAsync_v2(at + 4, at, 4, side));
        assert_eq!(got(|out| cuStreamIsCapturing(side, out)), 1);
        ok(cuEventRecord(join, side));
        ok(cuStreamWaitEvent(main, join, 0));
        ok(cuMemcpyDtoDAsync_v2(at + 8, at + 4, 4, main));
        let graph = end(main);
        assert_eq!(got(|out| cuStreamIsCapturing(side, out)), 0);
        assert_eq!(cuEventSynchronize(join), 1);
        let exec = instantiate(graph);
        ok(cuGraphLaunch(exec, main));
        ok(cuStreamSynchronize(main));
        assert_eq!(download(at, 3), [1, 1, 1]);
        let (mut from, mut to, mut count) = ([0usize; 8], [0usize; 8], 8usize);
        ok(cuGraphGetEdges(
            graph, cuda::edge::Out::from(from.as_mut_ptr()), cuda::edge::Out::from(to.as_mut_ptr()), out(&mut count),
        ));
        // The last copy depends on its own stream as well.
        assert_eq!(count, 3);
    }

    an_unjoined_fork_is_an_error [] {
        start();
        let (at, main, side, fork) = (alloc(64), stream(), stream(), event());
        begin(main, GLOBAL);
        ok(cuMemsetD32Async(at, 1, 1, main));
        ok(cuEventRecord(fork, main));
        ok(cuStreamWaitEvent(side, fork, 0));
        ok(cuMemsetD32Async(at, 2, 1, side));
        assert_eq!(cuStreamEndCapture(side, out(&mut 0)), 903);
        assert_eq!(cuStreamEndCapture(main, out(&mut 0)), 901);
        begin(main, GLOBAL);
        ok(cuMemsetD32Async(at, 1, 1, main));
        ok(cuEventRecord(fork, main));
        ok(cuStreamWaitEvent(side, fork, 0));
        ok(cuMemsetD32Async(at, 2, 1, side));
        assert_eq!(cuStreamEndCapture(main, out(&mut 0)), 904);
    }

    unsafe_calls_spoil_a_capture [] {
        start();
        let (at, stream) = (alloc(64), stream());
        let unsafe_calls: [fn(u64, usize) -> u32; 6] = [
            |_, _| cuMemAlloc_v2(out(&mut 0), 4096),
            |at, _| cuMemFree_v2(at),
            |_, _| synchronize(),
            |_, stream| cuStreamSynchronize(stream),
            |at, _| upload(at, &[1]),
            |_, stream| cuStreamQuery(stream),
        ];
        for call in unsafe_calls {
            begin(stream, GLOBAL);
            assert_eq!(call(at, stream), 900);
            assert_eq!(cuMemsetD32Async(at, 1, 1, stream), 901);
            spoiled(stream);
        }
        ok(cuMemFree_v2(at));
    }

    a_relaxed_thread_may_do_it [] {
        start();
        let (at, stream) = (alloc(64), stream());
        begin(stream, THREAD_LOCAL);
        let mut mode = RELAXED;
        ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
        assert_eq!(mode, GLOBAL);
        let other = alloc(4096);
        ok(cuMemFree_v2(other));
        ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
        assert_eq!(mode, RELAXED);
        ok(cuMemsetD32Async(at, 3, 1, stream));
        let graph = end(stream);
        assert_eq!(got(|out| cuGraphGetNodes(graph, cuda::edge::Out::from(std::ptr::null_mut()), out)), 1);
    }

    captures_disturb_other_threads_by_their_mode [] {
        let context = start();
        let stream = stream();
        let elsewhere = || {
            let run = move || {
                ok(cuda::context_calls::cuCtxSetCurrent(context));
                cuMemAlloc_v2(out(&mut 0), 4096)
            };
            std::thread::spawn(run).join().expect("no panic")
        };
        begin(stream, THREAD_LOCAL);
        assert_eq!(elsewhere(), 0);
        end(stream);
        begin(stream, GLOBAL);
        assert_eq!(elsewhere(), 900);
        spoiled(stream);
        begin(stream, GLOBAL);
        let wrong = move || cuStreamEndCapture(stream, out(&mut 0));
        let wrong = move || { ok(cuda::context_calls::cuCtxSetCurrent(context)); wrong() };
        assert_eq!(std::thread::spawn(wrong).join().expect("no panic"), 908);
        end(stream);
    }

    the_legacy_stream_must_not_depend_on_a_capture [] {
        start();
        let (at, blocking, free) = (alloc(64), got(|out| cuStreamCreate(out, 0)), stream());
        assert_eq!(cuStreamBeginCapture_v2(0, GLOBAL), 900);
        begin(blocking, RELAXED);
        assert_eq!(cuMemsetD32Async(at, 1, 1, 0), 906);
        spoiled(blocking);
        begin(blocking, RELAXED);
        assert_eq!(upload(at, &[1]), 906);
        spoiled(blocking);
        begin(free, RELAXED);
        ok(cuMemsetD32Async(at, 1, 1, 0));
        ok(upload(at, &[1]));
        end(free);
        assert_eq!(cuStreamEndCapture(free, out(&mut 0)), 401);
    }

    outside_work_cannot_be_waited_for [] {
        start();
        let (main, outside, event) = (stream(), stream(), event());
        ok(cuEventRecord(event, outside));
        begin(main, GLOBAL);
        assert_eq!(cuStreamWaitEvent(main, event, 0), 905);
        spoiled(main);
        begin(main, GLOBAL);
        ok(cuStreamWaitEvent(main, event, 1));
        let graph = end(main);
        let node = nodes(graph)[0];
        assert_eq!(got(|out| cuGraphNodeGetType(node, out)), 6);
    }

    kernels_are_asked_for_and_changed [] {
        start();
        let (at, stream) = (alloc(64), stream());
        begin(stream, GLOBAL);
        ok(launch(function_before_capture(), stream, &[at, 2, 5]));
        let graph = end(stream);
        let node = nodes(graph)[0];
        assert_eq!(got(|out| cuGraphNodeGetType(node, out)), 0);
        // SAFETY: a struct of plain numbers and pointers.
        let mut parameters: KernelParameters = unsafe { std::mem::zeroed() };
        ok(cuGraphKernelNodeGetParams_v2(node, out(&mut parameters)));
        let exec = instantiate(graph);
        let (address, n, value) = (at + 32, 1u64, 7u32);
        let pointers = [
            std::ptr::from_ref(&address).cast(), std::ptr::from_ref(&n).cast(), std::ptr::from_ref(&value).cast(),
        ];
        let changed = [parameters.with_pointers(input(&pointers))];
        ok(cuGraphExecKernelNodeSetParams_v2(exec, node, input(&changed)));
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!((download(at, 1), download(at + 32, 2)), (vec![0], vec![7, 0]));
        // The graph itself is unchanged, and an update brings its parameters back.
        ok(cuGraphExecUpdate_v2(exec, graph, cuda::edge::Out::from(std::ptr::null_mut())));
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(at, 2), [5, 6]);
        begin(stream, GLOBAL);
        ok(cuMemsetD32Async(at, 1, 1, stream));
        let other = end(stream);
        assert_eq!(cuGraphExecUpdate_v2(exec, other, cuda::edge::Out::from(std::ptr::null_mut())), 910);
    }

    memory_of_a_graph_is_a_node [SIMGPU_VRAM = "8MiB"] {
        start();
        let (to, stream) = (alloc(64), stream());
        begin(stream, GLOBAL);
        let at = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 2 * MIB as usize, stream));
        ok(cuMemsetD32Async(at, 11, 16, stream));
        ok(cuMemcpyDtoDAsync_v2(to, at, 64, stream));
        ok(cuda::pool_calls::cuMemFreeAsync(at, stream));
        let graph = end(stream);
        let types: Vec<u32> = nodes(graph).iter().map(|node| got(|out| cuGraphNodeGetType(*node, out))).collect();
        assert_eq!(types, [10, 2, 1, 11]);
        let exec = instantiate(graph);
        for _ in 0..2 {
            ok(cuGraphLaunch(exec, stream));
        }
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(to, 16), [11; 16]);
        // What no graph allocates no graph frees.
        let outside = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 4096, stream));
        begin(stream, GLOBAL);
        assert_eq!(cuda::pool_calls::cuMemFreeAsync(outside, stream), 1);
        end(stream);
        ok(cuda::pool_calls::cuMemFreeAsync(outside, stream));
        ok(cuStreamSynchronize(stream));
        ok(cuMemsetD32Async(at, 1, 1, stream));
        assert_eq!(cuStreamSynchronize(stream), 700);
    }
}

fn function_before_capture() -> usize {
    let mut mode = RELAXED;
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    let function = function("gb_fill_u32");
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    function
}

fn nodes(graph: usize) -> Vec<usize> {
    let mut count = got(|out| cuGraphGetNodes(graph, cuda::edge::Out::from(std::ptr::null_mut()), out));
    let mut nodes = vec![0usize; count];
    ok(cuGraphGetNodes(graph, cuda::edge::Out::from(nodes.as_mut_ptr()), out(&mut count)));
    nodes
}
