//! What a device's RAM can be made of is found out while the program still reads its model's table.
//!
//! The probe (`greenboost_memory::probe`) takes 0.16 s on an H200, most of it for a context, and is needed at the first large
//! allocation. A llama-server asks how much memory is free long before that, and then reads its vocabulary. So where the
//! launcher knows that a model is to be loaded, a thread of ours begins at that question. Its context takes VRAM for as long
//! as it lives; the next question of what is free waits for its end, as an allocation does, and so does the program's end.

use crate::exit;
use crate::runtime::{Core, RUNTIME, core};
use greenboost_cuda::abi::{CUdevice, SUCCESS};
use greenboost_intercept::guard;
use greenboost_intercept::process::without_signals;
use std::thread::Builder;

impl Core {
    /// Begins to probe a device, once in a process for which a model has been planned.
    pub fn probe_ahead(&self, device: CUdevice) {
        let ahead = &RUNTIME.ahead;
        if self.memory.settings.plan.is_empty() || !ahead.begin() {
            return;
        }
        exit::watch();
        let probe = move || {
            // As a handler does it: no panic gets out, and the driver's calls to itself are not caught.
            guard::enter(|| {
                let memory = core()?.memory;
                memory.backing_of(memory.device(device)?);
                Ok(SUCCESS)
            });
            ahead.end();
        };
        let started = without_signals(|| Builder::new().name("gb-probe".to_owned()).spawn(probe));
        if let Err(error) = started {
            log::debug!("memory is probed at the first large allocation: no thread to do it before: {error}");
            ahead.end();
        }
    }
}
