//! What `/proc/self/maps` says about the protection of pages.
//!
//! It is read while the loader stands still, since what an address is protected for means nothing once another
//! object may be there. So all memory for it is had before.

use std::cell::RefCell;
use std::ops::Range;

/// Room for a snapshot, and the snapshot once it was taken.
#[derive(Debug)]
pub struct Maps {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    text: Vec<u8>,
    lines: Vec<(Range<usize>, i32)>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Taken,
    /// The room was too small; nothing is known.
    TooSmall,
}

/// Shortest line of the file: two addresses, rights, offset, device, inode.
const SHORTEST: usize = 40;

impl Maps {
    /// Room for `bytes` of text.
    pub fn with_room(bytes: usize) -> Self {
        let (text, lines) = (vec![0; bytes], Vec::with_capacity(bytes / SHORTEST));
        Self { inner: RefCell::new(Inner { text, lines, state: State::Empty }) }
    }

    /// Room for twice as much.
    pub fn with_more_room(&self) -> Self {
        Self::with_room(self.inner.borrow().text.len() * 2)
    }

    /// Takes the snapshot unless that was done. Does not allocate. `false`: there was not room enough.
    pub fn take(&self) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        if inner.state == State::Empty {
            inner.state = match read(&mut inner.text) {
                Some(length) => inner.parse(length),
                None => State::TooSmall,
            };
        }
        inner.state == State::Taken
    }

    /// The protection of the page an address is on.
    pub fn protection(&self, address: usize) -> Option<i32> {
        let lines = &self.inner.borrow().lines;
        let at = lines.partition_point(|(range, _)| range.end <= address);
        lines.get(at).filter(|(range, _)| range.contains(&address)).map(|(_, protection)| *protection)
    }

    /// Whether an address is code.
    pub fn executable(&self, address: usize) -> bool {
        self.protection(address).is_some_and(|protection| protection & libc::PROT_EXEC != 0)
    }

    /// Whether an address may be written.
    pub fn writable(&self, address: usize) -> bool {
        self.protection(address).is_some_and(|protection| protection & libc::PROT_WRITE != 0)
    }
}

impl Inner {
    fn parse(&mut self, length: usize) -> State {
        for line in self.text[..length].split(|byte| *byte == b'\n') {
            let Some(line) = parse_line(line) else { continue };
            if self.lines.len() == self.lines.capacity() {
                return State::TooSmall;
            }
            self.lines.push(line);
        }
        State::Taken
    }
}

fn parse_line(line: &[u8]) -> Option<(Range<usize>, i32)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (range, rights) = (std::str::from_utf8(words.next()?).ok()?, words.next()?);
    let (start, end) = range.split_once('-')?;
    let flags = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
    let protection = flags.iter().filter(|(letter, _)| rights.contains(letter)).map(|(_, flag)| flag).sum();
    Some((usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?, protection))
}

/// The whole file; `None` if it is longer than the buffer. Where there is no /proc it is empty, and then nothing
/// counts as patchable.
fn read(buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: a C string; the descriptor is closed below.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut length = 0;
    while file >= 0 && length < buffer.len() {
        let rest = &mut buffer[length..];
        // SAFETY: writes into the rest of the buffer.
        let count = unsafe { libc::read(file, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(count) {
            Ok(0) | Err(_) => break,
            Ok(count) => length += count,
        }
    }
    // SAFETY: opened above; closing -1 only fails.
    unsafe { libc::close(file) };
    (length < buffer.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protections_are_read_and_nonsense_is_skipped() {
        let text = b"1000-2000 r-xp 0 00:00 0 /a b\nnonsense\n2000-3000 rw-p 00000000 00:00 0\n5000-6000 ---p 0 0 0\nzz-1 r--p";
        let mut inner = Inner { text: text.to_vec(), lines: Vec::with_capacity(8), state: State::Empty };
        inner.state = inner.parse(text.len());
        assert_eq!(inner.state, State::Taken);
        let maps = Maps { inner: RefCell::new(inner) };
        assert_eq!(maps.protection(0x1fff), Some(libc::PROT_READ | libc::PROT_EXEC));
        assert!(maps.executable(0x1000) && maps.writable(0x2000) && !maps.writable(0x1000));
        assert_eq!((maps.protection(0x3000), maps.protection(0x5000)), (None, Some(0)));
    }

    #[test]
    fn this_process_is_readable_and_small_room_is_noticed() {
        let mut maps = Maps::with_room(64);
        assert!(!maps.take());
        while !maps.take() {
            maps = maps.with_more_room();
        }
        assert!(maps.executable(read as *const () as usize));
        let local = 0u8;
        assert!(maps.writable((&raw const local) as usize));
    }
}
