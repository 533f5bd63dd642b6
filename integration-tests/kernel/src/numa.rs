//! Two nodes of memory: a program gets only what it may use. The second node is small, and has no processor.

use crate::machine::{CGROUP, Marks, eventually, oom_kills, set, value};
use crate::mapping::{device, words};
use crate::process::Child;
use crate::test::Test;
use greenboost_kmod::{Access, Buffer, CHUNK, Error, Mapping, Request};
use std::collections::BTreeSet;
use std::fs;

pub const TESTS: &[Test] = &[
    ("numa: a buffer of one node lies there, from the reserve too", one_node),
    ("numa: a cpuset holds, for fresh pages and for the reserve's", cpuset),
    ("numa: who wants more than its cpuset has is refused, and nobody is killed", more_than_the_cpuset),
];

const C: u64 = CHUNK as u64;

/// The nodes that a buffer's chunks lie on.
fn nodes(buffer: &Buffer) -> BTreeSet<i32> {
    let mapping: Mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    let at: Vec<*const u8> = words(&mapping).chunks(CHUNK / 8).map(|chunk| chunk.as_ptr().cast()).collect();
    let mut nodes = vec![-1i32; at.len()];
    // Present, or the kernel has nothing to say of them.
    words(&mapping).chunks_mut(CHUNK / 8).for_each(|chunk| chunk[0] = 1);
    // SAFETY: arrays of this many addresses and answers; without wanted nodes nothing is moved.
    let done = unsafe {
        libc::syscall(libc::SYS_move_pages, 0, at.len(), at.as_ptr(), std::ptr::null::<i32>(), nodes.as_mut_ptr(), 0)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    nodes.into_iter().collect()
}

/// Runs something where only the second node may be used.
fn in_cpuset(body: impl FnOnce()) {
    let group = format!("{CGROUP}/second");
    fs::create_dir(&group).expect("a cgroup");
    fs::write(format!("{group}/cpuset.mems"), "1").expect("its nodes");
    let child = Child::run(|_| {
        fs::write(format!("{group}/cgroup.procs"), "0").expect("joining");
        body();
    });
    let well = child.ended_well();
    eventually("the cgroup is empty", || fs::remove_dir(&group).is_ok());
    assert!(well, "the process in the cpuset failed");
}

fn fill(chunks: u64) {
    set("reserve_bytes", chunks * C);
    eventually("the reserve is full", || value("reserve_ready_bytes") == chunks * C);
}

fn one_node() {
    let device = device();
    for node in [0, 1] {
        let request = Request { node: Some(node), ..Request::new(4 * C) };
        assert_eq!(nodes(&device.alloc(&request).expect("memory")), BTreeSet::from([node as i32]));
    }
    fill(8);
    let buffer = device.alloc(&Request { node: Some(1), ..Request::new(6 * C) }).expect("memory");
    // The nodes have taken turns; and what is taken is being made up for already.
    assert!(buffer.ready_bytes() >= 4 * C, "{} chunks were ready", buffer.ready_bytes() / C);
    assert_eq!(nodes(&buffer), BTreeSet::from([1]));
    drop(buffer);
    set("reserve_bytes", 0);
}

fn cpuset() {
    fill(16);
    in_cpuset(|| {
        let device = device();
        let buffer = device.alloc(&Request::new(32 * C)).expect("memory");
        assert!(buffer.ready_bytes() >= 8 * C, "{} chunks were ready", buffer.ready_bytes() / C);
        assert_eq!(nodes(&buffer), BTreeSet::from([1]));
        let refused = device.alloc(&Request { node: Some(0), ..Request::new(C) }).expect_err("not its node");
        assert_eq!(refused.errno(), Some(libc::EINVAL));
    });
    set("reserve_bytes", 0);
}

fn more_than_the_cpuset() {
    let _marks = Marks::new(2 << 20, 1 << 20);
    let before = oom_kills();
    in_cpuset(|| {
        let refused = device().alloc(&Request::new(640 << 20)).expect_err("the node has 512 MiB");
        assert!(matches!(refused, Error::NoMemory | Error::PoolFull), "{refused}");
    });
    assert_eq!((oom_kills(), value("pool_used_bytes")), (before, 0));
}
