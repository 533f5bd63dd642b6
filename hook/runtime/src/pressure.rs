//! How short of memory the machine is, as the kernel module says, and what the hook does about it.
//!
//! | level | what changes |
//! |---|---|
//! | ok | nothing |
//! | low | the hook stops growing: no RAM is reported as free, so that programs which size themselves by free memory stay as they are. What is idle goes back: allocations that the program has freed on a stream, once the stream has passed the free. What a program must have is still given. |
//! | critical | no new RAM: an allocation that VRAM cannot hold is refused with `CUDA_ERROR_OUT_OF_MEMORY`, and nothing moves out of VRAM. A reservation that was granted before and is materialised now is honoured. |
//!
//! Whenever RAM is to be taken the module is asked, which costs a system call and is never out of date. In between, a
//! thread sleeps in `poll` on the device, so that idle memory goes back, and `greenboost status` shows the level, also
//! in a program that allocates nothing. It is started when the pool has been chosen as a backing, and not before: where
//! the module is not used there is neither thread nor question. It makes driver calls only to give memory back.

use crate::pending::Due;
use crate::runtime::{Core, RUNTIME, core};
use greenboost_cuda::abi::SUCCESS;
use greenboost_intercept::guard;
use greenboost_intercept::process::without_signals;
use greenboost_kmod::{Device, Level};
use std::time::Duration;

/// While it is not ok, idle memory is looked for this often: work that was in flight at the change may be done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// As good as for ever: the level's change ends the wait.
const UNTIL_CALLED: Duration = Duration::from_secs(24 * 60 * 60);

/// Starts to listen, once in a process.
pub fn listen() {
    RUNTIME.listens.call_once(start);
}

fn start() {
    let started = without_signals(|| {
        std::thread::Builder::new().name("gb-pressure".to_owned()).stack_size(256 << 10).spawn(|| {
            let core = core().ok()?;
            heed(core, core.memory.backings.kmod().opened()?);
            Some(())
        })
    });
    if let Err(error) = started {
        log::warn!("memory pressure is seen at allocations only: no thread to listen: {error}");
    }
}

fn heed(core: &Core, device: &Device) {
    let mut level = Level::Ok;
    loop {
        let wait = if level == Level::Ok { UNTIL_CALLED } else { LOOK_AGAIN };
        // A program may close descriptors that it does not know, and what then has the number is not ours to read from.
        match device.wait(wait).and_then(|()| device.info()).and_then(|_| device.next_event(None)) {
            Ok(Some(event)) => {
                level = event.level;
                core.memory.publish_pressure(level);
                log::debug!("{}", event.causes.words().join(", "));
            }
            Ok(None) => {}
            Err(error) => {
                log::error!("memory pressure is seen at allocations only: {error}");
                return;
            }
        }
        if level != Level::Ok {
            core.return_idle();
        }
    }
}

impl Core {
    /// Gives back what the program has freed on streams that have come that far.
    fn return_idle(&self) {
        // As a handler does it: no panic gets out, and the driver's calls to itself are not caught.
        guard::enter(|| {
            self.memory.devices().for_each(|device| {
                self.reap(Due::Now(device.ordinal));
            });
            Ok(SUCCESS)
        });
    }
}
