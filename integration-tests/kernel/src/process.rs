//! Other processes, all of them forks of this one.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// A fork of this process; killed when dropped.
pub struct Child {
    pid: i32,
    line: UnixStream,
    ended: bool,
}

/// The child's end of the line to its parent.
pub struct Parent(UnixStream);

impl Parent {
    /// Tells the parent that a point is reached.
    pub fn reached(&mut self) {
        self.0.write_all(b"r").expect("the parent listens");
    }

    /// Waits until the parent says so.
    pub fn wait(&mut self) {
        self.0.read_exact(&mut [0]).expect("the parent says so");
    }

    /// Sends a descriptor.
    pub fn send(&self, fd: i32) {
        send_fd(&self.0, fd);
    }
}

impl Child {
    /// Forks; the closure runs in the child, whose exit tells whether it panicked.
    pub fn run(body: impl FnOnce(&mut Parent)) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        // SAFETY: the tests have one thread at this point, so the child may do what it likes.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            drop(ours);
            let mut parent = Parent(theirs);
            let ok = catch_unwind(AssertUnwindSafe(|| body(&mut parent))).is_ok();
            // SAFETY: the end of the process, without the parent's destructors.
            unsafe { libc::_exit(i32::from(!ok)) };
        }
        Self { pid, line: ours, ended: false }
    }

    /// Waits until the child says that a point is reached.
    #[track_caller]
    pub fn until_reached(&mut self) {
        self.line.read_exact(&mut [0]).expect("the child reaches the point");
    }

    /// Lets the child go on.
    pub fn go_on(&mut self) {
        self.line.write_all(b"g").expect("the child listens");
    }

    /// Receives a descriptor.
    pub fn receive(&self) -> OwnedFd {
        receive_fd(&self.line)
    }

    /// Kills it and waits for its end, which must be of that.
    #[track_caller]
    pub fn kill(mut self) {
        let status = self.end(true);
        assert!(libc::WIFSIGNALED(status), "it ended by itself, with {}", libc::WEXITSTATUS(status));
        assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it ended well.
    pub fn ended_well(mut self) -> bool {
        self.end(false) == 0
    }

    fn end(&mut self, kill: bool) -> i32 {
        let mut status = 0;
        self.ended = true;
        // SAFETY: our own child, not yet waited for.
        unsafe {
            if kill {
                libc::kill(self.pid, libc::SIGKILL);
            }
            assert_eq!(libc::waitpid(self.pid, &raw mut status, 0), self.pid);
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.end(true);
        }
    }
}

/// A number that forks share with this process.
pub struct Count(*const AtomicU64);

impl Count {
    pub fn new() -> Self {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of zeroes.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page.cast())
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: mapped until this is dropped, and only ever used as an atomic number.
        unsafe { &*self.0 }
    }

    pub fn one_more(&self) {
        self.number().fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.number().load(Ordering::Relaxed)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.0.cast_mut().cast(), 4096) };
    }
}

/// Keeps a thread, or with 0 this one, to these processors.
pub fn bind(pid: i32, processors: &[usize]) {
    // SAFETY: a set of bits, for which zeroes are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &processor in processors {
        // SAFETY: one of the first bits of the set.
        unsafe { libc::CPU_SET(processor, &mut set) };
    }
    // SAFETY: a set with its size.
    assert_eq!(unsafe { libc::sched_setaffinity(pid, size_of_val(&set), &raw const set) }, 0, "bound");
}

/// Lets no ordinary thread run where this one does.
pub fn run_before_all() {
    let first = libc::sched_param { sched_priority: 50 };
    // SAFETY: a struct that lives through the call.
    assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) }, 0, "before all");
}

/// Runs something in a fork and expects it to succeed.
#[track_caller]
pub fn elsewhere(body: impl FnOnce()) {
    assert!(Child::run(|_| body()).ended_well(), "the other process failed");
}

/// Runs something as another user and group, without privileges.
#[track_caller]
pub fn as_user(uid: u32, gid: u32, body: impl FnOnce()) {
    elsewhere(|| {
        become_user(uid, gid);
        body();
    });
}

/// Turns this process into another user's.
pub fn become_user(uid: u32, gid: u32) {
    // SAFETY: no memory involved.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) == 0 && libc::setgid(gid) == 0 && libc::setuid(uid) == 0 };
    assert!(done, "becoming user {uid}");
}

#[repr(C, align(8))]
struct Control([u8; 64]);

fn message(data: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a plain C struct, for which zeroes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL;
    message
}

// SAFETY: arithmetic only.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(4) } as usize;

fn send_fd(line: &UnixStream, fd: i32) {
    let (mut byte, mut control) = (0u8, Control([0; 64]));
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let message = message(&mut data, &mut control);
    // SAFETY: the control buffer has room for one header with one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd);
        assert_eq!(libc::sendmsg(line.as_raw_fd(), &raw const message, 0), 1);
    }
}

fn receive_fd(line: &UnixStream) -> OwnedFd {
    let (mut byte, mut control) = (0u8, Control([0; 64]));
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = message(&mut data, &mut control);
    // SAFETY: as above; the descriptor received is new and ours.
    unsafe {
        assert_eq!(libc::recvmsg(line.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC), 1);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "a descriptor came");
        OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}
