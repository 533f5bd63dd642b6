//! Memory: where bytes are, who may touch them, what a copy may cross.

mod common;
use common::*;
use cuda::alloc_calls::{cuMemAlloc_v2, cuMemFree_v2};
use cuda::host_calls::{cuMemHostRegister_v2, cuMemHostUnregister};
use cuda::memcpy::*;
use cuda::memset_calls::*;
use cuda::vmm::*;

isolated! {
    one_handle_at_two_addresses_shows_the_same_bytes [] {
        start();
        let at = reserve(2 * GRANULE);
        let handle = create(GRANULE, VRAM);
        map(at, GRANULE, handle);
        map(at + GRANULE, GRANULE, handle);
        ok(set_access(at, 2 * GRANULE, 3));
        ok(upload(at + 64, &[1, 2, 3]));
        assert_eq!(download(at + GRANULE + 64, 3), [1, 2, 3]);
    }

    memory_lives_while_mapped_and_is_accounted_exactly [SIMGPU_VRAM = "8MiB"] {
        start();
        let at = reserve(8 * MIB);
        let handle = create(4 * MIB, VRAM);
        map(at, 4 * MIB, handle);
        ok(cuMemRelease(handle));
        assert_eq!(cuMemRelease(handle), 1);
        assert_eq!(free_bytes() as u64, 4 * MIB);
        ok(cuMemUnmap(at, 4 * MIB as usize));
        assert_eq!(free_bytes() as u64, 8 * MIB);
        let _all = alloc(8 * MIB);
        assert_eq!(cuMemAlloc_v2(out(&mut 0), 1), 2);
        let properties = [properties(VRAM)];
        assert_eq!(cuMemCreate(out(&mut 0), GRANULE as usize, input(&properties), 0), 2);
        // The host is not VRAM.
        let _host = create(64 * MIB, HOST_NUMA);
    }

    memory_without_access_faults_and_the_fault_sticks [] {
        start();
        let probe = function("gb_fill_u32");
        let at = reserve(GRANULE);
        let handle = create(GRANULE, VRAM);
        map(at, GRANULE, handle);
        ok(launch(probe, 0, &[at, 1, 0]));
        assert_eq!(synchronize(), 700);
        assert_eq!(cuMemAlloc_v2(out(&mut 0), 4), 700);
        // A new primary context is healthy again.
        ok(cuda::primary::cuDevicePrimaryCtxReset_v2(0));
        assert_eq!(synchronize(), 709);
        start();
        ok(synchronize());
    }

    memory_unmapped_under_a_copy_faults [SIMGPU_LINK_GBPS = "1", SIMGPU_DELAY_US = "0"] {
        start();
        let (to, from, copying) = (alloc(20 * MIB), reserve(20 * MIB), stream());
        chunk(from, 20 * MIB, HOST_NUMA);
        ok(cuMemcpyDtoDAsync_v2(to, from, 20 * MIB as usize, copying));
        std::thread::sleep(std::time::Duration::from_millis(5));
        ok(cuMemUnmap(from, 20 * MIB as usize));
        // Also when something else is there at once.
        chunk(from, 20 * MIB, HOST_NUMA);
        assert_eq!(synchronize(), 700);
    }

    addresses_come_again_where_hints_do_nothing [SIMGPU_ADDRESS_HINTS = "0"] {
        start();
        let at = reserve(8 * MIB);
        ok(cuMemAddressFree(at, 8 * MIB as usize));
        let hint = 0x4b61_0000_0000;
        assert_eq!(got(|out| cuMemAddressReserve(out, 8 * MIB as usize, 0, hint, 0)), at);
    }

    read_only_access_refuses_writes [] {
        start();
        let at = reserve(GRANULE);
        chunk(at, GRANULE, VRAM);
        ok(set_access(at, GRANULE, 1));
        assert_eq!(download(at, 1), [0]);
        ok(launch(function("gb_fill_u32"), 0, &[at, 1, 0]));
        assert_eq!(synchronize(), 700);
    }

    the_host_faults_on_device_memory [] {
        start();
        let at = alloc(64);
        // SAFETY: the child only touches the address and dies of it, without unwinding.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                (at as *mut u8).write_volatile(1);
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);
        }
    }

    chunks_of_one_reservation_are_one_allocation [] {
        start();
        let at = reserve(2 * GRANULE);
        chunk(at, GRANULE, VRAM);
        chunk(at + GRANULE, GRANULE, HOST_NUMA);
        let words: Vec<u32> = (0..1024).collect();
        let seam = at + GRANULE - 2048;
        ok(upload(seam, &words));
        assert_eq!(download(seam, 1024), words);
        ok(cuMemsetD32_v2(seam, 7, 1024));
        assert_eq!(download(seam, 1024), [7; 1024]);
        ok(launch(function("gb_fill_u32"), 0, &[seam, 1024, 5]));
        assert_eq!(download(seam, 3), [5, 6, 7]);
        assert_eq!(download(seam, 1024)[1023], 5 + 1023);
        // Behind the last chunk there is nothing.
        assert_eq!(upload(at + 2 * GRANULE - 4, &words), 1);
    }

    a_copy_does_not_cross_into_a_registered_range [] {
        start();
        let at = reserve(3 * GRANULE);
        chunk(at, GRANULE, VRAM);
        for index in 1..3 {
            let host = pages(GRANULE, at + index * GRANULE);
            ok(cuMemHostRegister_v2(host.cast(), GRANULE as usize, 0));
        }
        let words = [3u32; 16];
        for seam in [at + GRANULE - 32, at + 2 * GRANULE - 32] {
            assert_eq!(upload(seam, &words), 1);
            assert_eq!(cuMemsetD8_v2(seam, 1, 64), 1);
            assert_eq!(cuMemcpyDtoDAsync_v2(at, seam, 64, 0), 1);
            // Kernels do not care, and the error was only the call's.
            ok(launch(function("gb_fill_u32"), 0, &[seam, 16, 9]));
            ok(synchronize());
        }
        ok(upload(at + GRANULE, &words));
        // SAFETY: registered memory is the program's own.
        assert_eq!(unsafe { ((at + GRANULE) as *const u32).read() }, 3);
        assert_eq!(cuMemAddressFree(at, 3 * GRANULE as usize), 1);
        ok(cuMemHostUnregister((at + GRANULE) as *mut _));
        assert_eq!(cuMemHostUnregister((at + GRANULE) as *mut _), 713);
        ok(cuMemHostUnregister((at + 2 * GRANULE) as *mut _));
        ok(cuMemUnmap(at, GRANULE as usize));
        ok(cuMemAddressFree(at, 3 * GRANULE as usize));
    }

    maps_come_and_go_whole [] {
        start();
        let at = reserve(4 * GRANULE);
        chunk(at, 2 * GRANULE, VRAM);
        chunk(at + 2 * GRANULE, 2 * GRANULE, VRAM);
        assert_eq!(cuMemUnmap(at, GRANULE as usize), 1);
        assert_eq!(cuMemAddressFree(at, 4 * GRANULE as usize), 1);
        assert_eq!(set_access(at + GRANULE, GRANULE, 3), 1);
        let handle = create(GRANULE, VRAM);
        assert_eq!(cuMemMap(at, GRANULE as usize, 0, handle, 0), 1);
        assert_eq!(cuMemMap(at, GRANULE as usize, 4096, handle, 0), 1);
        ok(cuMemUnmap(at, 4 * GRANULE as usize));
        ok(cuMemAddressFree(at, 4 * GRANULE as usize));
        assert_eq!(cuMemCreate(out(&mut 0), 4096, input(&[properties(VRAM)]), 0), 1);
    }

    the_host_gets_into_host_chunks_only [] {
        start();
        let at = reserve(2 * GRANULE);
        chunk(at, GRANULE, HOST_NUMA);
        chunk(at + GRANULE, GRANULE, VRAM);
        let host = [Access { location: HOST_NUMA, flags: 3 }];
        ok(cuMemSetAccess(at, GRANULE as usize, input(&host), 1));
        assert_eq!(cuMemSetAccess(at + GRANULE, GRANULE as usize, input(&host), 1), 1);
        // SAFETY: the host has access now.
        unsafe { (at as *mut u32).write(77) };
        assert_eq!(download(at, 1), [77]);
    }

    freed_and_foreign_pointers_are_refused [] {
        start();
        let at = alloc(4096);
        assert_eq!(cuMemFree_v2(at + 8), 1);
        ok(cuMemFree_v2(at));
        assert_eq!(cuMemFree_v2(at), 1);
        assert_eq!(upload(at, &[1]), 1);
        let at = alloc(4096);
        assert_eq!(upload(at + 4092, &[1, 2]), 1);
        let reserved = reserve(GRANULE);
        chunk(reserved, GRANULE, VRAM);
        assert_eq!(cuMemFree_v2(reserved), 1);
        assert_eq!(cuda::share::cuIpcGetMemHandle(common::out(&mut handle()), reserved), 1);
        ok(cuda::share::cuIpcGetMemHandle(common::out(&mut handle()), at));
    }

    registration_follows_the_drivers_rules [] {
        start();
        let host = pages(4 * 4096, 0);
        let at = |offset: usize| host.wrapping_add(offset).cast();
        ok(cuMemHostRegister_v2(at(100), 5000, 0));
        assert_eq!(cuMemHostRegister_v2(at(4096), 4096, 0), 712);
        ok(cuMemHostUnregister(at(100)));
        assert_eq!(cuMemHostUnregister(at(100)), 713);
        // SAFETY: own pages.
        unsafe { libc::mprotect(at(8192), 4096, libc::PROT_READ) };
        assert_eq!(cuMemHostRegister_v2(at(8192), 4096, 0), 1);
        ok(cuMemHostRegister_v2(at(8192), 4096, 8));
        // SAFETY: own pages.
        unsafe { libc::munmap(at(12288), 4096) };
        assert_eq!(cuMemHostRegister_v2(at(12288), 4096, 0), 1);
        // A private mapping of a file hangs the real driver.
        let file = std::fs::File::open("/proc/self/exe").expect("the test's program");
        // SAFETY: a new mapping.
        let text = unsafe {
            let file = std::os::fd::AsRawFd::as_raw_fd(&file);
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, file, 0)
        };
        assert_eq!(cuMemHostRegister_v2(text, 4096, 8), 999);
        // SAFETY: a new mapping.
        let shared = unsafe {
            let file = std::os::fd::AsRawFd::as_raw_fd(&file);
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file, 0)
        };
        assert_eq!(cuMemHostRegister_v2(shared, 4096, 0), 1);
        ok(cuMemHostRegister_v2(shared, 4096, 8));
        assert_eq!(download(shared as u64, 1)[0].to_le_bytes(), *b"\x7fELF");
        ok(launch(function("gb_fill_u32"), 0, &[shared as u64, 1, 0]));
        assert_eq!(synchronize(), 700);
    }

    pointers_are_described [] {
        let context = start();
        let at = alloc(4096);
        let ask = |attribute, address| {
            let mut value = 0u64;
            let place = cuda::edge::Out::from(std::ptr::from_mut(&mut value).cast());
            (cuda::pointer::cuPointerGetAttribute(place, attribute, address), value)
        };
        assert_eq!(ask(2, at + 8), (0, 2));
        assert_eq!(ask(1, at), (0, context as u64));
        assert_eq!(ask(11, at + 8), (0, at));
        assert_eq!(ask(12, at + 8), (0, 4096));
        assert_eq!(ask(2, 0x1000), (1, 0));
        let reserved = reserve(2 * GRANULE);
        chunk(reserved, GRANULE, HOST_NUMA);
        chunk(reserved + GRANULE, GRANULE, VRAM);
        assert_eq!((ask(2, reserved), ask(2, reserved + GRANULE)), ((0, 1), (0, 2)));
        let (mut start, mut len) = (0, 0);
        ok(cuda::pointer::cuMemGetAddressRange_v2(out(&mut start), out(&mut len), reserved + GRANULE + 5));
        assert_eq!((start, len as u64), (reserved + GRANULE, GRANULE));
    }

    the_32_bit_functions_are_not_todays [] {
        start();
        assert_eq!(cuda::v1::cuMemAlloc(out(&mut 0), 4096), 801);
        assert_eq!(cuda::v1::cuMemFree(4096), 801);
    }

    shared_descriptors_lead_to_the_same_bytes [SIMGPU_VRAM = "4MiB"] {
        start();
        let at = reserve(2 * GRANULE);
        let wanted = [Properties::new(VRAM, 1)];
        let handle = got(|out| cuMemCreate(out, GRANULE as usize, input(&wanted), 0));
        let file = got(|out| cuda::share::cuMemExportToShareableHandle(out, handle, 1, 0));
        let import = cuda::share::cuMemImportFromShareableHandle;
        let again = got(|out| import(out, file as usize as *mut _, 1));
        map(at, GRANULE, handle);
        map(at + GRANULE, GRANULE, again);
        ok(set_access(at, 2 * GRANULE, 3));
        ok(upload(at, &[42]));
        assert_eq!(download(at + GRANULE, 1), [42]);
        assert_eq!(free_bytes() as u64, GRANULE);
    }

    everything_needs_cuinit_and_a_context [] {
        assert_eq!(cuMemAlloc_v2(out(&mut 0), 4), 3);
        ok(cuda::driver_calls::cuInit(0));
        assert_eq!(cuda::driver_calls::cuInit(1), 1);
        assert_eq!(cuMemAlloc_v2(out(&mut 0), 4), 201);
        let none = || cuda::edge::Out::from(std::ptr::null_mut());
        assert_eq!(cuda::device_calls::cuMemGetInfo_v2(none(), none()), 201);
        // VMM needs none.
        let _handle = create(GRANULE, VRAM);
        start();
        ok(cuda::device_calls::cuMemGetInfo_v2(none(), none()));
    }
}

fn handle() -> cuda::share::IpcHandle {
    // SAFETY: a struct of plain numbers.
    unsafe { std::mem::zeroed() }
}
