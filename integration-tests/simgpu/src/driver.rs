//! The driver as a whole: initialisation, version, and death by fork.

use crate::device::{Device, usage};
use crate::env::options;
use crate::errors::{Error, Result};
use crate::world;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

static OWNER: AtomicI32 = AtomicI32::new(0);
static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();

/// Whether this is a child forked from a process that had initialised the driver: the driver is dead there.
pub fn forked() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    // SAFETY: getpid has no preconditions.
    owner != 0 && owner != unsafe { libc::getpid() }
}

/// Whether `cuInit` was called.
pub fn initialized() -> bool {
    OWNER.load(Ordering::Acquire) != 0
}

/// The devices the program sees, in its numbering.
pub fn devices() -> &'static [Device] {
    DEVICES.get().map_or(&[], Vec::as_slice)
}

/// A device by the program's ordinal.
pub fn device(ordinal: i32) -> Result<&'static Device> {
    usize::try_from(ordinal).ok().and_then(|ordinal| devices().get(ordinal)).ok_or(Error::INVALID_DEVICE)
}

/// Which boards the program sees, as `CUDA_VISIBLE_DEVICES` orders them: the list ends at the first bad entry.
fn visible() -> Vec<usize> {
    let boards = world::boards();
    let Some(list) = &options().visible else { return (0..boards.len()).collect() };
    let mut chosen = Vec::new();
    for item in list.split(',').map(str::trim) {
        let board = match item.parse::<usize>() {
            Ok(index) => Some(index).filter(|index| *index < boards.len()),
            Err(_) if item.is_empty() => None,
            Err(_) => boards.iter().position(|board| board.uuid_text().starts_with(item)),
        };
        match board {
            Some(board) if !chosen.contains(&board) => chosen.push(board),
            _ => break,
        }
    }
    chosen
}

/// Makes the devices, and the driver this process's.
pub fn initialize() -> Result {
    let boards = visible();
    if boards.is_empty() {
        return Err(Error::NO_DEVICE);
    }
    DEVICES.get_or_init(|| {
        let entry = usage().join();
        boards.iter().enumerate().map(|(ordinal, board)| Device::new(ordinal, *board, entry)).collect()
    });
    // SAFETY: getpid has no preconditions.
    OWNER.store(unsafe { libc::getpid() }, Ordering::Release);
    Ok(())
}
