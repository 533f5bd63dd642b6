//! A simulated libnvidia-ml.so.1 beside the simulated CUDA driver.
//!
//! It describes the same boards (`SIMGPU_DEVICES`, `SIMGPU_VRAM`; `CUDA_VISIBLE_DEVICES` does not matter to
//! NVML). What processes use of them is known when `SIMGPU_SHM` names the file they share, else it is 0.
#![allow(non_snake_case)]

mod board;
mod out;
mod system;
// The driver's file: joining the machine and taking its lock is the driver's part.
#[path = "../../src/world.rs"]
#[allow(dead_code)]
mod world;

/// `nvmlReturn_t`
pub(crate) type Code = u32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const UNINITIALIZED: Code = 1;
pub(crate) const INVALID_ARGUMENT: Code = 2;
pub(crate) const NOT_SUPPORTED: Code = 3;
pub(crate) const NOT_FOUND: Code = 6;
pub(crate) const INSUFFICIENT_SIZE: Code = 7;
pub(crate) const UNKNOWN: Code = 999;

#[cfg(test)]
mod tests {
    use crate::board::*;
    use crate::system::*;
    use crate::world::{Usage, boards};
    use std::sync::atomic::Ordering;

    /// One test, because the environment is the process's.
    #[test]
    fn describes_the_boards_and_what_is_used() {
        let shared = std::env::temp_dir().join(format!("simnvml-test-{}", std::process::id()));
        // SAFETY: the only test of this program; nothing else reads the environment meanwhile.
        unsafe {
            std::env::set_var("SIMGPU_DEVICES", "2");
            std::env::set_var("SIMGPU_VRAM", "1GiB,2GiB");
            std::env::set_var("SIMGPU_SHM", &shared);
        }
        let mut count = 0;
        assert_eq!(nvmlDeviceGetCount_v2(&mut count), crate::UNINITIALIZED);
        assert_eq!(nvmlInit_v2(), 0);
        assert_eq!((nvmlDeviceGetCount_v2(&mut count), count), (0, 2));
        let mut device = 0;
        assert_eq!(nvmlDeviceGetHandleByIndex_v2(2, &mut device), crate::INVALID_ARGUMENT);
        assert_eq!(nvmlDeviceGetHandleByIndex_v2(1, &mut device), 0);
        let mut uuid = [0; 96];
        assert_eq!(nvmlDeviceGetUUID(device, uuid.as_mut_ptr(), 96), 0);
        assert_eq!(crate::out::text(uuid.as_ptr()), Ok(boards()[1].uuid_text()));
        let mut same = 0;
        assert_eq!((nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &mut same), same), (0, device));
        // Another process, as it were, uses memory.
        Usage::open().join().used[1].store(5 << 20, Ordering::Release);
        let mut memory = [0u64; 3];
        assert_eq!(nvmlDeviceGetMemoryInfo(device, memory.as_mut_ptr().cast()), 0);
        assert_eq!(memory, [2 << 30, (2 << 30) - (5 << 20), 5 << 20]);
        let mut running = 0;
        assert_eq!(
            nvmlDeviceGetComputeRunningProcesses_v3(device, &mut running, std::ptr::null_mut()),
            crate::INSUFFICIENT_SIZE
        );
        assert_eq!(running, 1);
        assert_eq!(nvmlShutdown(), 0);
        assert_eq!(nvmlShutdown(), crate::UNINITIALIZED);
        std::fs::remove_file(shared).expect("it was there");
    }
}
