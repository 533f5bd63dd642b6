//! Registering mappings of files: what the real driver takes, what it refuses, and what it would hang on.

mod common;

use common::*;
use cuda::host_calls::{cuMemHostGetDevicePointer_v2, cuMemHostRegister_v2, cuMemHostUnregister};
use cuda::memcpy::cuMemcpyDtoDAsync_v2;
use std::ffi::c_void;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

const BYTES: u64 = 2 * MIB + 100;
const READ_ONLY: u32 = 1 | 2 | 8;

/// A file of words that count, on the file system that programs are built on.
fn file(name: &str) -> (PathBuf, File) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    let words: Vec<u8> = (0..BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect();
    fs::write(&path, words).expect("room for it");
    let file = File::options().read(true).write(true).open(&path).expect("our own");
    (path, file)
}

fn map(file: &File, bytes: u64, protection: i32, flags: i32) -> *mut c_void {
    // SAFETY: a new mapping of our own file.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, file.as_raw_fd(), 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at
}

fn register(at: *mut c_void, flags: u32) -> u32 {
    cuMemHostRegister_v2(at, BYTES as usize, flags)
}

isolated! {
    a_read_only_shared_mapping_of_a_file_is_registered_and_read_in_place [] {
        start();
        let (path, file) = file("shared");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        ok(register(at, READ_ONLY));
        let there: u64 = got(|out| cuMemHostGetDevicePointer_v2(out, at, 0));
        assert_eq!(there, at as u64);
        let vram = alloc(BYTES);
        ok(cuMemcpyDtoDAsync_v2(vram, there, BYTES as usize, 0));
        ok(synchronize());
        assert_eq!(download(vram + MIB, 3), [MIB as u32 / 4, MIB as u32 / 4 + 1, MIB as u32 / 4 + 2]);
        assert_eq!(register(at, READ_ONLY), 712, "registered already");
        ok(cuMemHostUnregister(at));
        fs::remove_file(path).expect("our own");
    }

    the_device_cannot_write_what_is_registered_read_only [] {
        start();
        let (path, file) = file("written");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        ok(register(at, READ_ONLY));
        let to = alloc(64);
        ok(launch(function("gb_probe_read"), 0, &[at as u64, to, 2]));
        ok(synchronize());
        assert_eq!(download(to, 2), [0x5bd1_e995, 0x5bd1_e994], "it can read it");
        ok(launch(function("gb_fill_u32"), 0, &[at as u64, 16, 9]));
        assert_ne!(synchronize(), 0);
        fs::remove_file(path).expect("our own");
    }

    files_can_be_unreadable_for_kernels_alone [SIMGPU_READ_ONLY = "unreadable"] {
        start();
        let (path, file) = file("unreadable");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        ok(register(at, READ_ONLY));
        assert_eq!(got(|out| cuda::device_calls::cuDeviceGetAttribute(out, 113, 0)), 1, "the board says that it can");
        assert_eq!(download(at as u64, 3), [0, 1, 2]);
        ok(launch(function("gb_probe_read"), 0, &[at as u64, alloc(64), 3]));
        assert_eq!(synchronize(), 700);
        fs::remove_file(path).expect("our own");
    }

    files_can_be_stale [SIMGPU_READ_ONLY = "stale"] {
        start();
        let (path, file) = file("stale");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        ok(register(at, READ_ONLY));
        let to = alloc(64);
        ok(launch(function("gb_probe_read"), 0, &[at as u64, to, 3]));
        ok(synchronize());
        assert_eq!(download(to, 3), [0x5bd1_e995; 3]);
        fs::remove_file(path).expect("our own");
    }

    files_can_be_unsupported_where_other_memory_is_registered [SIMGPU_READ_ONLY = "unsupported"] {
        start();
        let (path, file) = file("unsupported");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        assert_eq!(register(at, READ_ONLY), 801);
        assert_eq!(got(|out| cuda::device_calls::cuDeviceGetAttribute(out, 113, 0)), 0);
        ok(cuMemHostRegister_v2(pages(4096, 0).cast(), 4096, 0));
        fs::remove_file(path).expect("our own");
    }

    mappings_that_the_driver_refuses_or_hangs_on_are_refused [] {
        start();
        let (path, file) = file("refused");
        let private = map(&file, BYTES, libc::PROT_READ, libc::MAP_PRIVATE);
        assert_eq!(register(private, READ_ONLY), 999, "the real driver hangs");
        let readable = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        assert_eq!(register(readable, 0), 1, "read-only pages, and no word of it");
        let writable = map(&file, BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        assert_eq!(register(writable, 0), 1, "pages that a file system writes back");
        fs::remove_file(path).expect("our own");
    }

    pages_behind_the_end_of_a_file_cannot_be_registered [] {
        start();
        let (path, file) = file("truncated");
        let at = map(&file, BYTES, libc::PROT_READ, libc::MAP_SHARED);
        file.set_len(MIB).expect("our own");
        assert_eq!(register(at, READ_ONLY), 1);
        ok(cuMemHostRegister_v2(at, MIB as usize, READ_ONLY));
        fs::remove_file(path).expect("our own");
    }
}
