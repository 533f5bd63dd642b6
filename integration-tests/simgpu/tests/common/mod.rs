//! Every test runs in a process of its own, with its own environment, and talks to the driver as a C program does.
#![allow(dead_code)]

use cuda::edge::{In, Out};
use cuda::vmm::{Access, Location, Properties};
use std::ffi::{CString, c_void};
use std::process::Command;

pub const MIB: u64 = 1 << 20;
pub const GRANULE: u64 = 2 * MIB;

pub const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry gb_fill_u32(.param .u64 a, .param .u64 b, .param .u32 c) { ret; }
.visible .entry gb_checksum_u32(.param .u64 a, .param .u64 b, .param .u64 c) { ret; }
.visible .entry gb_checksum_struct(.param .align 8 .b8 a[24]) { ret; }
.visible .entry gb_matvec_q8(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 d, .param .u32 e) { ret; }
.visible .entry gb_probe(.param .u64 a, .param .u64 b, .param .u32 c) { ret; }
.visible .entry gb_probe_read(.param .u64 a, .param .u64 b, .param .u32 c) { ret; }
.visible .entry gb_early_checksum_u32(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) { ret; }
.visible .entry gb_weights_u32(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u32 e) { ret; }
.visible .entry gb_spin(.param .u64 a) { ret; }
.visible .entry unknown(.param .u64 a) { ret; }
";

/// Runs a test's body in a fresh process.
pub fn isolate(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) {
    const CHILD: &str = "SIMGPU_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args([name, "--exact", "--test-threads=1", "--nocapture"])
        .env(CHILD, name)
        .envs(environment.iter().copied())
        .output()
        .expect("the test starts again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

/// A test in a process of its own.
#[macro_export]
macro_rules! isolated {
    ($($(#[$doc:meta])* $name:ident [$($key:ident = $value:expr),*] $body:block)*) => { $(
        $(#[$doc])*
        #[test]
        fn $name() {
            $crate::common::isolate(stringify!($name), &[$((stringify!($key), $value)),*], || $body);
        }
    )* };
}

#[track_caller]
pub fn ok(code: u32) {
    assert_eq!(code, 0, "CUresult");
}

pub fn out<T>(place: &mut T) -> Out<T> {
    Out::from(std::ptr::from_mut(place))
}

pub fn input<T>(value: &[T]) -> In<T> {
    In::from(value.as_ptr())
}

/// What a call writes.
#[track_caller]
pub fn got<T: Default>(call: impl FnOnce(Out<T>) -> u32) -> T {
    let mut value = T::default();
    ok(call(out(&mut value)));
    value
}

/// Initialises the driver and makes the primary context of a device current.
pub fn start() -> usize {
    ok(cuda::driver_calls::cuInit(0));
    let context = got(|out| cuda::primary::cuDevicePrimaryCtxRetain(out, 0));
    ok(cuda::context_calls::cuCtxSetCurrent(context));
    context
}

pub fn alloc(bytes: u64) -> u64 {
    got(|out| cuda::alloc_calls::cuMemAlloc_v2(out, bytes as usize))
}

pub fn free_bytes() -> usize {
    got(|out| cuda::device_calls::cuMemGetInfo_v2(out, Out::from(std::ptr::null_mut())))
}

pub fn reserve(bytes: u64) -> u64 {
    got(|out| cuda::vmm::cuMemAddressReserve(out, bytes as usize, 0, 0, 0))
}

pub const VRAM: Location = Location { kind: 1, id: 0 };
pub const HOST_NUMA: Location = Location { kind: 3, id: 0 };

pub fn properties(location: Location) -> Properties {
    Properties::new(location, 0)
}

pub fn create(bytes: u64, location: Location) -> u64 {
    let properties = [properties(location)];
    got(|out| cuda::vmm::cuMemCreate(out, bytes as usize, input(&properties), 0))
}

pub fn map(at: u64, bytes: u64, handle: u64) {
    ok(cuda::vmm::cuMemMap(at, bytes as usize, 0, handle, 0));
}

pub fn set_access(at: u64, bytes: u64, flags: u32) -> u32 {
    let access = [Access { location: VRAM, flags }];
    cuda::vmm::cuMemSetAccess(at, bytes as usize, input(&access), 1)
}

/// One chunk, mapped and open to the device; the handle is released, as ggml does.
pub fn chunk(at: u64, bytes: u64, location: Location) {
    let handle = create(bytes, location);
    map(at, bytes, handle);
    ok(cuda::vmm::cuMemRelease(handle));
    ok(set_access(at, bytes, 3));
}

pub fn pointer<T>(values: &[T]) -> *mut c_void {
    values.as_ptr().cast_mut().cast()
}

pub fn upload(to: u64, words: &[u32]) -> u32 {
    cuda::memcpy::cuMemcpyHtoD_v2(to, pointer(words), size_of_val(words))
}

#[track_caller]
pub fn download(from: u64, words: usize) -> Vec<u32> {
    let result = vec![0u32; words];
    ok(cuda::memcpy::cuMemcpyDtoH_v2(pointer(&result), from, words * 4));
    result
}

pub fn synchronize() -> u32 {
    cuda::context_calls::cuCtxSynchronize()
}

pub fn stream() -> usize {
    got(|out| cuda::stream_calls::cuStreamCreate(out, 1))
}

pub fn event() -> usize {
    got(|out| cuda::event_calls::cuEventCreate(out, 2))
}

pub fn module() -> usize {
    let text = CString::new(PTX).expect("no zero in it");
    got(|out| cuda::module_calls::cuModuleLoadData(out, In::from(text.as_ptr().cast::<c_void>())))
}

pub fn function(name: &str) -> usize {
    let name = CString::new(name).expect("no zero in it");
    let module = module();
    got(|out| cuda::module_calls::cuModuleGetFunction(out, module, In::from(name.as_ptr())))
}

/// Launches with arguments of at most 8 bytes each.
pub fn launch(function: usize, stream: usize, arguments: &[u64]) -> u32 {
    let pointers: Vec<*const c_void> = arguments.iter().map(|value| std::ptr::from_ref(value).cast()).collect();
    let none = In::from(std::ptr::null());
    cuda::launch_calls::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, input(&pointers), none)
}

/// Anonymous pages of the process.
pub fn pages(bytes: u64, at: u64) -> *mut u8 {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    // SAFETY: new memory, or a replacement of a reservation of the caller's.
    let pages = unsafe {
        libc::mmap(
            at as *mut c_void,
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed,
            -1,
            0,
        )
    };
    assert_ne!(pages, libc::MAP_FAILED);
    pages.cast()
}
