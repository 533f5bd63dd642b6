//! Whether this process is ours, and the start of everything if it is.
//!
//! The constructor decides in microseconds: the library is inherited by every shell and helper a target starts.
//! A process that is not ours is left as it is. In one that is, the layers are installed and nothing else: no
//! CUDA, no NVML, no thread, no output; the rest begins with the program's first call. One kind of process waits for
//! more: a llama-server that was started for a model, by a server that gb-launch started (`plan`).

mod filter;
mod journal;
mod plan;
mod tally;

use crate::runtime::{Called, RUNTIME};
use crate::{exit, follow, ggml, pressure};
use greenboost_contract::loader::is_loader;
use greenboost_contract::settings::{ACTIVE, AS_INIT, CALLS, DISABLE, EXCLUDE, INCLUDE, TENSORS, is_disabled};
use greenboost_contract::{HostCopyPrefetch, Layers, PageCache, Settings};
use greenboost_intercept::inject::still::Gate;
use greenboost_intercept::slot::Library;
use greenboost_intercept::{guard, inject, slot};
use std::ffi::{CStr, CString};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU8, Ordering};

const UNDECIDED: u8 = 0;
const DECIDING: u8 = 1;
const DECIDED: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Decides if that has not been done: another library's constructor may call us before ours runs.
#[inline]
pub fn ensure() {
    if STATE.load(Ordering::Acquire) == UNDECIDED {
        decide();
    }
}

#[cold]
fn decide() {
    // Whoever comes while this runs, on this thread or another, is served as if we were not there.
    if STATE.compare_exchange(UNDECIDED, DECIDING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        let _ = catch_unwind(|| {
            if let Some(executable) = ours() {
                start(&executable);
            }
        });
        STATE.store(DECIDED, Ordering::Release);
    }
}

/// The name of the executable, if this process is ours. Cheapest questions first.
fn ours() -> Option<String> {
    // SAFETY: questions to the kernel and the auxiliary vector.
    let (secure, first) = unsafe { (libc::getauxval(libc::AT_SECURE) != 0, libc::getpid() == 1) };
    if !is_one(ACTIVE) || secure || (first && !is_one(AS_INIT)) {
        return None;
    }
    if std::env::var(DISABLE).is_ok_and(|value| is_disabled(&value)) {
        return None;
    }
    let executable = std::fs::read_link("/proc/self/exe").ok()?;
    let name = executable.file_name()?.to_str()?;
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let program = if is_loader(name) { program_name() } else { None };
    let name = program.as_deref().unwrap_or(name);
    let variable = |name| std::env::var(name).unwrap_or_default();
    filter::admits(&variable(INCLUDE), &variable(EXCLUDE), name).then(|| name.to_owned())
}

/// What this process's program is called. Its loader, where that is the executable, has taken its own name out of the
/// arguments before any constructor runs.
fn program_name() -> Option<String> {
    unsafe extern "C" {
        static program_invocation_short_name: *const libc::c_char;
    }
    // SAFETY: the C library's own variable, set before constructors run, and a C string for as long as the process lives.
    let name = unsafe { program_invocation_short_name };
    // SAFETY: as above.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Whether an environment variable is `1`, without copying anything.
fn is_one(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: a C string; the answer is looked at before anything else runs.
    unsafe {
        let value = libc::getenv(name.as_ptr()).cast::<u8>();
        !value.is_null() && *value == b'1' && *value.add(1) == 0
    }
}

fn start(executable: &str) {
    let get = |name: &str| std::env::var(name).ok();
    let mut settings = match Settings::from_env(get) {
        Ok(settings) => settings,
        Err(error) => {
            // Where to complain is one of the settings; with a bad log level the default serves.
            let defaults = Settings::default();
            journal::open(get(greenboost_contract::settings::LOG).map(Into::into), &defaults.log_level);
            log::error!("{error}; GreenBoost stays off in this process");
            return;
        }
    };
    journal::open(settings.log.clone(), &settings.log_level);
    // A panic is caught where it crosses into the program; the default hook would print it there.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    // Before anything of the process is changed: it starts a program and waits for it.
    plan::make(&mut settings, executable);
    if filter::names(&settings.trains, executable) {
        log::info!(
            "{executable} trains: its kernels write to weights, which are not streamed, nor read from their file"
        );
        settings.leave_weights_alone();
    }
    // SAFETY: the handlers take and release gates, and read atomics.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(parent_after_fork), Some(child_after_fork)) };
    inject::install(settings.layers);
    ggml::install(settings.page_cache);
    if settings.host_copy_prefetch == HostCopyPrefetch::On || settings.page_cache == PageCache::On {
        follow::install();
    }
    let (standing, wanted) = (inject::standing().names(), settings.layers.names());
    log::info!("profile {}, layers {standing} of {wanted}, engine {}", settings.profile, inject::engine());
    if !settings.plan.is_empty() {
        log::info!("plan {}", settings.plan);
    }
    let any = inject::standing() != Layers::NONE;
    let _ = RUNTIME.called.set(Called { pool_chosen: pressure::listen, streaming_started: exit::watch });
    let _ = RUNTIME.settings.set(settings);
    if any {
        if let Some(path) = get(CALLS) {
            tally::keep(path.into());
        }
        if let Some(path) = get(TENSORS) {
            ggml::dump::keep(path.into());
        }
        guard::activate();
        // Registered before anything else of the process, it is the last to be called.
        // SAFETY: the function reads atomics and logs; this library is never unloaded.
        unsafe { libc::atexit(last_line) };
    }
}

/// The log's last line.
extern "C" fn last_line() {
    let left = guard::bypasses();
    if guard::is_active() && !left.is_empty() {
        log::info!("calls that went to the driver as they were: {left}");
    }
}

extern "C" fn before_fork() {
    Gate::close();
    journal::hold();
}

extern "C" fn parent_after_fork() {
    journal::release();
    Gate::open();
}

/// A child of a process that has used the driver cannot, and our locks may be held by threads it does not have.
/// One that was forked before (a server that puts itself in the background) is as good as its parent.
extern "C" fn child_after_fork() {
    journal::release();
    Gate::reset();
    if slot::all().iter().any(|slot| slot.library == Library::Cuda && slot.calls.load(Ordering::Relaxed) > 0) {
        guard::stand_aside();
    }
}
