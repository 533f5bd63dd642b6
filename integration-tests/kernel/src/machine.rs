//! The machine: what an init has to do, the module's files, and waiting for things.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the spill filesystem is mounted.
pub const SPILL: &str = "/spill";
/// Where the cgroup hierarchy is mounted.
pub const CGROUP: &str = "/cgroup";
const SYSFS: &str = "/sys/class/misc/greenboost";

/// Mounts what programs expect, and gives the kernel's console to stdout.
pub fn set_up() {
    mount("devtmpfs", "/dev", "devtmpfs");
    mount("proc", "/proc", "proc");
    mount("sysfs", "/sys", "sysfs");
    mount("debugfs", "/sys/kernel/debug", "debugfs");
    mount("tmpfs", "/tmp", "tmpfs");
    mount("cgroup2", CGROUP, "cgroup2");
    fs::write(format!("{CGROUP}/cgroup.subtree_control"), "+memory +cpu +cpuset").expect("memory cgroups");
    if Path::new("/dev/nvme0n1").exists() {
        mount("/dev/nvme0n1", SPILL, "ext4");
    }
}

/// Mounts a filesystem; the folder is made.
pub fn mount(source: &str, target: &str, kind: &str) {
    let _ = fs::create_dir_all(target);
    // The kernel mounts devtmpfs by itself where it is told to.
    if let Err(error) = mounting(source, target, kind, 0) {
        assert!(error == libc::EBUSY, "mounting {target}: {error}");
    }
}

/// Has a mounted filesystem take no writes any more, or take them again.
pub fn remount(target: &str, read_only: bool) {
    let flags = libc::MS_REMOUNT | if read_only { libc::MS_RDONLY } else { 0 };
    mounting("none", target, "none", flags).unwrap_or_else(|error| panic!("mounting {target} again: {error}"));
}

fn mounting(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<(), i32> {
    let [source, target, kind] = [source, target, kind].map(|text| CString::new(text).expect("no zero bytes"));
    // SAFETY: three terminated strings, no options.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

/// Unmounts it, as soon as nobody is in it.
pub fn unmount(target: &str) {
    let path = CString::new(target).expect("no zero bytes");
    // SAFETY: a terminated string.
    eventually("it is unmounted", || unsafe { libc::umount(path.as_ptr()) } == 0);
}

/// A word `NAME=VALUE` of the kernel's command line.
pub fn option(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").expect("proc is mounted");
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(|value| value.replace('_', " ")))
}

/// Seconds since the kernel started.
pub fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("proc is mounted");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("seconds")
}

/// Ends the machine; QEMU runs with -no-reboot.
pub fn power_off() -> ! {
    // SAFETY: nothing to be sound about any more.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    unreachable!("the machine is off");
}

/// Makes the kernel panic, to see whether the host notices.
pub fn panic_kernel() {
    fs::write("/proc/sysrq-trigger", "c").expect("sysrq");
}

/// Holds memory for ever, to see whether the leak check notices.
pub fn leak() {
    let device = greenboost_kmod::Device::open().expect("the device");
    std::mem::forget(device.alloc(&greenboost_kmod::Request::new(1)).expect("a chunk"));
}

/// Loads a module of the initramfs.
pub fn load(name: &str, parameters: &str) -> Result<(), i32> {
    let image = fs::read(format!("/{name}.ko")).expect("the module lies in the initramfs");
    let parameters = CString::new(parameters).expect("no zero bytes");
    // SAFETY: an image with its length, and a terminated string.
    let done = unsafe { libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), parameters.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

/// Unloads a module.
pub fn unload(name: &str) -> Result<(), i32> {
    let name = CString::new(name).expect("no zero bytes");
    // SAFETY: a terminated string.
    let done = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

/// The error number of the last call.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().expect("an error of the system")
}

/// A file of the module in sysfs, without the end of its line.
pub fn shown(name: &str) -> String {
    let text = fs::read_to_string(format!("{SYSFS}/{name}")).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.strip_suffix('\n').expect("a whole line").to_owned()
}

/// The same as a number.
pub fn value(name: &str) -> u64 {
    shown(name).parse().unwrap_or_else(|_| panic!("{name} is no number"))
}

/// Writes a file of the module in sysfs.
pub fn set(name: &str, to: impl ToString) {
    try_set(name, to).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// The same, where it may fail.
pub fn try_set(name: &str, to: impl ToString) -> std::io::Result<()> {
    fs::write(format!("{SYSFS}/{name}"), to.to_string())
}

/// A setting of the module, put back when dropped.
pub struct Setting(&'static str, String);

impl Setting {
    /// Changes it.
    pub fn new(name: &'static str, to: u64) -> Self {
        let before = shown(name);
        set(name, to);
        Self(name, before)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        set(self.0, &self.1);
    }
}

/// The marks of available RAM, put back when dropped. Critical is never above low, on the way neither.
pub struct Marks([u64; 2]);

impl Marks {
    /// Changes both.
    pub fn new(low: u64, critical: u64) -> Self {
        let before = ["low_mark_bytes", "critical_mark_bytes"].map(value);
        Self::change([low, critical]);
        Self(before)
    }

    fn change([low, critical]: [u64; 2]) {
        set("critical_mark_bytes", 0);
        set("low_mark_bytes", low);
        set("critical_mark_bytes", critical);
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        Self::change(self.0);
    }
}

/// How long `eventually` waits: the processor is emulated, on a machine that may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that should soon be so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Loads the module anew.
pub fn reload(parameters: &str) {
    eventually("nothing holds it", || unload("greenboost").is_ok());
    load("greenboost", parameters).expect("it loads");
}

/// Runs something while the watchdog sleeps, unless a setting wakes it. The module is loaded anew for it. Where it took too long, the watchdog was awake after all, and it is done again.
pub fn between_ticks(body: fn()) {
    for round in 1.. {
        let start = Instant::now();
        reload("watchdog_ms=10000");
        let done = std::panic::catch_unwind(body);
        let in_time = start.elapsed() < Duration::from_secs(9);
        reload("");
        match done {
            Ok(()) => return,
            Err(panic) if in_time || round == 5 => std::panic::resume_unwind(panic),
            Err(_) => println!("gb-round again, since it took longer than the watchdog sleeps"),
        }
    }
}

/// What must be so between two tests: no buffer, no open file, no byte, an ok level.
pub fn expect_nothing_left() {
    if !Path::new(SYSFS).exists() {
        return;
    }
    eventually("nothing is left in the pool", || value("pool_used_bytes") == 0);
    eventually("no buffer and no open file is left", || references() == 0);
    eventually("frees catch up with allocations", || value("frees") == value("allocations"));
    eventually("the level is ok", || shown("ram_level") == "ok");
}

/// Open files and buffers: what keeps the module from being unloaded.
pub fn references() -> u64 {
    let text = fs::read_to_string("/sys/module/greenboost/refcnt").expect("the module is loaded");
    text.trim().parse().expect("a number")
}

/// Drops what a failed test may have left, for the sake of the next one.
pub fn start_over() {
    if Path::new(SYSFS).exists() {
        set("reserve_bytes", 0);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A number of /proc/meminfo or /proc/vmstat.
pub fn counter(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("proc is mounted");
    let line = text.lines().find(|line| line.split([' ', ':']).next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("{file} has no {name}"))
}

/// Memory that is free, in bytes: also what each processor keeps at hand, tens of MiB that MemFree does not count.
pub fn free() -> u64 {
    let zones = fs::read_to_string("/proc/zoneinfo").expect("proc is mounted");
    let at_hand = zones.lines().filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse::<u64>().ok());
    counter("/proc/meminfo", "MemFree") * 1024 + at_hand.sum::<u64>() * 4096
}

/// How many processes the kernel has killed for want of memory.
pub fn oom_kills() -> u64 {
    counter("/proc/vmstat", "oom_kill")
}

/// The number at a name in the part of /proc/self/smaps that describes the mapping at an address, in bytes.
pub fn smaps(address: *const u8, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/smaps").expect("proc is mounted");
    let start = format!("{:x}-", address as usize);
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("smaps has no {name}"));
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("kilobytes") * 1024
}
