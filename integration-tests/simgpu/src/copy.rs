//! Copies: what a copy may cross, when the host waits for it, and how its bytes move.

use crate::clock::Clock;
use crate::context::Context;
use crate::errors::{Error, Result};
use crate::gpu::{Gpu, Window};
use crate::va::{self, Origin};
use std::sync::Arc;
use std::time::Instant;

const PIECE: u64 = 4 << 20;

/// What the caller says an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Declared {
    /// A host pointer.
    Host,
    /// A device pointer: it must be known to the driver.
    Device,
    /// Either; the driver finds out.
    Any,
}

/// One end of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// First byte.
    pub address: u64,
    /// What the caller said.
    pub declared: Declared,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from slice to slice.
    pub slice: u64,
}

impl Place {
    /// A plain range.
    pub fn linear(address: u64, declared: Declared) -> Place {
        Place { address, declared, pitch: 0, slice: 0 }
    }
}

/// How much is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes in a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// Slices.
    pub depth: u64,
}

impl Shape {
    /// A plain range.
    pub fn linear(bytes: usize) -> Shape {
        Shape { width: bytes as u64, height: 1, depth: 1 }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.width.saturating_mul(self.height).saturating_mul(self.depth)
    }

    fn extent(&self, place: &Place) -> Result<u64> {
        let rows = (self.height - 1).checked_mul(place.pitch);
        let slices = (self.depth - 1).checked_mul(place.slice);
        let jumps_back = self.height > 1 && place.pitch < self.width;
        rows.zip(slices)
            .and_then(|(rows, slices)| rows.checked_add(slices)?.checked_add(self.width))
            .filter(|_| !jumps_back)
            .ok_or(Error::INVALID_VALUE)
    }
}

/// What memory a range is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Unknown to the driver.
    Pageable,
    /// Host memory the GPU reaches.
    Pinned,
    /// Memory of a device, at least in part.
    Device,
}

/// Finds out what a range is, and refuses one that leaves its allocation or crosses a boundary that the copy
/// engine does not cross: chunks of one reservation are one allocation, a registered range is one of its own.
pub fn classify(address: u64, len: u64, declared: Declared) -> Result<Kind> {
    let end = address.checked_add(len).ok_or(Error::INVALID_VALUE)?;
    let space = va::read();
    let Some(first) = space.find(address) else {
        let touches = space.within(address, len).next().is_some();
        let pageable = address != 0 && declared != Declared::Device && !touches;
        return if pageable { Ok(Kind::Pageable) } else { Err(Error::INVALID_VALUE) };
    };
    let Origin::Vmm(_) = first.origin else {
        let kind = if first.on_host() { Kind::Pinned } else { Kind::Device };
        return if end <= first.end() { Ok(kind) } else { Err(Error::INVALID_VALUE) };
    };
    let mut next = first.start;
    let mut on_host = true;
    for mapping in space.within(address, len) {
        if mapping.start != next || mapping.origin != first.origin {
            return Err(Error::INVALID_VALUE);
        }
        next = mapping.end();
        on_host &= mapping.on_host();
    }
    match (next >= end, on_host) {
        (false, _) => Err(Error::INVALID_VALUE),
        (true, true) => Ok(Kind::Pinned),
        (true, false) => Ok(Kind::Device),
    }
}

/// One end of a copy, ready to run.
#[derive(Clone)]
enum End {
    /// Host memory the driver does not know.
    Pageable(u64),
    /// Through the page table.
    Mapped(u64),
    /// A copy of the source, taken when the program called.
    Staged(Arc<Vec<u8>>),
}

/// A copy.
#[derive(Clone)]
pub struct Plan {
    /// As the program asked for it, for queries of graph nodes.
    pub request: (Place, Place, Shape),
    /// What the target and the source are.
    pub kinds: (Kind, Kind),
    to: End,
    from: End,
    from_place: Place,
}

impl Plan {
    /// Checks a copy and plans it, without staging.
    pub fn new(to: Place, from: Place, shape: Shape) -> Result<(Plan, Kind, Kind)> {
        let to_kind = classify(to.address, shape.extent(&to)?, to.declared)?;
        let from_kind = classify(from.address, shape.extent(&from)?, from.declared)?;
        let end = |kind, place: Place| match kind {
            Kind::Pageable => End::Pageable(place.address),
            _ => End::Mapped(place.address),
        };
        let plan = Plan {
            request: (to, from, shape),
            kinds: (to_kind, from_kind),
            to: end(to_kind, to),
            from: end(from_kind, from),
            from_place: from,
        };
        Ok((plan, to_kind, from_kind))
    }

    /// Whether a node of an executable graph may do this instead of an older copy: both in one dimension, between the
    /// same kinds of memory.
    pub fn may_replace(&self, old: &Plan) -> bool {
        let one_dimension = |plan: &Plan| plan.request.2.height == 1 && plan.request.2.depth == 1;
        self.request == old.request || self.kinds == old.kinds && one_dimension(self) && one_dimension(old)
    }

    /// Takes the source's bytes now.
    pub fn stage(&mut self, context: &Context) -> Result {
        let shape = self.request.2;
        let mut bytes = vec![0u8; shape.bytes() as usize];
        let packed =
            Place { address: 0, declared: Declared::Host, pitch: shape.width, slice: shape.width * shape.height };
        let target = End::Pageable(bytes.as_mut_ptr() as u64);
        // The host does this, in the program's own time.
        let clock = Clock::start(Instant::now());
        transfer(&Gpu::copies(context, &clock), (&target, packed), (&self.from, self.from_place), shape)?;
        self.from = End::Staged(Arc::new(bytes));
        self.from_place = packed;
        Ok(())
    }

    /// Moves the bytes.
    pub fn run(&self, context: &Context, clock: &Clock) -> Result {
        let gpu = Gpu::copies(context, clock);
        transfer(&gpu, (&self.to, self.request.0), (&self.from, self.from_place), self.request.2)
    }
}

fn transfer(gpu: &Gpu, to: (&End, Place), from: (&End, Place), shape: Shape) -> Result {
    let dense = |place: &Place| {
        (shape.height == 1 || place.pitch == shape.width)
            && (shape.depth == 1 || place.slice == shape.width * shape.height)
    };
    if dense(&to.1) && dense(&from.1) {
        return run(gpu, (to.0, 0), (from.0, 0), shape.bytes());
    }
    for slice in 0..shape.depth {
        for row in 0..shape.height {
            let offset = |place: &Place| slice * place.slice + row * place.pitch;
            run(gpu, (to.0, offset(&to.1)), (from.0, offset(&from.1)), shape.width)?;
        }
    }
    Ok(())
}

/// Where an offset into an end is now: pointer, bytes that follow, whether it is host memory, what keeps it alive.
fn locate(gpu: &Gpu, end: &End, offset: u64, write: bool) -> Result<(*mut u8, u64, bool, Option<Window>)> {
    match end {
        End::Pageable(base) => Ok(((base + offset) as *mut u8, u64::MAX, true, None)),
        End::Staged(bytes) => Ok((bytes[offset as usize..].as_ptr().cast_mut(), u64::MAX, true, None)),
        End::Mapped(base) => {
            let address = base + offset;
            let window = gpu.window(address, write)?;
            Ok((window.at(address), window.end - address, window.host, Some(window)))
        }
    }
}

fn run(gpu: &Gpu, to: (&End, u64), from: (&End, u64), len: u64) -> Result {
    let mut done = 0;
    while done < len {
        let (target, room, target_host, target_window) = locate(gpu, to.0, to.1 + done, true)?;
        let (source, there, source_host, source_window) = locate(gpu, from.0, from.1 + done, false)?;
        let here = (len - done).min(room).min(there).min(PIECE);
        // SAFETY: both sides have `here` bytes: windows by their translation, host memory by the caller's promise.
        // They may overlap when the program copies within one allocation.
        unsafe { std::ptr::copy(source, target, here as usize) };
        if !(target_host && source_host) {
            gpu.carried(here, target_host != source_host);
        }
        // Bytes on their way are still being read and written: what is unmapped meanwhile faults.
        if !target_window.iter().chain(&source_window).all(Window::stays) {
            return Err(Error::ILLEGAL_ADDRESS);
        }
        done += here;
    }
    Ok(())
}
