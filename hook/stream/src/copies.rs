//! A weight's copy, and what is known of its readers.

use super::experts::Experts;
use super::ring::Key;
use super::spread::Spread;
use super::trace::{Found, Trace};
use greenboost_contract::record::DeviceRecord;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdeviceptr, CUevent, CUstream, Status, has_name};
use greenboost_cuda::event::{self as events, Events};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_memory::Memory;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::atomic::Ordering::Relaxed;

/// What a queue works with.
pub struct Means<'a> {
    /// Where the boundaries between chunks are.
    pub memory: &'a Memory,
    /// The driver.
    pub driver: &'a Driver,
    /// What is counted.
    pub record: &'a DeviceRecord,
    /// First address of the staging slots.
    pub base: CUdeviceptr,
    /// Spare events.
    pub events: &'a mut Events,
    /// Experts that are in VRAM already, if they may be copied from there: not in a capture.
    pub experts: Option<&'a Experts>,
    /// What is to be traced, if anything; nothing in a capture.
    pub trace: Option<&'a mut Trace>,
}

impl Means<'_> {
    /// Tells the trace, if there is one.
    #[inline]
    pub fn trace(&mut self, tell: impl FnOnce(&mut Trace, &Driver)) {
        if let Some(trace) = self.trace.as_deref_mut() {
            tell(trace, self.driver);
        }
    }
}

/// A weight's copy.
pub struct Copy {
    /// Bytes from the first staging slot's address.
    pub offset: u64,
    /// Recorded after the copying.
    pub ready: CUevent,
    /// Streams that have waited for `ready`.
    pub seen_by: Vec<CUstream>,
    /// An event after the last reader of each stream that has moved on.
    pub readers: Vec<(CUstream, CUevent)>,
    /// Whether any launch did.
    pub was_read: bool,
}

impl Copy {
    /// Its address, complete for what `stream` does next. With `look`, it has been there before outside of a capture,
    /// and is counted when the stream has to wait.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn hand_to(
        &mut self,
        means: &mut Means<'_>,
        key: Key,
        stream: CUstream,
        look: bool,
    ) -> Result<CUdeviceptr, Status> {
        let mut found = if look { Found::There } else { Found::Missing };
        if !self.seen_by.contains(&stream) {
            if look && !events::is_done(means.driver, self.ready) {
                means.record.slot_late.fetch_add(1, Relaxed);
                found = Found::Late;
            }
            means.trace(|trace, driver| trace.waits(driver, stream));
            if !failpoint::is(Fault::MissingCopy) {
                events::wait(means.driver, stream, self.ready)?;
            }
            // Another time the same words may mean another stream.
            if has_name(stream) {
                self.seen_by.push(stream);
            }
        }
        self.was_read = true;
        means.trace(|trace, _| trace.reads(key, self.offset, found));
        Ok(means.base + self.offset)
    }
}

/// Whether a copy may be made without looking at the stream of the launch that wants it: what was written is complete
/// then for the copy stream as well.
pub struct Ordered {
    usually: bool,
    except: HashSet<Key>,
}

impl Ordered {
    /// All of them usually are, or none.
    pub fn new(usually: bool) -> Self {
        Self { usually, except: HashSet::new() }
    }

    /// Whether it is so for one.
    pub fn is(&self, key: Key) -> bool {
        self.usually != self.except.contains(&key)
    }

    /// Says it of one.
    pub fn set(&mut self, key: Key, ordered: bool) {
        if ordered == self.usually {
            self.except.remove(&key);
        } else {
            self.except.insert(key);
        }
    }

    /// Forgets the weights that are gone.
    pub fn forget(&mut self, gone: impl Fn(Key) -> bool) {
        self.except.retain(|key| !gone(*key));
    }
}

/// Copies by weight.
pub type Copies = HashMap<Key, Copy, BuildHasherDefault<Spread>>;
