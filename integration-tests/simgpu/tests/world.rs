//! What the environment changes, other processes, and the death of the driver in a forked child.

mod common;
use common::*;
use cuda::alloc_calls::cuMemAlloc_v2;
use cuda::memset_calls::cuMemsetD32_v2;
use cuda::vmm::*;

isolated! {
    the_driver_is_dead_in_a_forked_child [] {
        start();
        let at = alloc(4096);
        let stream = stream();
        ok(launch(function("gb_spin"), stream, &[5_000_000]));
        // SAFETY: the child makes calls that return at once and leaves without unwinding.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let codes = [
                    cuda::driver_calls::cuInit(0),
                    cuda::driver_calls::cuDriverGetVersion(out(&mut 0)),
                    cuMemAlloc_v2(out(&mut 0), 64),
                    cuda::alloc_calls::cuMemFree_v2(at),
                    cuda::stream_calls::cuStreamSynchronize(stream),
                    synchronize(),
                ];
                libc::_exit(codes.iter().any(|code| *code != 3) as i32);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            assert_eq!(status, 0);
        }
        ok(synchronize());
    }

    host_chunks_can_be_unreadable [SIMGPU_HOST_NUMA = "unreadable"] {
        start();
        let at = reserve(GRANULE);
        chunk(at, GRANULE, HOST_NUMA);
        ok(upload(at, &[1]));
        assert_eq!(download(at, 1), [1]);
        ok(launch(function("gb_probe"), 0, &[at, at + 64, 1]));
        assert_eq!(synchronize(), 700);
    }

    host_chunks_can_be_stale [SIMGPU_HOST_NUMA = "stale"] {
        start();
        let at = reserve(GRANULE);
        chunk(at, GRANULE, HOST_NUMA);
        let to = alloc(64);
        ok(upload(at, &[1]));
        ok(launch(function("gb_probe"), 0, &[at, to, 1]));
        ok(synchronize());
        assert_eq!((download(to, 1)[0], download(at, 1)[0]), (0x5bd1_e995, 1));
    }

    host_chunks_can_be_unsupported [SIMGPU_HOST_NUMA = "unsupported", SIMGPU_HOST_REGISTER = "fail"] {
        start();
        assert_eq!(cuMemCreate(out(&mut 0), GRANULE as usize, input(&[properties(HOST_NUMA)]), 0), 801);
        assert_eq!(got(|out| cuda::device_calls::cuDeviceGetAttribute(out, 141, 0)), 0);
        assert_eq!(cuda::host_calls::cuMemHostRegister_v2(pages(4096, 0).cast(), 4096, 0), 801);
    }

    planned_failures_happen [SIMGPU_FAIL = "cuMemCreate:2,cuMemAlloc:1:999"] {
        start();
        assert_eq!(cuMemAlloc_v2(out(&mut 0), 64), 999);
        alloc(64);
        create(GRANULE, VRAM);
        assert_eq!(cuMemCreate(out(&mut 0), GRANULE as usize, input(&[properties(VRAM)]), 0), 2);
        create(GRANULE, VRAM);
    }

    contexts_cost_memory [SIMGPU_CTX_OVERHEAD = "300MiB", SIMGPU_VRAM = "512MiB"] {
        start();
        assert_eq!(free_bytes() as u64, 212 * MIB);
        assert_eq!(cuda::context_calls::cuCtxCreate_v4(out(&mut 0), out(&mut 0), 0, 0), 2);
        ok(cuda::primary::cuDevicePrimaryCtxRelease_v2(0));
        start();
        assert_eq!(free_bytes() as u64, 212 * MIB);
    }

    devices_are_renumbered_and_keep_their_uuid [
        SIMGPU_DEVICES = "3", SIMGPU_VRAM = "1GiB,2GiB", CUDA_VISIBLE_DEVICES = "2,0"
    ] {
        start();
        assert_eq!(got(|out| cuda::device_calls::cuDeviceGetCount(out)), 2);
        let total = |device| got(|out| cuda::device_calls::cuDeviceTotalMem_v2(out, device)) as u64;
        assert_eq!((total(0), total(1)), (2 << 30, 1 << 30));
        let uuid = got(|out| cuda::device_calls::cuDeviceGetUuid_v2(out, 1));
        assert_eq!(uuid, cuda::world::boards()[0].uuid());
        // A kernel of one device needs access to the other's memory; a copy does not.
        let own = alloc(64);
        let other = got(|out| cuda::primary::cuDevicePrimaryCtxRetain(out, 1));
        ok(cuda::context_calls::cuCtxSetCurrent(other));
        let far = alloc(64);
        ok(cuda::memcpy::cuMemcpyDtoD_v2(far, own, 64));
        ok(synchronize());
        ok(launch(function("gb_fill_u32"), 0, &[own, 1, 1]));
        assert_eq!(synchronize(), 700);
    }

    processes_share_the_memory_of_a_machine [] {
        let shared = format!("/dev/shm/simgpu-test-{}", std::process::id());
        // SAFETY: nothing else runs in this process yet.
        unsafe {
            std::env::set_var("SIMGPU_SHM", &shared);
            std::env::set_var("SIMGPU_VRAM", "64MiB");
        }
        let mut pipe = [0; 2];
        // SAFETY: the child only uses the driver it initialises itself.
        unsafe {
            libc::pipe(pipe.as_mut_ptr());
            let child = libc::fork();
            if child == 0 {
                start();
                alloc(40 * MIB);
                libc::write(pipe[1], pipe.as_ptr().cast(), 1);
                libc::pause();
            }
            libc::read(pipe[0], pipe.as_mut_ptr().cast(), 1);
            start();
            assert_eq!(free_bytes() as u64, 24 * MIB);
            assert_eq!(cuMemAlloc_v2(out(&mut 0), 32 << 20), 2);
            // A killed process gives its memory back.
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        alloc(60 * MIB);
        std::fs::remove_file(shared).expect("it was there");
    }

    the_trace_names_every_call [] {
        let path = std::env::temp_dir().join(format!("simgpu-trace-{}", std::process::id()));
        // SAFETY: nothing else runs in this process yet.
        unsafe { std::env::set_var("SIMGPU_TRACE", &path) };
        start();
        alloc(4096);
        let text = std::fs::read_to_string(&path).expect("a trace");
        std::fs::remove_file(&path).expect("it was there");
        assert!(text.starts_with("cuInit(0) = 0\n"), "{text}");
        let last = text.lines().last().expect("lines");
        assert!(last.starts_with("cuMemAlloc_v2(0x") && last.ends_with(", 4096) = 0"), "{last}");
    }

    the_link_takes_its_time [SIMGPU_LINK_GBPS = "1"] {
        start();
        let at = alloc(64 * MIB);
        let words = vec![1u32; 16 << 20];
        ok(cuMemsetD32_v2(at, 1, 16 << 20));
        ok(synchronize());
        let before = std::time::Instant::now();
        ok(upload(at, &words));
        assert!(before.elapsed().as_millis() >= 60);
    }

    weights_are_multiplied_in_time [SIMGPU_VRAM = "1GiB"] {
        start();
        let (rows, cols) = (30_000u64, 4096u64);
        let bytes = rows * (cols / 32) * 34;
        let (w, x, y) = (alloc(bytes), alloc(cols), alloc(4 * rows));
        // Every scale is 1, every weight 1: 0x3c00 and 32 times 0x01.
        let row = [&[0x00u8, 0x3c][..], &[1; 32]].concat().repeat(cols as usize / 32);
        ok(cuda::memcpy::cuMemcpyHtoD_v2(w + (rows - 1) * row.len() as u64, pointer(&row), row.len()));
        ok(cuda::memset_calls::cuMemsetD8_v2(x, 2, cols as usize));
        let matvec = function("gb_matvec_q8");
        ok(launch(matvec, 0, &[w, x, y, rows, cols]));
        ok(synchronize());
        let before = std::time::Instant::now();
        ok(launch(matvec, 0, &[w, x, y, rows, cols]));
        ok(synchronize());
        let last = download(y + 4 * (rows - 1), 1)[0];
        assert_eq!(f32::from_bits(last), 2.0 * cols as f32);
        println!("{} MiB in {:?}", bytes >> 20, before.elapsed());
    }
}
