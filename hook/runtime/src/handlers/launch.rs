//! Kernels and graphs: submitted while no memory moves. This path is nanoseconds long and must stay so.

use crate::runtime::{Core, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_memory::Memory;
use greenboost_memory::gate::Inside;
use greenboost_stream::Dimensions;
use std::ffi::{c_uint, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::Relaxed;

type Kernel = unsafe extern "C" fn(
    CUfunction,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    CUstream,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;
type KernelEx = unsafe extern "C" fn(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void) -> Status;
type Cooperative = unsafe extern "C" fn(
    CUfunction,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    CUstream,
    *mut *mut c_void,
) -> Status;
/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
const PROGRAMMATIC: u32 = 6;

/// Files whose page cache holds weights are checked at intervals of time, and the clock is read at one launch in this many.
const LAUNCHES_UNWATCHED: u64 = 16;

type Graph = unsafe extern "C" fn(CUgraphExec, CUstream) -> Status;

/// A kernel's launch, its parameters left open.
struct Launch {
    function: CUfunction,
    stream: CUstream,
    shape: Dimensions,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

impl Launch {
    /// Submits it, with weights outside VRAM streamed. `issue` gets the parameters and whether they are replaced.
    #[inline]
    fn submit(&self, issue: impl Fn(*mut *mut c_void, *mut *mut c_void, bool) -> Status) -> Handled {
        submit(
            |memory| memory.enter(Some(self.stream)),
            self.stream,
            |core| {
                if !core.streaming.is_on() {
                    return issue(self.params, self.extra, false);
                }
                // SAFETY: the program's own call.
                unsafe {
                    core.streaming.launch(self.function, self.stream, self.shape, self.params, self.extra, &issue)
                }
            },
        )
    }
}

/// Submits work. A driver that needs memory for it (a module loaded at its first launch) and has none is
/// asked again after room was made.
#[inline]
fn submit(
    enter: impl Fn(&'static Memory) -> Inside<'static>,
    stream: CUstream,
    issue: impl Fn(&'static Core) -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let launches = memory.record.launches.fetch_add(1, Relaxed);
    if memory.has_chunks_in_files() && launches % LAUNCHES_UNWATCHED == 0 {
        core.watch_files_at_times();
    }
    if memory.has_deferred() {
        core.materialise_all();
    }
    let status = {
        let _inside = enter(memory);
        issue(core)
    };
    match status {
        OUT_OF_MEMORY => after_eviction(core, stream, || {
            let _inside = enter(memory);
            issue(core)
        }),
        status => Ok(status),
    }
}

#[cold]
fn after_eviction(core: &Core, stream: CUstream, issue: impl Fn() -> Status) -> Handled {
    let memory = core.memory;
    let device = memory.context_of(stream).and_then(|context| memory.device_of(context));
    let Ok(device) = device else { return Ok(OUT_OF_MEMORY) };
    Ok(core.again(device, 0, issue))
}

/// `cuLaunchKernel`.
pub unsafe fn kernel(
    original: Kernel,
    function: CUfunction,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Handled {
    let shape = Dimensions { grid: [gx, gy, gz], block: [bx, by, bz] };
    Launch { function, stream, shape, params, extra }.submit(|params, extra, _| {
        // SAFETY: the program's own call.
        unsafe { original(function, gx, gy, gz, bx, by, bz, shared, stream, params, extra) }
    })
}

/// `cuLaunchKernelEx`.
pub unsafe fn kernel_ex(
    original: KernelEx,
    config: *const CUlaunchConfig,
    function: CUfunction,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Handled {
    // SAFETY: as the driver, which reads it too.
    let config_of = unsafe { config.as_ref() };
    let stream = config_of.map_or(null_mut(), |config| config.hStream);
    let shape = config_of.map_or_else(Dimensions::default, |it| Dimensions {
        grid: [it.gridDimX, it.gridDimY, it.gridDimZ],
        block: [it.blockDimX, it.blockDimY, it.blockDimZ],
    });
    Launch { function, stream, shape, params, extra }.submit(|params, extra, replaced| {
        if replaced {
            // SAFETY: a configuration that had a stream.
            return unsafe { behind_everything(config, |config| original(config, function, params, extra)) };
        }
        // SAFETY: the program's own call.
        unsafe { original(config, function, params, extra) }
    })
}

/// `cuLaunchCooperativeKernel`.
pub unsafe fn cooperative(
    original: Cooperative,
    function: CUfunction,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
) -> Handled {
    let shape = Dimensions { grid: [gx, gy, gz], block: [bx, by, bz] };
    Launch { function, stream, shape, params, extra: null_mut() }.submit(|params, _, _| {
        // SAFETY: the program's own call.
        unsafe { original(function, gx, gy, gz, bx, by, bz, shared, stream, params) }
    })
}

/// Issues a launch without the leave to start before the kernel in front of it has ended. A wait between the two takes that
/// leave away anyhow, as documented; in a capture, with a copy in front as well, nobody has to rely on what it means.
///
/// # Safety
/// `config` is a program's own.
unsafe fn behind_everything(config: *const CUlaunchConfig, issue: impl Fn(*const CUlaunchConfig) -> Status) -> Status {
    // SAFETY: the caller's promise.
    let mut own = unsafe { config.read() };
    let attributes = (0..own.numAttrs as usize).map(|at| own.attrs.wrapping_add(at));
    // The number of an attribute is read as an integer: a newer program's may be none that we know.
    // SAFETY: the program passes this many.
    let kept = attributes.filter(|attribute| unsafe { attribute.cast::<u32>().read() } != PROGRAMMATIC);
    // SAFETY: as above; nobody looks into them but the driver.
    let mut kept: Vec<MaybeUninit<CUlaunchAttribute>> =
        kept.map(|attribute| unsafe { attribute.cast::<MaybeUninit<CUlaunchAttribute>>().read() }).collect();
    own.numAttrs = kept.len() as c_uint;
    own.attrs = kept.as_mut_ptr().cast();
    issue(&own)
}

/// `cuGraphLaunch`.
pub unsafe fn graph(original: Graph, exec: CUgraphExec, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    graph_on(stream, || unsafe { original(exec, stream) })
}

/// `cuGraphLaunch_ptsz`.
pub unsafe fn graph_per_thread(original: Graph, exec: CUgraphExec, stream: CUstream) -> Handled {
    let on = if stream.is_null() { STREAM_PER_THREAD } else { stream };
    // SAFETY: the program's own call.
    graph_on(on, || unsafe { original(exec, stream) })
}

fn graph_on(stream: CUstream, issue: impl Fn() -> Status) -> Handled {
    let enter = |memory: &'static Memory| memory.enter_with_graph(stream);
    submit(
        enter,
        stream,
        |core| if core.streaming.is_on() { core.streaming.launch_graph(stream, &issue) } else { issue() },
    )
}
