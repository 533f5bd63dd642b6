//! `cuGetProcAddress`, the exported symbols, and that both agree.

mod common;
use common::*;
use cuda::edge::{In, Out};
use cuda::entry::{cuGetProcAddress, cuGetProcAddress_v2, table};
use std::collections::BTreeSet;
use std::ffi::CString;

/// Result code, address and status.
fn ask(name: &str, version: i32, flags: u64) -> (u32, usize, u32) {
    let name = CString::new(name).expect("no zero in it");
    let (mut address, mut status) = (1, 9);
    let code = cuGetProcAddress_v2(In::from(name.as_ptr()), out(&mut address), version, flags, out(&mut status));
    (code, address, status)
}

fn address(function: *const ()) -> usize {
    function as usize
}

isolated! {
    versions_and_streams_choose_the_function [] {
        let found = |function| (0, address(function), 0);
        assert_eq!(ask("cuMemAlloc", 12000, 0), found(cuda::alloc_calls::cuMemAlloc_v2 as *const ()));
        assert_eq!(ask("cuMemAlloc", 3010, 0), found(cuda::v1::cuMemAlloc as *const ()));
        assert_eq!(ask("cuMemcpyHtoD", 12000, 2), found(cuda::memcpy::cuMemcpyHtoD_v2_ptds as *const ()));
        assert_eq!(ask("cuMemcpyHtoD", 12000, 1), found(cuda::memcpy::cuMemcpyHtoD_v2 as *const ()));
        assert_eq!(ask("cuMemcpyHtoD", 6000, 2), found(cuda::memcpy::cuMemcpyHtoD_v2 as *const ()));
        assert_eq!(ask("cuMemAlloc", 12000, 2), found(cuda::alloc_calls::cuMemAlloc_v2 as *const ()));
        assert_eq!(ask("cuCtxCreate", 11040, 0), found(cuda::context_calls::cuCtxCreate_v3 as *const ()));
        assert_eq!(ask("cuCtxCreate", 13000, 0), found(cuda::context_calls::cuCtxCreate_v4 as *const ()));
        assert_eq!(ask("cuGetProcAddress", 11080, 0), found(cuGetProcAddress as *const ()));
        assert_eq!(ask("cuGetProcAddress", 12000, 0), found(cuGetProcAddress_v2 as *const ()));
        let batch = |version| ask("cuMemcpyBatchAsync", version, 0).1;
        assert_ne!(batch(12080), batch(13000));
        // Only base names are known.
        assert_eq!(ask("cuMemAlloc_v2", 12000, 0), (0, 0, 1));
        assert_eq!(ask("cuNonsense", 12000, 0), (0, 0, 1));
        assert_eq!(ask("cuLaunchKernelEx", 11000, 0), (0, 0, 2));
        assert_eq!(ask("cuMemAlloc", 14000, 0).0, 1);
        assert_eq!(ask("cuMemAlloc", 12000, 4).0, 1);
    }

    the_status_may_be_null_and_the_older_form_has_none [] {
        let name = |text| CString::new(text).expect("no zero in it");
        let (known, unknown) = (name("cuInit"), name("cuNonsense"));
        let none = Out::from(std::ptr::null_mut());
        let mut address = 0;
        ok(cuGetProcAddress_v2(In::from(known.as_ptr()), out(&mut address), 12000, 0, none));
        assert_ne!(address, 0);
        assert_eq!(cuGetProcAddress_v2(In::from(unknown.as_ptr()), out(&mut address), 12000, 0, none), 500);
        ok(cuGetProcAddress(In::from(known.as_ptr()), out(&mut address), 11030, 0));
        assert_eq!(cuGetProcAddress(In::from(unknown.as_ptr()), out(&mut address), 11030, 0), 500);
        assert_eq!(address, 0);
    }

    an_older_driver_knows_less [SIMGPU_DRIVER_VERSION = "12020"] {
        assert_eq!(ask("cuMemAlloc", 13000, 0).0, 1);
        assert_eq!(ask("cuMemcpyBatchAsync", 12020, 0), (0, 0, 1));
        assert_eq!(got(|out| cuda::driver_calls::cuDriverGetVersion(out)), 12020);
    }

    twins_are_the_same_functions_elsewhere [SIMGPU_TWINS = "1"] {
        let (code, twin, _) = ask("cuDriverGetVersion", 12000, 0);
        assert_eq!(code, 0);
        assert_ne!(twin, address(cuda::driver_calls::cuDriverGetVersion as *const ()));
        // SAFETY: the same signature.
        let twin: extern "C" fn(Out<i32>) -> u32 = unsafe { std::mem::transmute(twin) };
        assert_eq!(got(|out| twin(out)), 13000);
        for entry in table().values().flatten() {
            assert_ne!(entry.address, entry.twin, "{}", entry.symbol);
        }
    }

    the_library_exports_the_table_and_nothing_else [] {
        let library = std::env::current_exe().expect("a program").with_file_name("libcuda.so");
        let output = std::process::Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output();
        let Ok(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let exported: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        let declared: BTreeSet<&str> = table().values().flatten().map(|entry| entry.symbol).collect();
        let difference: Vec<_> = exported.symmetric_difference(&declared).collect();
        assert!(difference.is_empty(), "{difference:?}");
    }
}
