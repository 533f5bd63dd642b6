//! What the variables are called, and what their values are made of.

/// What every variable begins with.
pub const PREFIX: &str = "GREENBOOST_";

/// Set to `1` by the launcher; without it the hook does nothing at all.
pub const ACTIVE: &str = "GREENBOOST_ACTIVE";
/// Set by a user to turn everything off, whatever else is set: see [`is_disabled`].
pub const DISABLE: &str = "GREENBOOST_DISABLE";
/// Set to `1` by a launcher that is process 1, as the entry point of a container: its command is process 1 too,
/// which otherwise is nobody's target.
pub const AS_INIT: &str = "GREENBOOST_AS_INIT";
/// Regular expression on the base name of the executable: processes that are hooked. Empty: all.
pub const INCLUDE: &str = "GREENBOOST_INCLUDE";
/// Regular expression on the base name of the executable: processes that are not, even when included.
pub const EXCLUDE: &str = "GREENBOOST_EXCLUDE";
/// Regular expression on the base name of the executable: processes whose kernels write to weights. Empty: none.
pub const TRAINS: &str = "GREENBOOST_TRAINS";
/// Name of the profile in force, for the log and the status record.
pub const PROFILE: &str = "GREENBOOST_PROFILE";
/// File the hook's log is appended to; without it there is no log.
pub const LOG: &str = "GREENBOOST_LOG";
/// Log level: `error`, `warn`, `info`, `debug` or `trace`.
pub const LOG_LEVEL: &str = "GREENBOOST_LOG_LEVEL";
/// Comma-separated interception layers: `inline`, `got`, `preload`, `bodies`, or `none`.
pub const LAYERS: &str = "GREENBOOST_LAYERS";
/// SIZE: the most VRAM the program may take on each device.
pub const VRAM: &str = "GREENBOOST_VRAM";
/// SIZE: VRAM left to the driver when [`VRAM`] is not set.
pub const VRAM_RESERVE: &str = "GREENBOOST_VRAM_RESERVE";
/// SIZE: the most system RAM that may stand in for VRAM.
pub const RAM: &str = "GREENBOOST_RAM";
/// SIZE: an allocation of at least this much is split into chunks that can live outside VRAM.
pub const THRESHOLD: &str = "GREENBOOST_THRESHOLD";
/// SIZE: bytes of a chunk, a multiple of 2 MiB.
pub const CHUNK: &str = "GREENBOOST_CHUNK";
/// How free memory is reported: see [`crate::ReportFree`].
pub const REPORT_FREE: &str = "GREENBOOST_REPORT_FREE";
/// How total memory is reported: see [`crate::ReportTotal`].
pub const REPORT_TOTAL: &str = "GREENBOOST_REPORT_TOTAL";
/// Comma-separated RAM backings in order of preference.
pub const BACKINGS: &str = "GREENBOOST_BACKINGS";
/// Path of the kernel module's device where it is not `/dev/greenboost` (a container may have it elsewhere).
pub const KMOD_DEVICE: &str = "GREENBOOST_KMOD_DEVICE";
/// Whether memory may leave VRAM at all: see [`crate::Spill`].
pub const SPILL: &str = "GREENBOOST_SPILL";
/// Placement rules by tensor name, as [`crate::place`] writes them.
pub const PLACE: &str = "GREENBOOST_PLACE";
/// Which kernels read weights outside VRAM from copies: [`crate::kernel`].
pub const KERNELS: &str = "GREENBOOST_KERNELS";
/// File that the tier map is written to whenever it has changed; without it none is written.
pub const MAP: &str = "GREENBOOST_MAP";
/// Whether weights outside VRAM are streamed: see [`crate::Stream`].
pub const STREAM: &str = "GREENBOOST_STREAM";
/// SIZE: the VRAM that streamed weights are copied into, on each device, out of its budget.
pub const RING: &str = "GREENBOOST_RING";
/// The plan that was made for the program's model in one line, or why there is none: for the log and the status record.
pub const PLAN: &str = "GREENBOOST_PLAN";
/// The `greenboost` program that a llama-server among the target's children asks for a plan; without it none does.
pub const PLANNER: &str = "GREENBOOST_PLANNER";
/// The strategy that the user asked for: see [`crate::Strategy`]; without it the plan takes the fastest.
pub const STRATEGY: &str = "GREENBOOST_STRATEGY";
/// Comma-separated variables of [`PLANNED`] that the user fixed, so that no plan changes them.
pub const FIXED: &str = "GREENBOOST_FIXED";
/// Whether the copies a framework makes of weights in host memory are prefetched: see [`crate::HostCopyPrefetch`].
pub const HOST_COPY_PREFETCH: &str = "GREENBOOST_HOST_COPY_PREFETCH";
/// Whether weights outside VRAM stay in the page cache of their file: see [`crate::PageCache`].
pub const PAGE_CACHE: &str = "GREENBOOST_PAGE_CACHE";
/// Whether the experts that are used most are in VRAM: see [`crate::ExpertCache`].
pub const EXPERTS: &str = "GREENBOOST_EXPERTS";
/// How many threads copy weights that are uploaded; 0 leaves uploads to the driver.
pub const UPLOAD_THREADS: &str = "GREENBOOST_UPLOAD_THREADS";
/// File that gets a trace of what is streamed, for Chrome's or Perfetto's viewer; without it none is written.
pub const TRACE: &str = "GREENBOOST_TRACE";
/// File that gets a line `symbol count` for every caught function when the program ends; without it none is written.
pub const CALLS: &str = "GREENBOOST_CALLS";
/// File that the weight tensors known at the end of a process are written to, for tests.
pub const TENSORS: &str = "GREENBOOST_TENSORS";
/// Variables that are read for tests alone, and one of before that nothing reads any more.
pub const FOR_TESTS: [&str; 4] = [CALLS, TENSORS, "GREENBOOST_PLANT", "GREENBOOST_PROBE_CACHE"];

/// The unit of placement: device memory is mapped and moved in multiples of this many bytes.
pub const GRANULE: u64 = 2 << 20;

/// Staging slots take one part in this many of the VRAM budget, unless a size is set for them.
pub const RING_SHARE: u64 = 16;

/// The names a RAM backing has in settings, logs and the status record, best first.
pub const BACKING_NAMES: &[&str] = &["kmod", "host-numa", "memfd"];

/// The settings that a plan may change, unless the user has fixed them.
pub const PLANNED: [&str; 4] = [STREAM, HOST_COPY_PREFETCH, RING, EXPERTS];
/// Names that variables had before, and those they have now.
pub const RENAMED: [(&str, &str); 2] = [("GREENBOOST_WAY", STRATEGY), ("GREENBOOST_ASSIST", HOST_COPY_PREFETCH)];

/// Whether a value of [`DISABLE`] turns everything off: every word does that is not a no.
pub fn is_disabled(value: &str) -> bool {
    const NOT: [&str; 6] = ["", "0", "no", "n", "false", "off"];
    !NOT.contains(&value.trim().to_ascii_lowercase().as_str())
}

/// The most threads that upload where nobody asks for a number: eight reached 52 of a link's 55 GB/s.
pub const ENOUGH_UPLOAD_THREADS: usize = 8;
/// The most threads that may be asked for.
pub const MOST_UPLOAD_THREADS: u32 = 64;
