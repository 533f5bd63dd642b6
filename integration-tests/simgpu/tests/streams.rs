//! Streams: what is ordered, what is not, and when the host waits.

mod common;
use common::*;
use cuda::alloc_calls::cuMemFree_v2;
use cuda::capture_calls::{cuStreamBeginCapture_v2, cuStreamEndCapture};
use cuda::context_calls::{cuCtxCreate_v2, cuCtxGetCurrent};
use cuda::event_calls::*;
use cuda::memcpy::*;
use cuda::memset_calls::*;
use cuda::stream_calls::*;
use std::ffi::c_void;
use std::time::{Duration, Instant};

const N: usize = 1024;

/// Fills in one stream, copies in another; the answer is what the copy saw.
fn fill_then_copy(ordered: bool) -> Vec<u32> {
    let (from, to) = (alloc(4 * N as u64), alloc(4 * N as u64));
    let (first, second) = (stream(), stream());
    let (spin, fill) = (function("gb_spin"), function("gb_fill_u32"));
    ok(launch(spin, first, &[20_000_000]));
    ok(launch(fill, first, &[from, N as u64, 1]));
    if ordered {
        let event = event();
        ok(cuEventRecord(event, first));
        ok(cuStreamWaitEvent(second, event, 0));
    }
    ok(cuMemcpyDtoDAsync_v2(to, from, 4 * N, second));
    ok(synchronize());
    download(to, N)
}

isolated! {
    a_missing_event_shows_and_an_event_helps [] {
        start();
        assert_eq!(fill_then_copy(false)[0], 0);
        assert_eq!(fill_then_copy(true)[0], 1);
    }

    a_mark_of_a_context_is_after_all_its_streams_and_holds_up_none [] {
        start();
        let (context, mark, free) = (got(|out| cuCtxGetCurrent(out)), event(), event());
        let busy = got(|out| cuStreamCreate(out, 1));
        ok(cuCtxRecordEvent(context, mark));
        ok(cuEventQuery(mark));
        ok(launch(function("gb_spin"), busy, &[100_000_000]));
        ok(cuCtxRecordEvent(context, mark));
        assert_eq!(cuEventQuery(mark), 600);
        ok(cuEventRecord(free, stream()));
        ok(cuEventSynchronize(free));
        assert_eq!(cuEventQuery(mark), 600);
        ok(cuStreamSynchronize(busy));
        ok(cuEventQuery(mark));
        assert_eq!(cuCtxRecordEvent(got(|out| cuCtxCreate_v2(out, 0, 0)), mark), 400);
    }

    a_mark_of_a_context_ends_its_captures [] {
        start();
        let (stream, mark) = (stream(), event());
        ok(cuStreamBeginCapture_v2(stream, 2));
        assert_eq!(cuCtxRecordEvent(got(|out| cuCtxGetCurrent(out)), mark), 900);
        assert_eq!(cuStreamEndCapture(stream, out(&mut 0)), 901);
    }

    delays_alone_make_streams_overtake_each_other [SIMGPU_DELAY_US = "3000", SIMGPU_SEED = "7"] {
        start();
        let (from, to) = (alloc(4), alloc(4));
        let overtaken = (0..20).filter(|round| {
            ok(cuMemsetD32Async(from, *round, 1, stream()));
            ok(cuMemcpyDtoDAsync_v2(to, from, 4, stream()));
            ok(synchronize());
            download(to, 1) != [*round]
        });
        assert!((1..20).contains(&overtaken.count()));
    }

    the_legacy_stream_orders_blocking_streams_only [] {
        start();
        let at = alloc(4);
        let spin = function("gb_spin");
        let blocking = got(|out| cuStreamCreate(out, 0));
        ok(launch(spin, blocking, &[20_000_000]));
        ok(cuMemsetD32Async(at, 1, 1, blocking));
        assert_eq!(download(at, 1), [1]);
        // And the other way round.
        ok(launch(spin, 0, &[20_000_000]));
        ok(cuMemsetD32_v2(at, 2, 1));
        let copy = alloc(4);
        ok(cuMemcpyDtoDAsync_v2(copy, at, 4, blocking));
        ok(cuStreamSynchronize(blocking));
        assert_eq!(download(copy, 1), [2]);
        let free = stream();
        ok(launch(spin, free, &[50_000_000]));
        ok(cuMemsetD32Async(at, 3, 1, free));
        assert_eq!(download(at, 1), [2]);
        assert_eq!(cuStreamQuery(free), 600);
        ok(cuStreamSynchronize(free));
        assert_eq!(download(at, 1), [3]);
    }

    per_thread_forms_use_the_threads_stream [] {
        start();
        let at = alloc(4);
        let spin = function("gb_spin");
        let own = got(|out| cuStreamGetId_ptsz(0, out));
        assert_eq!(own, got(|out| cuStreamGetId(2, out)));
        assert_ne!(own, got(|out| cuStreamGetId(0, out)));
        ok(cuda::launch_calls::cuLaunchKernel_ptsz(
            spin, 1, 1, 1, 1, 1, 1, 0, 0, input(&[std::ptr::from_ref(&20_000_000u64).cast()]),
            cuda::edge::In::from(std::ptr::null()),
        ));
        ok(cuMemsetD32_v2_ptds(at, 4, 1));
        let words = [0u32];
        ok(cuMemcpyDtoH_v2_ptds(pointer(&words), at, 4));
        assert_eq!(words, [4]);
    }

    pageable_sources_are_staged_and_pinned_ones_read_later [] {
        start();
        let (pageable, to) = (vec![1u32; N], alloc(4 * N as u64));
        let spinning = stream();
        let spin = function("gb_spin");
        ok(launch(spin, spinning, &[20_000_000]));
        ok(cuMemcpyHtoDAsync_v2(to, pointer(&pageable), 4 * N, spinning));
        // SAFETY: own memory; the copy was taken at the call.
        unsafe { (pageable.as_ptr().cast_mut()).write(9) };
        ok(cuStreamSynchronize(spinning));
        assert_eq!(download(to, 1), [1]);
        let pinned = got(|out| cuda::host_calls::cuMemAllocHost_v2(out, 4 * N));
        ok(launch(spin, spinning, &[20_000_000]));
        ok(cuMemcpyHtoDAsync_v2(to, pinned as *mut c_void, 4 * N, spinning));
        // SAFETY: own memory; that the copy sees this is what the test is about.
        unsafe { (pinned as *mut u32).write_volatile(9) };
        ok(cuStreamSynchronize(spinning));
        assert_eq!(download(to, 1), [9]);
    }

    freeing_waits_for_the_device_and_unmapping_does_not [] {
        start();
        let (at, reserved) = (alloc(4096), reserve(GRANULE));
        chunk(reserved, GRANULE, VRAM);
        let busy = stream();
        let spin = function("gb_spin");
        let host = pages(4096, 0);
        ok(cuda::host_calls::cuMemHostRegister_v2(host.cast(), 4096, 0));
        ok(launch(spin, busy, &[60_000_000]));
        let before = Instant::now();
        ok(cuda::vmm::cuMemUnmap(reserved, GRANULE as usize));
        assert!(before.elapsed() < Duration::from_millis(30));
        ok(cuMemFree_v2(at));
        assert!(before.elapsed() > Duration::from_millis(50));
        ok(launch(spin, busy, &[30_000_000]));
        let before = Instant::now();
        ok(cuda::host_calls::cuMemHostUnregister(host.cast()));
        assert!(before.elapsed() > Duration::from_millis(20));
    }

    memory_is_translated_when_the_kernel_runs [] {
        start();
        let at = reserve(GRANULE);
        chunk(at, GRANULE, VRAM);
        let busy = stream();
        ok(launch(function("gb_spin"), busy, &[30_000_000]));
        ok(launch(function("gb_fill_u32"), busy, &[at, 4, 1]));
        ok(cuda::vmm::cuMemUnmap(at, GRANULE as usize));
        assert_eq!(cuStreamSynchronize(busy), 700);
    }

    memory_freed_in_stream_order_lives_until_then [SIMGPU_VRAM = "4MiB"] {
        start();
        let stream = stream();
        let at = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 4 * MIB as usize, stream));
        ok(launch(function("gb_spin"), stream, &[10_000_000]));
        ok(cuMemsetD32Async(at, 1, 16, stream));
        ok(cuda::pool_calls::cuMemFreeAsync(at, stream));
        // The memory comes back in time for the next allocation.
        let again = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 4 * MIB as usize, stream));
        ok(cuMemsetD32Async(again, 2, 16, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(again, 1), [2]);
        ok(cuda::pool_calls::cuMemFreeAsync(again, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(free_bytes() as u64, 4 * MIB);
        assert_eq!(cuMemsetD32Async(again, 2, 16, stream), 1);
    }

    memory_freed_in_a_stream_is_there_for_its_next_allocation_without_a_wait [SIMGPU_VRAM = "4MiB"] {
        start();
        let (stream, other, flag) = (stream(), stream(), pages(4096, 0));
        ok(cuda::host_calls::cuMemHostRegister_v2(flag.cast(), 4096, 0));
        let at = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 4 * MIB as usize, stream));
        ok(cuda::stream_calls::cuStreamWaitValue32_v2(stream, flag as u64, 1, 1));
        ok(cuMemsetD32Async(at, 1, 16, stream));
        ok(cuda::pool_calls::cuMemFreeAsync(at, stream));
        assert_eq!(cuda::pool_calls::cuMemFreeAsync(at, stream), 1, "it is freed already");
        let again = got(|out| cuda::pool_calls::cuMemAllocAsync(out, 4 * MIB as usize, stream));
        ok(cuMemsetD32Async(again, 2, 16, stream));
        ok(cuda::stream_calls::cuStreamWriteValue32_v2(other, flag as u64, 1, 0));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(again, 16), [2; 16]);
        assert_eq!(cuMemsetD32Async(at, 3, 16, stream), 1, "the first is gone");
        ok(cuda::pool_calls::cuMemFreeAsync(again, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(free_bytes() as u64, 4 * MIB);
    }

    events_time_and_values_wait [] {
        start();
        let (stream, other) = (stream(), stream());
        let (before, after) = (got(|out| cuEventCreate(out, 0)), got(|out| cuEventCreate(out, 0)));
        ok(cuEventRecord(before, stream));
        ok(launch(function("gb_spin"), stream, &[10_000_000]));
        ok(cuEventRecord(after, stream));
        assert_eq!(cuEventQuery(after), 600);
        ok(cuEventSynchronize(after));
        let milliseconds = got(|out| cuEventElapsedTime(out, before, after));
        assert!((9.0..1000.0).contains(&milliseconds));
        let flag = alloc(8);
        let value = alloc(4);
        ok(cuStreamWaitValue32_v2(stream, flag, 5, 1));
        ok(cuMemsetD32Async(value, 1, 1, stream));
        assert_eq!(cuStreamQuery(stream), 600);
        ok(cuStreamWriteValue32_v2(other, flag, 5, 0));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(value, 1), [1]);
    }

    host_functions_must_not_call_the_driver [] {
        start();
        extern "C" fn called(data: *mut c_void) {
            let code = cuda::context_calls::cuCtxSynchronize();
            // SAFETY: the test waits for this write.
            unsafe { data.cast::<u32>().write_volatile(code) };
        }
        let code = [0u32];
        ok(cuLaunchHostFunc(stream(), Some(called), pointer(&code)));
        ok(synchronize());
        // SAFETY: written by the host function.
        assert_eq!(unsafe { code.as_ptr().read_volatile() }, 800);
    }

    rows_and_batches_arrive [] {
        start();
        let (at, to) = (alloc(4096), alloc(4096));
        let words: Vec<u32> = (0..64).collect();
        ok(upload(at, &words));
        // A small upload returns once it is staged, and a stream that does not block does not wait for it.
        ok(synchronize());
        let attributes = [CopyAttributes::new(1)];
        let stream = stream();
        ok(cuMemcpyBatchAsync_v2(
            input(&[to, to + 64]), input(&[at + 128, at]), input(&[64, 32]), 2, input(&attributes), input(&[0]), 1,
            stream,
        ));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(to, 24), [&words[32..48], &words[..8]].concat());
        let mut failed = 7;
        let code = cuMemcpyBatchAsync(
            input(&[to, to + 4090]), input(&[at, at]), input(&[64, 32]), 2, input(&attributes), input(&[0]), 1,
            out(&mut failed), stream,
        );
        assert_eq!((code, failed), (1, 1));
        ok(cuStreamSynchronize(stream));
        ok(upload(to, &words[32..]));
        ok(cuMemsetD2D8_v2(to, 16, 0xff, 4, 3));
        assert_eq!(download(to, 5), [u32::MAX, words[33], words[34], words[35], u32::MAX]);
    }
}
