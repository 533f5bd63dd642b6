//! What may overtake what: streams without an event between them, and kernels launched programmatically.

mod common;
use common::*;
use cuda::capture_calls::*;
use cuda::event_calls::*;
use cuda::graph_build::*;
use cuda::graph_exec::*;
use cuda::launch_attributes::Attribute;
use cuda::launch_calls::{Config, cuLaunchKernelEx};
use cuda::memcpy::*;
use cuda::memset_calls::*;
use cuda::stream_calls::*;
use std::ffi::c_void;

const MILLISECOND: u64 = 1_000_000;

fn launch_with(function: usize, stream: usize, attributes: &[Attribute], arguments: &[u64]) -> u32 {
    let pointers: Vec<*const c_void> = arguments.iter().map(|value| std::ptr::from_ref(value).cast()).collect();
    let config = [Config::new(stream, attributes)];
    cuLaunchKernelEx(input(&config), function, input(&pointers), cuda::edge::In::from(std::ptr::null()))
}

/// Launches a kernel that may begin before the one in front of it has ended.
#[track_caller]
fn launch_early(function: usize, stream: usize, arguments: &[u64]) {
    ok(launch_with(function, stream, &[Attribute::programmatic(true)], arguments));
}

fn null<T>() -> cuda::edge::Out<T> {
    cuda::edge::Out::from(std::ptr::null_mut())
}

/// What the second of two kernels reads of a word that changes from 1 to 2 while the first one runs.
fn second_kernel_reads(in_between: impl Fn(usize), programmatic: bool) -> u32 {
    let (weight, sum) = (alloc(4), alloc(8));
    let (main, side) = (stream(), stream());
    let (spin, read) = (function("gb_spin"), function("gb_early_checksum_u32"));
    ok(upload(weight, &[1]));
    ok(synchronize());
    ok(launch(spin, main, &[60 * MILLISECOND]));
    ok(launch(spin, side, &[30 * MILLISECOND]));
    ok(cuMemsetD32Async(weight, 2, 1, side));
    in_between(main);
    ok(launch_with(read, main, &[Attribute::programmatic(programmatic)], &[weight, 1, sum, 0]));
    ok(synchronize());
    download(sum, 1)[0]
}

/// A capture in which a kernel reads a word that another stream then overwrites; the replay's answers.
fn overwritten_behind_a_reader(ordered: bool) -> Vec<u32> {
    let (weight, to, sum) = (alloc(4), alloc(8), alloc(8));
    let (main, side) = (stream(), stream());
    let (fill, read) = (function("gb_fill_u32"), function("gb_early_checksum_u32"));
    let (fork, read_done, join) = (event(), event(), event());
    ok(cuStreamBeginCapture_v2(main, 1));
    ok(cuMemsetD32Async(weight, 1, 1, main));
    ok(launch(fill, main, &[to, 1, 100]));
    ok(cuEventRecord(fork, main));
    launch_early(read, main, &[weight, 1, sum, 0]);
    ok(cuEventRecord(read_done, main));
    ok(cuStreamWaitEvent(side, if ordered { read_done } else { fork }, 0));
    ok(cuMemsetD32Async(weight, 2, 1, side));
    ok(cuEventRecord(join, side));
    ok(cuStreamWaitEvent(main, join, 0));
    let graph = got(|out| cuStreamEndCapture(main, out));
    let exec = got(|out| cuGraphInstantiateWithFlags(out, graph, 0));
    let replay = |_| {
        ok(cuMemsetD32Async(sum, 0, 2, main));
        ok(cuGraphLaunch(exec, main));
        ok(cuStreamSynchronize(main));
        download(sum, 1)[0]
    };
    (0..20).map(replay).collect()
}

isolated! {
    without_an_event_a_copy_and_a_kernel_run_in_either_order [SIMGPU_DELAY_US = "2000", SIMGPU_SEED = "3"] {
        start();
        let (slot, sum) = (alloc(4), alloc(8));
        let source = got(|out| cuda::host_calls::cuMemAllocHost_v2(out, 4));
        let read = function("gb_checksum_u32");
        let (copies, kernels, copied) = (stream(), stream(), event());
        let first_read = |ordered: bool| {
            ok(cuMemsetD32_v2(slot, 1, 1));
            ok(cuMemsetD32_v2(sum, 0, 2));
            // SAFETY: own memory, and no copy is under way.
            unsafe { (source as *mut u32).write(2) };
            ok(synchronize());
            ok(cuMemcpyHtoDAsync_v2(slot, source as *mut c_void, 4, copies));
            ok(cuEventRecord(copied, copies));
            if ordered {
                ok(cuStreamWaitEvent(kernels, copied, 0));
            }
            ok(launch(read, kernels, &[slot, 1, sum]));
            ok(synchronize());
            download(sum, 1)[0]
        };
        let seen: Vec<u32> = (0..20).map(|_| first_read(false)).collect();
        assert!(seen.contains(&1) && seen.contains(&2), "{seen:?}");
        assert_eq!((0..20).map(|_| first_read(true)).collect::<Vec<_>>(), [2; 20]);
    }

    a_programmatic_kernel_begins_before_the_one_in_front_has_ended [] {
        start();
        assert_eq!(second_kernel_reads(|_| (), true), 1);
        assert_eq!(second_kernel_reads(|_| (), false), 2);
    }

    whatever_stands_between_keeps_it_behind [] {
        start();
        let recorded = event();
        ok(cuEventRecord(recorded, stream()));
        ok(synchronize());
        assert_eq!(second_kernel_reads(|main| ok(cuEventRecord(event(), main)), true), 2);
        assert_eq!(second_kernel_reads(|main| ok(cuStreamWaitEvent(main, recorded, 0)), true), 2);
    }

    work_behind_overlapping_kernels_waits_for_all_of_them [] {
        start();
        let (weight, sum, copy, main) = (alloc(4), alloc(8), alloc(8), stream());
        let read = function("gb_early_checksum_u32");
        ok(upload(weight, &[1]));
        ok(synchronize());
        // The second one is done long before the first.
        ok(launch(read, main, &[weight, 1, sum, 30 * MILLISECOND]));
        launch_early(function("gb_fill_u32"), main, &[copy + 4, 1, 7]);
        let behind = event();
        ok(cuEventRecord(behind, main));
        assert_eq!(cuEventQuery(behind), 600);
        ok(cuMemcpyDtoDAsync_v2(copy, sum, 4, main));
        ok(cuEventSynchronize(behind));
        ok(cuStreamSynchronize(main));
        assert_eq!(download(copy, 2), [1, 7]);
    }

    a_kernel_that_waits_for_the_one_in_front_is_ordered_and_others_are_not [
        SIMGPU_DELAY_US = "2000", SIMGPU_SEED = "5"
    ] {
        start();
        let (weight, sum, main) = (alloc(4), alloc(8), stream());
        ok(upload(weight, &[5]));
        ok(synchronize());
        let (fill, waits, hurries) =
            (function("gb_fill_u32"), function("gb_early_checksum_u32"), function("gb_checksum_u32"));
        let round = |kernel, arguments: &[u64]| {
            ok(launch(fill, main, &[sum, 1, 100]));
            launch_early(kernel, main, arguments);
            ok(cuStreamSynchronize(main));
            download(sum, 1)[0]
        };
        assert_eq!((0..20).map(|_| round(waits, &[weight, 1, sum, 0])).collect::<Vec<_>>(), [105; 20]);
        let seen: Vec<u32> = (0..20).map(|_| round(hurries, &[weight, 1, sum])).collect();
        assert!(seen.contains(&100) && seen.contains(&105), "{seen:?}");
    }

    a_programmatic_edge_of_a_graph_overlaps_as_well [SIMGPU_SEED = "9"] {
        start();
        let (weight, sum, main) = (alloc(4), alloc(8), stream());
        ok(upload(weight, &[1]));
        ok(synchronize());
        let (fill, read) = (function("gb_fill_u32"), function("gb_early_checksum_u32"));
        ok(cuStreamBeginCapture_v2(main, 1));
        ok(cuMemsetD32Async(weight, 1, 1, main));
        ok(launch(fill, main, &[weight, 1, 50]));
        // Reads what the kernel in front of it writes, before it waits: a program must not.
        launch_early(read, main, &[weight, 1, sum, 0]);
        let graph = got(|out| cuStreamEndCapture(main, out));
        let (mut from, mut to, mut data, mut count) = ([0usize; 4], [0usize; 4], [9u64; 4], 4usize);
        let (from, to) = (cuda::edge::Out::from(from.as_mut_ptr()), cuda::edge::Out::from(to.as_mut_ptr()));
        assert_eq!(cuGraphGetEdges(graph, from, to, out(&mut count)), 402);
        assert_eq!(cuGraphGetEdges_v2(graph, from, to, null(), out(&mut count)), 402);
        ok(cuGraphGetEdges_v2(graph, from, to, cuda::edge::Out::from(data.as_mut_ptr()), out(&mut count)));
        assert_eq!((count, data), (2, [0, 0x01_0001, 0, 0]));
        let exec = got(|out| cuGraphInstantiateWithFlags(out, graph, 0));
        let replay = |_| {
            ok(cuMemsetD32Async(sum, 0, 2, main));
            ok(cuGraphLaunch(exec, main));
            ok(cuStreamSynchronize(main));
            download(sum, 1)[0]
        };
        let seen: Vec<u32> = (0..20).map(replay).collect();
        assert!(seen.contains(&1) && seen.contains(&50), "{seen:?}");
        // The same nodes with an ordinary edge are another graph.
        ok(cuStreamBeginCapture_v2(main, 1));
        ok(cuMemsetD32Async(weight, 1, 1, main));
        ok(launch(fill, main, &[weight, 1, 50]));
        ok(launch(read, main, &[weight, 1, sum, 0]));
        let ordinary = got(|out| cuStreamEndCapture(main, out));
        assert_eq!(cuGraphExecUpdate_v2(exec, ordinary, null()), 910);
        let exec = got(|out| cuGraphInstantiateWithFlags(out, ordinary, 0));
        ok(cuMemsetD32Async(sum, 0, 2, main));
        ok(cuGraphLaunch(exec, main));
        ok(cuStreamSynchronize(main));
        assert_eq!(download(sum, 1), [50]);
    }

    a_word_overwritten_before_its_readers_event_is_seen_in_a_replay [SIMGPU_SEED = "4"] {
        start();
        assert_eq!(overwritten_behind_a_reader(true), [1; 20]);
        let seen = overwritten_behind_a_reader(false);
        assert!(seen.contains(&1) && seen.contains(&2), "{seen:?}");
    }

    attributes_nobody_knows_are_refused [] {
        start();
        let (main, spin) = (stream(), function("gb_spin"));
        ok(launch_with(spin, main, &[Attribute::programmatic(false)], &[0]));
        // SAFETY: a struct of plain numbers.
        let mut unknown: Attribute = unsafe { std::mem::zeroed() };
        ok(launch_with(spin, main, &[unknown], &[0]));
        // SAFETY: the first field is the number of the attribute.
        unsafe { std::ptr::from_mut(&mut unknown).cast::<u32>().write(99) };
        assert_eq!(launch_with(spin, main, &[unknown], &[0]), 1);
    }
}
