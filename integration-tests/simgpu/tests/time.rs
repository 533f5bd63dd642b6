//! Modelled time, read off events: what runs beside what, and what has to wait. Everything is queued after a kernel
//! that takes long enough, so that the figures do not depend on when the program calls.

mod common;
use common::*;
use cuda::capture_calls::*;
use cuda::event_calls::*;
use cuda::graph_exec::*;
use cuda::memcpy::*;
use cuda::stream_calls::*;
use std::ffi::c_void;

const MILLISECOND: u64 = 1_000_000;
/// At the speeds of these tests, 1 GB/s, a millisecond.
const MB: u64 = 1_000_000;

fn timed_event() -> usize {
    got(|out| cuEventCreate(out, 0))
}

/// Makes one stream wait for another.
fn order(first: usize, second: usize) {
    let point = timed_event();
    ok(cuEventRecord(point, first));
    ok(cuStreamWaitEvent(second, point, 0));
}

/// Modelled milliseconds of what is queued on two streams that start and end together.
fn milliseconds(queue: impl Fn(usize, usize)) -> f32 {
    let (main, side) = (stream(), stream());
    let (before, after) = (timed_event(), timed_event());
    ok(launch(function("gb_spin"), main, &[150 * MILLISECOND]));
    ok(cuEventRecord(before, main));
    order(main, side);
    queue(main, side);
    order(side, main);
    ok(cuEventRecord(after, main));
    ok(cuStreamSynchronize(main));
    got(|out| cuEventElapsedTime(out, before, after))
}

#[track_caller]
fn close(found: f32, expected: f32) {
    assert!((found - expected).abs() < 0.05, "{found} ms, not {expected}");
}

struct Memory {
    vram: u64,
    host: u64,
    sum: u64,
    read: usize,
}

fn memory() -> Memory {
    let host = got(|out| cuda::host_calls::cuMemAllocHost_v2(out, 20 * MB as usize));
    Memory { vram: alloc(20 * MB), host, sum: alloc(8), read: function("gb_weights_u32") }
}

impl Memory {
    fn copy(&self, bytes: u64, stream: usize) {
        ok(cuMemcpyHtoDAsync_v2(self.vram, self.host as *mut c_void, bytes as usize, stream));
    }

    /// A kernel that reads some bytes and computes so long.
    fn kernel(&self, from: u64, bytes: u64, milliseconds: u64, stream: usize) {
        ok(launch(self.read, stream, &[from, bytes / 4, self.sum, milliseconds * MILLISECOND, 1]));
    }
}

isolated! {
    a_copy_runs_beside_a_kernel [SIMGPU_LINK_GBPS = "1", SIMGPU_VRAM_GBPS = "1000"] {
        start();
        let memory = memory();
        close(milliseconds(|main, side| {
            memory.copy(10 * MB, side);
            memory.kernel(memory.vram, 4, 8, main);
        }), 10.0);
        close(milliseconds(|main, side| {
            memory.copy(10 * MB, side);
            memory.kernel(memory.vram, 4, 12, main);
        }), 12.0);
    }

    an_event_puts_them_one_behind_the_other [SIMGPU_LINK_GBPS = "1", SIMGPU_VRAM_GBPS = "1000"] {
        start();
        let memory = memory();
        close(milliseconds(|main, side| {
            memory.copy(10 * MB, side);
            order(side, main);
            memory.kernel(memory.vram, 4, 8, main);
        }), 18.0);
        // Only what is in front of the event: the next copy goes on beside the kernel.
        close(milliseconds(|main, side| {
            memory.copy(5 * MB, side);
            order(side, main);
            memory.copy(5 * MB, side);
            memory.kernel(memory.vram, 4, 8, main);
        }), 13.0);
    }

    copies_and_reading_in_place_share_the_link [SIMGPU_LINK_GBPS = "1", SIMGPU_IN_PLACE_GBPS = "0.5"] {
        start();
        let memory = memory();
        close(milliseconds(|main, _| memory.kernel(memory.host, 5 * MB, 0, main)), 10.0);
        close(milliseconds(|main, side| {
            memory.copy(10 * MB, side);
            memory.kernel(memory.host, 5 * MB, 0, main);
        }), 20.0);
    }

    kernels_take_turns_and_bytes_take_time_where_they_are [
        SIMGPU_LINK_GBPS = "0.5", SIMGPU_VRAM_GBPS = "2"
    ] {
        start();
        let memory = memory();
        close(milliseconds(|main, _| memory.kernel(memory.vram, 20 * MB, 0, main)), 10.0);
        close(milliseconds(|main, _| memory.kernel(memory.vram, 20 * MB, 15, main)), 15.0);
        close(milliseconds(|main, side| {
            memory.kernel(memory.vram, 10 * MB, 0, main);
            memory.kernel(memory.vram, 10 * MB, 0, side);
        }), 10.0);
        close(milliseconds(|main, side| {
            memory.kernel(memory.vram, 4, 6, main);
            memory.kernel(memory.vram, 4, 7, side);
        }), 13.0);
    }

    a_graph_takes_as_long_as_its_longest_path [
        SIMGPU_LINK_GBPS = "1", SIMGPU_VRAM_GBPS = "1000", SIMGPU_DELAY_US = "0"
    ] {
        start();
        let memory = memory();
        let (main, side) = (stream(), stream());
        ok(cuStreamBeginCapture_v2(main, 1));
        order(main, side);
        memory.copy(5 * MB, side);
        memory.copy(5 * MB, side);
        memory.kernel(memory.vram, 4, 8, main);
        order(side, main);
        memory.kernel(memory.vram, 4, 3, main);
        let graph = got(|out| cuStreamEndCapture(main, out));
        let exec = got(|out| cuGraphInstantiateWithFlags(out, graph, 0));
        close(milliseconds(|main, _| ok(cuGraphLaunch(exec, main))), 13.0);
    }
}
