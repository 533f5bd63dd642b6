//! Captures that take in other streams, and graphs that are changed after they were captured.

mod common;
use common::*;
use cuda::capture_calls::*;
use cuda::edge::Out;
use cuda::event_calls::*;
use cuda::graph_build::*;
use cuda::graph_exec::*;
use cuda::graph_nodes::*;
use cuda::memcpy::*;
use cuda::memset_calls::*;
use cuda::stream_calls::*;
use std::ffi::c_void;

fn begin(stream: usize) {
    ok(cuStreamBeginCapture_v2(stream, 1));
}

fn end(stream: usize) -> usize {
    got(|out| cuStreamEndCapture(stream, out))
}

fn instantiate(graph: usize) -> usize {
    got(|out| cuGraphInstantiateWithFlags(out, graph, 0))
}

fn null<T>() -> Out<T> {
    Out::from(std::ptr::null_mut())
}

/// Makes one stream wait for another.
fn order(first: usize, second: usize) -> u32 {
    let point = event();
    ok(cuEventRecord(point, first));
    cuStreamWaitEvent(second, point, 0)
}

/// Status, identity, graph and the nodes the stream's next operation depends on.
fn info(stream: usize) -> (u32, u64, usize, Vec<usize>) {
    let (mut status, mut id, mut graph, mut nodes, mut count) = (9, 0, 0, std::ptr::null(), 0);
    ok(cuStreamGetCaptureInfo_v2(
        stream,
        out(&mut status),
        out(&mut id),
        out(&mut graph),
        out(&mut nodes),
        out(&mut count),
    ));
    // SAFETY: valid until the next call of the capture.
    let nodes = if count == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(nodes, count) }.to_vec() };
    (status, id, graph, nodes)
}

/// A graph that fills a word.
fn fill_graph(main: usize, at: u64, value: u32) -> usize {
    begin(main);
    ok(launch(function_in_capture("gb_fill_u32"), main, &[at, 1, value.into()]));
    end(main)
}

fn function_in_capture(name: &str) -> usize {
    let mut mode = 2;
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    let function = function(name);
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    function
}

isolated! {
    two_captures_cannot_be_merged [] {
        start();
        let (one, other) = (stream(), stream());
        begin(one);
        begin(other);
        assert_eq!(order(one, other), 902);
        // Both are spoiled by the attempt.
        assert_eq!(cuStreamEndCapture(one, out(&mut 0)), 901);
        assert_eq!(cuStreamEndCapture(other, out(&mut 0)), 901);
    }

    an_event_of_a_capture_that_has_ended_means_nothing_outside [] {
        start();
        let (main, other, point) = (stream(), stream(), event());
        begin(main);
        ok(cuMemsetD32Async(alloc_in_capture(), 1, 1, main));
        ok(cuEventRecord(point, main));
        end(main);
        assert_eq!((cuStreamWaitEvent(other, point, 0), cuEventQuery(point)), (1, 1));
        begin(main);
        assert_eq!(cuStreamWaitEvent(main, point, 0), 1);
        assert_eq!(cuStreamEndCapture(main, out(&mut 0)), 901);
        // Recorded anew it is an ordinary event.
        ok(cuEventRecord(point, main));
        ok(cuStreamWaitEvent(other, point, 0));
        ok(cuStreamSynchronize(other));
    }

    outside_events_are_refused_on_a_forked_stream_too [] {
        start();
        let (main, side, outside, point) = (stream(), stream(), stream(), event());
        ok(cuEventRecord(point, outside));
        begin(main);
        ok(order(main, side));
        assert_eq!(cuStreamWaitEvent(side, point, 0), 905);
        assert_eq!(cuStreamEndCapture(main, out(&mut 0)), 901);
        assert_eq!(info(side).0, 0);
    }

    asking_for_an_event_of_a_capture_spoils_it [] {
        start();
        let (main, point) = (stream(), event());
        ok(cuStreamBeginCapture_v2(main, 2));
        ok(cuMemsetD32Async(alloc_in_capture(), 1, 1, main));
        ok(cuEventRecord(point, main));
        assert_eq!(cuEventQuery(point), 907);
        assert_eq!(cuStreamEndCapture(main, out(&mut 0)), 901);
    }

    a_stream_that_only_waited_need_not_be_joined [] {
        start();
        let (at, main, side) = (alloc(4), stream(), stream());
        begin(main);
        ok(cuMemsetD32Async(at, 1, 1, main));
        ok(order(main, side));
        let graph = end(main);
        assert_eq!(got(|out| cuGraphGetNodes(graph, null(), out)), 1);
        assert_eq!(info(side).0, 0);
    }

    a_joined_copy_runs_with_every_replay [SIMGPU_DELAY_US = "300"] {
        start();
        let (slot, sum, main, copies) = (alloc(4), alloc(8), stream(), stream());
        let source = got(|out| cuda::host_calls::cuMemAllocHost_v2(out, 4));
        let read = function("gb_checksum_u32");
        begin(main);
        ok(order(main, copies));
        ok(cuMemcpyHtoDAsync_v2(slot, source as *mut c_void, 4, copies));
        ok(order(copies, main));
        ok(launch(read, main, &[slot, 1, sum]));
        let exec = instantiate(end(main));
        for value in 1..=5u32 {
            // SAFETY: own memory; no copy is under way.
            unsafe { (source as *mut u32).write(value) };
            ok(cuMemsetD32Async(sum, 0, 2, main));
            ok(cuGraphLaunch(exec, main));
            ok(cuStreamSynchronize(main));
            assert_eq!(download(sum, 1), [value]);
        }
    }

    dependencies_are_asked_for_and_replaced [] {
        start();
        let (at, main) = (alloc(8), stream());
        assert_eq!(info(main), (0, 0, 0, vec![]));
        assert_eq!(cuStreamUpdateCaptureDependencies(main, input(&[]), 0, 1), 401);
        begin(main);
        let (status, id, graph, nodes) = info(main);
        assert_eq!((status, nodes), (1, vec![]));
        ok(cuMemsetD32Async(at, 1, 1, main));
        let first = info(main).3;
        ok(cuMemsetD32Async(at + 4, 1, 1, main));
        let second = info(main).3;
        assert_eq!((first.len(), second.len(), first == second), (1, 1, false));
        ok(cuStreamUpdateCaptureDependencies(main, input(&first), 1, 1));
        assert_eq!(info(main), (1, id, graph, first.clone()));
        ok(cuStreamUpdateCaptureDependencies(main, input(&second), 1, 0));
        assert_eq!(info(main).3, [first.clone(), second.clone()].concat());
        assert_eq!(cuStreamUpdateCaptureDependencies(main, input(&second), 1, 7), 1);
        assert_eq!(cuStreamUpdateCaptureDependencies(main, input(&[77]), 1, 0), 1);
        let (mut edges, mut count) = (std::ptr::null(), 0);
        ok(cuStreamGetCaptureInfo_v3(main, out(&mut 0), null(), null(), null(), out(&mut edges), out(&mut count)));
        // SAFETY: eight bytes for each node.
        assert_eq!(unsafe { std::slice::from_raw_parts(edges, 8 * count) }, [0; 16]);
        assert_eq!(end(main), graph);
    }

    a_node_taken_out_of_the_dependencies_need_not_be_joined [] {
        start();
        let (at, main) = (alloc(8), stream());
        begin(main);
        ok(cuMemsetD32Async(at, 1, 1, main));
        ok(cuStreamUpdateCaptureDependencies(main, input(&[]), 0, 1));
        ok(cuMemsetD32Async(at + 4, 1, 1, main));
        let graph = end(main);
        assert_eq!(got(|out| cuGraphGetRootNodes(graph, null(), out)), 2);
    }

    an_update_takes_over_parameters_and_refuses_another_shape [] {
        start();
        let (at, main, side) = (alloc(64), stream(), stream());
        let exec = instantiate(fill_graph(main, at, 1));
        let launched = || {
            ok(cuGraphLaunch(exec, main));
            ok(cuStreamSynchronize(main));
            download(at, 2)
        };
        assert_eq!(launched(), [1, 0]);
        ok(cuGraphExecUpdate_v2(exec, fill_graph(main, at + 4, 2), null()));
        assert_eq!(launched(), [1, 2]);
        begin(main);
        ok(order(main, side));
        ok(launch(function_in_capture("gb_fill_u32"), main, &[at, 1, 9]));
        ok(cuMemsetD32Async(at + 32, 1, 1, side));
        ok(order(side, main));
        assert_eq!(cuGraphExecUpdate_v2(exec, end(main), null()), 910);
        // What the refused update would have done is not done.
        assert_eq!(launched(), [1, 2]);
    }

    a_copy_node_keeps_the_kinds_of_its_memory [] {
        start();
        let (vram, other, main) = (alloc(64), alloc(64), stream());
        let pinned = got(|out| cuda::host_calls::cuMemAllocHost_v2(out, 64));
        let copy = |from: u64| {
            begin(main);
            ok(cuMemcpyAsync(vram, from, 16, main));
            end(main)
        };
        let exec = instantiate(copy(pinned));
        // As documented; drivers have been seen that take over another kind as well.
        ok(cuGraphExecUpdate_v2(exec, copy(pinned + 16), null()));
        assert_eq!(cuGraphExecUpdate_v2(exec, copy(other), null()), 910);
    }

    kernel_nodes_of_a_graph_and_of_its_executable_change_apart [] {
        start();
        let (at, main) = (alloc(64), stream());
        let graph = fill_graph(main, at, 1);
        let node = nodes(graph)[0];
        let exec = instantiate(graph);
        // SAFETY: a struct of plain numbers and pointers.
        let mut parameters: KernelParameters = unsafe { std::mem::zeroed() };
        ok(cuGraphKernelNodeGetParams_v2(node, out(&mut parameters)));
        let (address, n, value) = (at + 4, 1u64, 5u32);
        let pointers = [
            std::ptr::from_ref(&address).cast(), std::ptr::from_ref(&n).cast(), std::ptr::from_ref(&value).cast(),
        ];
        ok(cuGraphKernelNodeSetParams_v2(node, input(&[parameters.with_pointers(input(&pointers))])));
        let launched = |exec| {
            ok(cuGraphLaunch(exec, main));
            ok(cuStreamSynchronize(main));
            download(at, 2)
        };
        assert_eq!(launched(exec), [1, 0]);
        assert_eq!(launched(instantiate(graph)), [1, 5]);
        let foreign = nodes(fill_graph(main, at, 3))[0];
        let same = [parameters.with_pointers(input(&pointers))];
        assert_eq!(cuGraphExecKernelNodeSetParams_v2(exec, foreign, input(&same)), 1);
    }
}

fn alloc_in_capture() -> u64 {
    let mut mode = 2;
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    let at = alloc(4);
    ok(cuThreadExchangeStreamCaptureMode(out(&mut mode)));
    at
}

fn nodes(graph: usize) -> Vec<usize> {
    let mut count = got(|out| cuGraphGetNodes(graph, null(), out));
    let mut nodes = vec![0usize; count];
    ok(cuGraphGetNodes(graph, Out::from(nodes.as_mut_ptr()), out(&mut count)));
    nodes
}
