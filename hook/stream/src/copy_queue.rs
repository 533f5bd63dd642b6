//! A copy queue: staging slots, the one stream that copies weights into them, and what keeps copies and readers apart.
//!
//! There is one queue for what is launched directly, and one of its own for each capture in progress, whose copies and
//! waits become the graph's. Both use the same VRAM; [`super::engine`] sees to it that they take turns.
//!
//! Why no kernel ever reads a wrong byte:
//!
//! * a launch that reads a staging slot waits for the copy that filled it;
//! * the copies of a queue are in one stream, so they follow each other;
//! * a copy waits for an event after the last reader of every staging slot that it overwrites.
//!
//! That event is recorded on the reader's stream when the stream moves on to another weight, not at each launch: until
//! then the stream has the staging slot *open*.

use super::copies::{Copies, Copy, Means, Ordered};
use super::history::History;
use super::index::{Index, Weight};
use super::linear;
use super::ring::{Key, Ring};
use greenboost_cuda::abi::{CUdeviceptr, CUevent, CUstream, Status, has_name};
use greenboost_cuda::event::{self as events, Events};
use greenboost_intercept::failpoint::{self, Fault};
use std::sync::atomic::Ordering::Relaxed;

/// How far ahead of the launches copies are considered at most.
const FARTHEST: usize = 64;

/// See the module.
pub struct CopyQueue {
    copy_stream: CUstream,
    ring: Ring,
    copies: Copies,
    /// The weights that each stream's launches since its last event have read.
    open: Vec<(CUstream, Vec<Key>)>,
    /// What the next copy has to wait for.
    before_next: Vec<CUevent>,
    history: History,
    ordered: Ordered,
    in_capture: bool,
    /// Bytes copied by this queue.
    copied: u64,
}

impl CopyQueue {
    /// A queue over `capacity` bytes of staging slots. In a capture, what was written before it is complete for all of it;
    /// outside, the first launch that reads a weight says so.
    pub fn new(copy_stream: CUstream, capacity: u64, in_capture: bool) -> Self {
        Self {
            copy_stream,
            ring: Ring::new(capacity),
            copies: Copies::default(),
            open: Vec::new(),
            before_next: Vec::new(),
            history: History::default(),
            ordered: Ordered::new(in_capture),
            in_capture,
            copied: 0,
        }
    }

    /// The stream that copies.
    pub fn copy_stream(&self) -> CUstream {
        self.copy_stream
    }

    /// Bytes that it has copied; in a capture, those that each launch of the graph will.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// The address of a weight's copy, complete for what `stream` does next. `None` when there is no room for it
    /// beside the weights in `busy`, which the same launch reads.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn slot(
        &mut self,
        means: &mut Means<'_>,
        weight: &Weight,
        stream: CUstream,
        busy: &[Key],
    ) -> Result<Option<CUdeviceptr>, Status> {
        let key = weight.at;
        let in_capture = self.in_capture;
        if let Some(copy) = self.copies.get_mut(&key) {
            means.record.slot_hits.fetch_add(1, Relaxed);
            return copy.hand_to(means, key, stream, !in_capture).map(Some);
        }
        let behind = (!self.ordered.is(key)).then_some(stream);
        if !self.copy_in(means, weight, behind, |_, other| !busy.contains(&other))? {
            return Ok(None);
        }
        means.record.slot_misses.fetch_add(1, Relaxed);
        self.copies.get_mut(&key).map(|copy| copy.hand_to(means, key, stream, false)).transpose()
    }

    /// The address of a weight's copy that is there, and complete without waiting for it.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn slot_left(
        &mut self,
        means: &mut Means<'_>,
        key: Key,
        stream: CUstream,
    ) -> Result<Option<CUdeviceptr>, Status> {
        let Some(copy) = self.copies.get_mut(&key) else { return Ok(None) };
        if !copy.seen_by.contains(&stream) && !events::is_done(means.driver, copy.ready) {
            return Ok(None);
        }
        means.record.slot_hits.fetch_add(1, Relaxed);
        copy.hand_to(means, key, stream, true).map(Some)
    }

    /// Copies a weight into a staging slot, after the work submitted so far to the stream that is given, if one is. False
    /// when there is no place.
    fn copy_in(
        &mut self,
        means: &mut Means<'_>,
        weight: &Weight,
        behind: Option<CUstream>,
        may_go: impl Fn(&Self, Key) -> bool,
    ) -> Result<bool, Status> {
        if means.memory.files.is_out(weight.at) {
            return Ok(false);
        }
        let mut ring = std::mem::take(&mut self.ring);
        let place = ring.take(weight.at, weight.copied, |other| may_go(self, other));
        self.ring = ring;
        let Some(place) = place else { return Ok(false) };
        for evicted in place.evicted {
            self.close(means, evicted)?;
        }
        if let Some(stream) = behind {
            self.before_next.push(means.events.behind(means.driver, stream)?);
        }
        for event in self.before_next.drain(..) {
            if !failpoint::is(Fault::MissingReaders) {
                events::wait(means.driver, self.copy_stream, event)?;
            }
            means.events.give(event);
        }
        means.trace(|trace, driver| trace.copy_begins(driver));
        let to = means.base + place.offset;
        let over_the_link = match means.experts {
            Some(experts) => experts.copy(weight, self.copy_stream, to)?,
            None => {
                linear::copy(means.memory, self.copy_stream, weight.at, to, weight.copied)?;
                weight.copied
            }
        };
        means.trace(|trace, driver| trace.copied(driver, weight, place.offset));
        let ready = means.events.behind(means.driver, self.copy_stream)?;
        let copy = Copy { offset: place.offset, ready, seen_by: vec![], readers: vec![], was_read: false };
        self.copies.insert(weight.at, copy);
        self.ordered.set(weight.at, true);
        self.copied += weight.copied;
        if !self.in_capture {
            means.record.streamed.fetch_add(over_the_link, Relaxed);
        }
        Ok(true)
    }

    /// Gives up a copy: the next one made waits for its readers.
    fn close(&mut self, means: &mut Means<'_>, key: Key) -> Result<(), Status> {
        for at in 0..self.open.len() {
            let (stream, keys) = &mut self.open[at];
            if keys.contains(&key) {
                keys.retain(|open| *open != key);
                let event = means.events.behind(means.driver, *stream)?;
                self.before_next.push(event);
            }
        }
        if let Some(copy) = self.copies.remove(&key) {
            self.before_next.extend(copy.readers.into_iter().map(|(_, event)| event));
            means.events.give(copy.ready);
        }
        Ok(())
    }

    /// A launch on `stream` that reads the staging slots of `keys` is about to be issued: what else the stream has open
    /// was read by launches before it.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn move_on(&mut self, means: &mut Means<'_>, stream: CUstream, keys: &[Key]) -> Result<(), Status> {
        let Some((_, open)) = self.open.iter_mut().find(|(known, _)| *known == stream) else { return Ok(()) };
        if open.iter().all(|key| keys.contains(key)) {
            return Ok(());
        }
        let left: Vec<_> = open.extract_if(.., |key| !keys.contains(key)).collect();
        for key in left {
            self.read_by(means, key, stream)?;
        }
        Ok(())
    }

    /// Notes that everything on `stream` so far may have read a copy.
    fn read_by(&mut self, means: &mut Means<'_>, key: Key, stream: CUstream) -> Result<(), Status> {
        let Some(copy) = self.copies.get_mut(&key) else { return Ok(()) };
        let name = if has_name(stream) { stream } else { std::ptr::null_mut() };
        match copy.readers.iter().find(|(reader, _)| *reader == name) {
            Some((_, event)) => {
                if name.is_null() {
                    // Streams without a name share one event: it stays behind the other readers, too.
                    events::wait(means.driver, stream, *event)?;
                }
                events::record(means.driver, *event, stream)
            }
            None => {
                copy.readers.push((name, means.events.behind(means.driver, stream)?));
                Ok(())
            }
        }
    }

    /// The launch has been issued. With `at_once`, the stream keeps nothing open; of those in `found` nothing is learnt.
    /// Whether it read another weight than the launch before.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn launched(
        &mut self,
        means: &mut Means<'_>,
        stream: CUstream,
        keys: &[Key],
        found: &[Key],
        at_once: bool,
    ) -> Result<bool, Status> {
        let is_new = keys.iter().filter(|key| !found.contains(key) && self.history.used(**key)).count() > 0;
        if at_once {
            keys.iter().try_for_each(|key| self.read_by(means, *key, stream))?;
            return Ok(is_new);
        }
        let at = self.open.iter().position(|(known, _)| *known == stream).unwrap_or_else(|| {
            self.open.push((stream, Vec::new()));
            self.open.len() - 1
        });
        let open = &mut self.open[at].1;
        for key in keys {
            if !open.contains(key) {
                open.push(*key);
            }
        }
        Ok(is_new)
    }

    /// Copies what is expected next, as far as staging slots can be given up: one guess does not take what was copied for
    /// another, nor what the last launch on `stream` reads, or the copy would only begin when that has ended.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn copy_ahead(&mut self, means: &mut Means<'_>, index: &Index, stream: CUstream) -> Result<(), Status> {
        if self.copies.len() == index.len() {
            return Ok(());
        }
        let expected: Vec<_> = self.history.ahead().take(FARTHEST).collect();
        for (at, key) in expected.iter().enumerate() {
            if self.copies.contains_key(key) {
                continue;
            }
            let Some(weight) = index.find(*key).filter(|weight| weight.at == *key) else { break };
            let nearer = &expected[..at];
            let may_go = |queue: &Self, other: Key| {
                queue.copies.get(&other).is_none_or(|copy| copy.was_read)
                    && !nearer.contains(&other)
                    && queue.open.iter().all(|(by, keys)| *by != stream || !keys.contains(&other))
            };
            if !self.ordered.is(*key) || !self.copy_in(means, weight, None, may_go)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives up the copies of all weights that `gone` says, because they are written, or no more.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn drop_copies(&mut self, means: &mut Means<'_>, gone: impl Fn(Key) -> bool) -> Result<(), Status> {
        let keys: Vec<_> = self.copies.keys().copied().filter(|key| gone(*key)).collect();
        for key in keys {
            self.close(means, key)?;
            self.ring.remove(key);
        }
        Ok(())
    }

    /// The next copy of a weight must come after what was submitted before the launch that wants it.
    pub fn written(&mut self, key: Key) {
        self.ordered.set(key, false);
    }

    /// Anything may have been written.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn all_written(&mut self, means: &mut Means<'_>) -> Result<(), Status> {
        self.ordered = Ordered::new(false);
        self.drop_copies(means, |_| true)
    }

    /// Weights are gone: nothing more is known of them.
    pub fn forget(&mut self, gone: impl Fn(Key) -> bool) {
        self.ordered.forget(&gone);
        self.history.forget(gone);
    }

    /// Records what streams have open. With a stream: only for that one, which is going away, and a new one may get
    /// its name.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn settle(&mut self, means: &mut Means<'_>, only: Option<CUstream>) -> Result<(), Status> {
        let streams: Vec<_> = self.open.iter().map(|(stream, _)| *stream).collect();
        for stream in streams.into_iter().filter(|stream| only.is_none_or(|only| only == *stream)) {
            self.move_on(means, stream, &[])?;
        }
        if let Some(gone) = only {
            self.open.retain(|(stream, _)| *stream != gone);
            for copy in self.copies.values_mut() {
                copy.seen_by.retain(|stream| *stream != gone);
                // Its event is good without it, but must not be taken for one of the next of that name.
                copy.readers
                    .iter_mut()
                    .filter(|(stream, _)| *stream == gone)
                    .for_each(|it| it.0 = std::ptr::null_mut());
            }
        }
        Ok(())
    }

    /// The staging slots are others, `capacity` bytes of them, and nothing has been copied into them.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn start_over(&mut self, means: &mut Means<'_>, capacity: u64) -> Result<(), Status> {
        self.drop_copies(means, |_| true)?;
        self.ring = Ring::new(capacity);
        Ok(())
    }

    /// Leaves the staging slots to what is submitted to `stream` next: it waits for all copies and readers, and the ring
    /// is empty.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn hand_over(&mut self, means: &mut Means<'_>, stream: CUstream) -> Result<(), Status> {
        self.drop_copies(means, |_| true)?;
        self.before_next.push(means.events.behind(means.driver, self.copy_stream)?);
        for event in self.before_next.drain(..) {
            events::wait(means.driver, stream, event)?;
            means.events.give(event);
        }
        Ok(())
    }

    /// Takes the staging slots back after what has been submitted to `stream`.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn take_back(&mut self, means: &mut Means<'_>, stream: CUstream) -> Result<(), Status> {
        self.before_next.push(means.events.behind(means.driver, stream)?);
        Ok(())
    }

    /// The same where the stream is of another context, with an event of its own.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn take_back_from_elsewhere(&mut self, means: &Means<'_>, stream: CUstream) -> Result<(), Status> {
        let event = events::untimed_after(means.driver, stream)?;
        let waits = events::wait(means.driver, self.copy_stream, event);
        events::destroy(means.driver, event);
        waits
    }

    /// What is submitted to `stream` next follows all copies made so far.
    ///
    /// # Errors
    /// The driver's status; the queue must not be used any more.
    pub fn join(&mut self, means: &mut Means<'_>, stream: CUstream) -> Result<(), Status> {
        let tail = means.events.behind(means.driver, self.copy_stream)?;
        events::wait(means.driver, stream, tail)?;
        means.events.give(tail);
        Ok(())
    }

    /// The end of a queue: its events are free again.
    pub fn end(self, events: &mut Events) {
        for copy in self.copies.into_values() {
            events.give(copy.ready);
            copy.readers.into_iter().for_each(|(_, event)| events.give(event));
        }
        self.before_next.into_iter().for_each(|event| events.give(event));
    }
}
