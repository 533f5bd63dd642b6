//! The simulated machine as both libraries see it: its boards, and how much of their memory is in use.
//!
//! The NVML library compiles this very file, so a board has one description. What a process uses is only
//! visible to others when `SIMGPU_SHM` names a file: every process owns one entry of it, and the entries of
//! processes that died do not count, so nothing remains of a killed test.

use std::ffi::CString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most boards a simulated machine has.
pub const MAX_BOARDS: usize = 16;
const ENTRIES: usize = 64;

/// One simulated board.
pub struct Board {
    /// Bytes of VRAM.
    pub vram: u64,
    /// Position in the machine, which is also its PCI bus number minus one.
    pub index: usize,
}

impl Board {
    /// The board's UUID: the same in every process of a simulated machine.
    pub fn uuid(&self) -> [u8; 16] {
        let mut bytes = *b"SIMGPU-simgpu-00";
        bytes[15] += self.index as u8;
        bytes
    }

    /// The UUID as `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub fn uuid_text(&self) -> String {
        let hex: String = self.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// PCI bus id in the short form the CUDA driver prints.
    pub fn pci_text(&self) -> String {
        format!("0000:{:02X}:00.0", self.index + 1)
    }

    /// The marketing name.
    pub fn name(&self) -> &'static str {
        "NVIDIA Simulated GPU"
    }
}

/// Reads `512MiB`, `4GiB`, `1g`, `65536`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let scale = match text[digits..].trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.checked_shl(scale)
}

/// Every board of the machine, before `CUDA_VISIBLE_DEVICES` hides some from a CUDA program.
pub fn boards() -> &'static [Board] {
    static BOARDS: OnceLock<Vec<Board>> = OnceLock::new();
    BOARDS.get_or_init(|| {
        let count = std::env::var("SIMGPU_DEVICES").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1usize);
        let text = std::env::var("SIMGPU_VRAM").unwrap_or_default();
        let sizes: Vec<u64> = text.split(',').filter_map(parse_size).collect();
        (0..count.min(MAX_BOARDS))
            .map(|index| Board { vram: sizes.get(index).or(sizes.last()).copied().unwrap_or(1 << 30), index })
            .collect()
    })
}

/// What one process uses of every board.
#[repr(C)]
pub struct Entry {
    /// The process, 0 while the entry is free.
    pub pid: AtomicU64,
    /// Bytes in use, by board.
    pub used: [AtomicU64; MAX_BOARDS],
}

impl Entry {
    const fn new() -> Entry {
        Entry { pid: AtomicU64::new(0), used: [const { AtomicU64::new(0) }; MAX_BOARDS] }
    }

    fn alive(&self) -> bool {
        let pid = self.pid.load(Ordering::Acquire);
        // SAFETY: signal 0 only asks whether the process exists.
        let answered = pid != 0 && unsafe { libc::kill(pid as libc::pid_t, 0) } == 0;
        // Another user's process exists too.
        answered || pid != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    }
}

/// The machine's usage, shared with other processes when `SIMGPU_SHM` is set.
pub struct Usage {
    entries: &'static [Entry],
    file: Option<i32>,
}

static PRIVATE: [Entry; 1] = [Entry::new()];

impl Usage {
    /// Opens the shared file, or falls back to figures of this process alone.
    pub fn open() -> Usage {
        Usage::open_shared().unwrap_or(Usage { entries: &PRIVATE, file: None })
    }

    fn open_shared() -> Option<Usage> {
        let path = CString::new(std::env::var("SIMGPU_SHM").ok().filter(|path| !path.is_empty())?).ok()?;
        let bytes = ENTRIES * size_of::<Entry>();
        // SAFETY: plain system calls on a path we own; the mapping is never unmapped, and its content is
        // atomics for which every bit pattern, all zeroes first, is valid.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o666);
            if file < 0 || libc::ftruncate(file, bytes as i64) != 0 {
                return None;
            }
            let at =
                libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0);
            if at == libc::MAP_FAILED {
                return None;
            }
            Some(Usage { entries: std::slice::from_raw_parts(at.cast::<Entry>(), ENTRIES), file: Some(file) })
        }
    }

    /// Takes an entry for this process.
    pub fn join(&self) -> &'static Entry {
        let pid = std::process::id() as u64;
        let _guard = self.lock();
        let entry = self.entries.iter().find(|entry| !entry.alive() || entry.pid.load(Ordering::Acquire) == pid);
        let entry = entry.unwrap_or(&PRIVATE[0]);
        for used in &entry.used {
            used.store(0, Ordering::Release);
        }
        entry.pid.store(pid, Ordering::Release);
        entry
    }

    /// Bytes of a board in use, over all living processes.
    pub fn used(&self, board: usize) -> u64 {
        self.processes(board).map(|(_, used)| used).sum()
    }

    /// The living processes and what each uses of a board.
    pub fn processes(&self, board: usize) -> impl Iterator<Item = (u64, u64)> {
        self.entries
            .iter()
            .filter(|entry| entry.alive())
            .map(move |entry| (entry.pid.load(Ordering::Acquire), entry.used[board].load(Ordering::Acquire)))
    }

    /// Takes the machine-wide lock: check-then-reserve must be one step, also between processes.
    pub fn lock(&self) -> Lock {
        static LOCAL: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let local = LOCAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(file) = self.file {
            // SAFETY: the descriptor stays open for the life of the process.
            unsafe { libc::flock(file, libc::LOCK_EX) };
        }
        Lock { _local: local, file: self.file }
    }
}

/// Holds the machine-wide lock.
pub struct Lock {
    _local: std::sync::MutexGuard<'static, ()>,
    file: Option<i32>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // SAFETY: as in `Usage::lock`.
            unsafe { libc::flock(file, libc::LOCK_UN) };
        }
    }
}
