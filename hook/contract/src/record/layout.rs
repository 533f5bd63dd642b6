//! What a record holds, and this process's own.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Name of the memfd, as it shows in `/proc/PID/fd`.
pub const NAME: &str = "greenboost-status";
/// First eight bytes of a record.
pub const MAGIC: u64 = u64::from_le_bytes(*b"GBSTATUS");
/// Layout version; a reader skips records of another one.
pub const VERSION: u32 = 8;
/// Most devices one process can show.
pub const MAX_DEVICES: usize = 16;
/// Most RAM backings one process can show.
pub const MAX_BACKINGS: usize = 4;
/// The words for [`Record::pressure`]; the first one is for who does not listen.
pub const PRESSURE_NAMES: [&str; 4] = ["", "ok", "low", "critical"];

/// Why calls of the program went to the driver as they were, in the order of [`Record::bypasses`].
pub const BYPASS_NAMES: [&str; 9] = [
    "not active",
    "inside another call",
    "no driver",
    "no context",
    "left to the driver",
    "other memory",
    "during a capture",
    "bad arguments",
    "internal failure",
];

/// The counts of [`Record::bypasses`] in words, those that are not zero; empty when all are.
pub fn bypasses(counts: &[AtomicU64; BYPASS_NAMES.len()]) -> String {
    let counts = BYPASS_NAMES.iter().zip(counts).map(|(name, count)| (name, count.load(Relaxed)));
    let lines: Vec<_> = counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    lines.join(", ")
}

/// Fixed-size text, UTF-8, padded with zero bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Text<const N: usize>(pub(super) [std::sync::atomic::AtomicU8; N]);

impl<const N: usize> Text<N> {
    /// Replaces the text, shortened to at most N bytes at a character boundary.
    pub fn set(&self, text: &str) {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        for (at, cell) in self.0.iter().enumerate() {
            cell.store(if at < end { text.as_bytes()[at] } else { 0 }, Relaxed);
        }
    }

    /// The text.
    pub fn get(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().map(|cell| cell.load(Relaxed)).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// One device as the process sees it. All sizes in bytes.
#[repr(C)]
#[derive(Debug)]
pub struct DeviceRecord {
    /// `GPU-xxxxxxxx-...`, as NVML writes it.
    pub uuid: Text<48>,
    /// VRAM the process may take.
    pub vram_budget: AtomicU64,
    /// VRAM taken by chunks of large allocations.
    pub vram_chunks: AtomicU64,
    /// VRAM taken by allocations left to the driver.
    pub vram_plain: AtomicU64,
    /// VRAM the program mapped itself (ggml's scratch pool).
    pub vram_mapped: AtomicU64,
    /// VRAM taken by the staging slots that streamed weights are copied into.
    pub vram_ring: AtomicU64,
    /// VRAM taken by copies of the experts that are used most.
    pub vram_experts: AtomicU64,
    /// The most VRAM taken at any time.
    pub vram_peak: AtomicU64,
    /// RAM standing in for VRAM, by backing.
    pub ram: [AtomicU64; MAX_BACKINGS],
    /// Bytes of model files whose page cache stands in for VRAM.
    pub page_cache: AtomicU64,
    /// Large allocations alive.
    pub allocations: AtomicU64,
    /// Bytes evicted from VRAM to RAM, since the start.
    pub moved_out: AtomicU64,
    /// Allocations the driver refused that succeeded after VRAM was freed or evicted for them.
    pub retries: AtomicU64,
    /// Allocations refused for want of VRAM and RAM.
    pub refused: AtomicU64,
    /// Bytes of weights copied into staging slots, outside of graphs.
    pub streamed: AtomicU64,
    /// Weights that a launch found in a staging slot, or on their way to it.
    pub slot_hits: AtomicU64,
    /// Those of them whose copy was not complete yet.
    pub slot_late: AtomicU64,
    /// Weights that a launch had to ask for.
    pub slot_misses: AtomicU64,
    /// Weights outside VRAM that a launch read in place.
    pub in_place: AtomicU64,
    /// Bytes of weights that captures have put copies of into their graphs, which make them at each of their launches.
    pub captured: AtomicU64,
    /// Copies of the program that were served from a staging slot.
    pub prefetched_copies: AtomicU64,
    /// Bytes of those.
    pub prefetched_bytes: AtomicU64,
    /// Bytes of weights that our own threads have uploaded.
    pub uploaded: AtomicU64,
    /// Experts that tokens were sent to, each counted once a layer, as far as was noted.
    pub expert_reads: AtomicU64,
    /// Those of them that were read in VRAM.
    pub expert_hits: AtomicU64,
    /// Experts that were copied to VRAM.
    pub expert_moves: AtomicU64,
    /// Bytes of those.
    pub expert_bytes: AtomicU64,
    /// Expert slots of a layer, in the layer that has the fewest.
    pub expert_slots: AtomicU64,
    /// Layers that have expert slots.
    pub expert_layers: AtomicU64,
    /// Experts of a layer.
    pub experts: AtomicU64,
    /// Launches over experts whose parameters were not what the rule says: they read in place.
    pub expert_unfit: AtomicU64,
}

/// The whole record.
#[repr(C)]
#[derive(Debug)]
pub struct Record {
    /// [`MAGIC`]; written last.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// The process that writes; a forked child that inherited the fd is not it.
    pub pid: AtomicU32,
    /// Entries of `devices` in use.
    pub devices_used: AtomicU32,
    /// How short of memory the machine is, as the kernel module says: an index into [`PRESSURE_NAMES`].
    pub pressure: AtomicU32,
    /// Name of the profile.
    pub profile: Text<32>,
    /// Interception layers that stand.
    pub layers: Text<48>,
    /// RAM backings by name, in the order of [`DeviceRecord::ram`].
    pub backings: [Text<24>; MAX_BACKINGS],
    /// Why the RAM backing in use was chosen, or why there is none.
    pub backing_reason: Text<240>,
    /// RAM the process may use in place of VRAM.
    pub ram_budget: AtomicU64,
    /// RAM reserved at this moment, all devices.
    pub ram_used: AtomicU64,
    /// Times RAM was refused because the machine was critically short of it.
    pub pressure_refused: AtomicU64,
    /// Kernel launches seen.
    pub launches: AtomicU64,
    /// Weight tensors known by name.
    pub tensors: AtomicU64,
    /// Bytes of model files that the GPU can read in the page cache; they cannot be dropped from it.
    pub file_bytes: AtomicU64,
    /// Model files that were changed while weights were read in them.
    pub files_changed: AtomicU64,
    /// How memory is placed: by tensor, or why not.
    pub placement: Text<96>,
    /// The devices.
    pub devices: [DeviceRecord; MAX_DEVICES],
    /// What was planned for the model, or why nothing was.
    pub plan: Text<192>,
    /// Calls of the program that went to the driver as they were, by reason: [`BYPASS_NAMES`].
    pub bypasses: [AtomicU64; BYPASS_NAMES.len()],
    /// What patches functions.
    pub engine: Text<16>,
    /// A second driver of this process, whose calls are not caught; empty without one.
    pub other_driver: Text<160>,
    /// What became of keeping experts in VRAM; empty where it was not asked for.
    pub experts: Text<160>,
}

const _: () = assert!(size_of::<DeviceRecord>() == 48 + 33 * 8);
const _: () = assert!(
    size_of::<Record>()
        == 24
            + 32
            + 48
            + 4 * 24
            + 240
            + 7 * 8
            + 96
            + MAX_DEVICES * size_of::<DeviceRecord>()
            + 192
            + 9 * 8
            + 16
            + 160
            + 160
);

impl Record {
    /// The word for how short of memory the machine is; empty where the process does not listen.
    pub fn pressure(&self) -> &'static str {
        PRESSURE_NAMES.get(self.pressure.load(Relaxed) as usize).copied().unwrap_or_default()
    }
}

/// What may not happen to a record any more.
pub(super) const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// A mapped record; unmapped when dropped.
#[derive(Debug)]
pub struct Mapped {
    at: NonNull<Record>,
    _fd: Option<OwnedFd>,
}

// SAFETY: the record consists of atomics only; the mapping belongs to this value until it is dropped.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl std::ops::Deref for Mapped {
    type Target = Record;
    fn deref(&self) -> &Record {
        // SAFETY: `at` is a live mapping of at least the size of a Record, and every bit pattern is valid.
        unsafe { self.at.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size and nobody else unmaps it.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<Record>()) };
    }
}

impl Mapped {
    /// Creates this process's record. The memfd is closed on exec, and keeps its size: nobody who reads it can fault.
    ///
    /// # Errors
    /// The error of `memfd_create`, `ftruncate`, `fcntl` or `mmap`.
    pub fn create() -> io::Result<Self> {
        // SAFETY: the name is a C string literal; the result is checked.
        let fd =
            unsafe { libc::memfd_create(c"greenboost-status".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: memfd_create returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on our own descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size_of::<Record>() as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut record = Self::map(&fd, libc::PROT_READ | libc::PROT_WRITE)?;
        record.version.store(VERSION, Relaxed);
        record.pid.store(std::process::id(), Relaxed);
        record.magic.store(MAGIC, Relaxed);
        record._fd = Some(fd);
        Ok(record)
    }

    pub(super) fn map(fd: &impl AsRawFd, protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping of a file that is at least this long (checked by the callers).
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), size_of::<Record>(), protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        match NonNull::new(at.cast::<Record>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { at, _fd: None }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
