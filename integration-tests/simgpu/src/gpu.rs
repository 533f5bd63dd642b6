//! How the simulated GPU reaches memory: translation through the page table, piece by piece, when it happens.

use crate::clock::{Busy, Clock, modelled, seconds};
use crate::context::Context;
use crate::env::{HostMemory, options};
use crate::errors::{Error, Result};
use crate::host::READ_ONLY;
use crate::physical::{Physical, Place};
use crate::va::{self, Backing, Mapping, Origin, READ, READ_WRITE};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// Pieces of this size at most are translated at once: a remap under running work shows soon.
const PIECE: u64 = 4 << 20;
const SCRATCH: usize = 2 << 20;

/// What reaches for memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// A running kernel.
    Kernel,
    /// The copy engine.
    Copy,
}

/// A device at work for a context.
pub struct Gpu<'a> {
    context: &'a Context,
    engine: Engine,
    clock: &'a Clock,
    dependencies: Dependencies<'a>,
    shares: Shares,
    /// How often each byte of host memory crosses the link.
    crossings: Cell<u32>,
    /// The multiprocessors, once a kernel has reached for memory.
    busy: RefCell<Option<Busy<'static>>>,
}

/// The share of the memory's speed that a kernel reaches: in VRAM, and in place over the link.
pub type Shares = (f64, f64);

/// An operation's turn on the device.
pub struct Turn<'a> {
    /// Whose.
    pub context: &'a Arc<Context>,
    /// Its time.
    pub clock: &'a Clock,
    /// What it waits for in the middle.
    pub dependencies: Dependencies<'a>,
}

/// Waits for what a programmatic launch depends on; for every other operation that is over before it begins.
pub type Dependencies<'a> = &'a dyn Fn() -> Result;

/// The dependencies of an operation that began after all of them.
pub const NO_DEPENDENCIES: Dependencies<'static> = &|| Ok(());

/// Consecutive bytes the GPU may touch.
pub struct Window {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Whether the bytes lie across the link.
    pub host: bool,
    base: *mut u8,
    generation: u64,
    mapping: u64,
    _memory: Option<Arc<Physical>>,
}

impl Window {
    /// The simulator's own address of a byte.
    pub fn at(&self, address: u64) -> *mut u8 {
        debug_assert!((self.start..self.end).contains(&address));
        // SAFETY: within the window.
        unsafe { self.base.add((address - self.start) as usize) }
    }

    /// Whether a range still translates as when the window was made.
    pub fn covers(&self, address: u64, len: u64) -> bool {
        address >= self.start && address + len <= self.end && self.generation == va::generation()
    }

    /// Whether the mapping has been there all the time since.
    pub fn stays(&self) -> bool {
        self.generation == va::generation()
            || va::read().find(self.start).is_some_and(|mapping| mapping.id == self.mapping)
    }
}

impl<'a> Gpu<'a> {
    /// The copy engine of a context's device.
    pub fn copies(context: &'a Context, clock: &'a Clock) -> Gpu<'a> {
        Gpu {
            context,
            engine: Engine::Copy,
            clock,
            dependencies: NO_DEPENDENCIES,
            shares: (1.0, 1.0),
            crossings: Cell::new(1),
            busy: RefCell::default(),
        }
    }

    /// The device as a kernel sees it.
    pub fn kernel(turn: &Turn<'a>, shares: Shares) -> Gpu<'a> {
        let copies = Gpu::copies(turn.context, turn.clock);
        Gpu { engine: Engine::Kernel, dependencies: turn.dependencies, shares, ..copies }
    }

    /// `griddepcontrol.wait`: a kernel launched programmatically may have begun before the one in front has ended.
    pub fn wait_for_dependencies(&self) -> Result {
        self.end();
        (self.dependencies)()
    }

    /// The operation's time.
    pub fn clock(&self) -> &Clock {
        self.clock
    }

    /// From here on every byte of host memory crosses the link this many times.
    pub fn set_crossings(&self, times: u32) {
        self.crossings.set(times.max(1));
    }

    /// Takes the multiprocessors, where kernels take time at all.
    pub fn begin(&self) {
        let mut busy = self.busy.borrow_mut();
        if modelled() && busy.is_none() {
            *busy = Some(self.context.device().compute.begin(self.clock));
        }
    }

    /// Gives them up, at the kernel's time.
    pub fn end(&self) {
        if let Some(busy) = self.busy.borrow_mut().take() {
            busy.end(self.clock);
        }
    }

    /// Takes the time of bytes that a kernel read or wrote.
    pub fn took(&self, bytes: u64, host: bool) {
        if self.engine != Engine::Kernel || !modelled() {
            return;
        }
        self.begin();
        let scaled = |time: Duration, share: f64| time.div_f64(share);
        if !host {
            return self.clock.take(scaled(seconds(bytes, options().vram_gbps), self.shares.0));
        }
        let (bytes, rate) = (bytes * u64::from(self.crossings.get()), options().in_place_gbps);
        let before = self.clock.now();
        self.clock.not_before(self.context.device().link.carry(before, bytes, rate));
        self.clock.not_before(before + scaled(seconds(bytes, rate), self.shares.1));
        self.clock.keep_pace();
    }

    fn may(&self, mapping: &Mapping, write: bool) -> bool {
        let ordinal = self.context.ordinal();
        let wanted = if write { READ_WRITE } else { READ };
        match mapping.origin {
            Origin::Vmm(_) | Origin::Pool(_) => {
                let own = mapping.rights[ordinal];
                // The copy engine of the device that owns the memory can serve a copy as well.
                let owner = mapping.device().filter(|_| self.engine == Engine::Copy);
                let rights = own | owner.map_or(0, |device| mapping.rights[device]);
                rights & wanted == wanted
            }
            Origin::Alloc | Origin::Graph | Origin::Ipc => {
                self.engine == Engine::Copy || mapping.device().is_some_and(|device| self.context.reaches(device))
            }
            Origin::HostAlloc(_) | Origin::Managed => true,
            Origin::Registered(flags) => !write || flags & READ_ONLY == 0,
        }
    }

    /// What becomes of an access on this board: copies always arrive.
    fn behaviour(&self, mapping: &Mapping) -> HostMemory {
        match (&mapping.backing, mapping.origin) {
            _ if self.engine == Engine::Copy => HostMemory::Ok,
            (Backing::Physical(memory, _), _) if matches!(memory.place, Place::Host(_)) => options().host_numa,
            (Backing::Host, Origin::Registered(flags)) if flags & READ_ONLY != 0 => options().read_only,
            _ => HostMemory::Ok,
        }
    }

    /// Translates an address; the window reaches to the end of its mapping.
    pub fn window(&self, address: u64, write: bool) -> Result<Window> {
        let space = va::read();
        let mapping = space.find(address).ok_or(Error::ILLEGAL_ADDRESS)?;
        if !self.may(mapping, write) {
            return Err(Error::ILLEGAL_ADDRESS);
        }
        let (start, end) = (mapping.start, mapping.end());
        let (generation, mapping_id) = (va::generation(), mapping.id);
        let found =
            |host, base, memory| Window { start, end, host, base, generation, mapping: mapping_id, _memory: memory };
        match self.behaviour(mapping) {
            HostMemory::Unreadable => return Err(Error::ILLEGAL_ADDRESS),
            HostMemory::Stale => return Ok(stale(address, found(true, std::ptr::null_mut(), None))),
            _ => {}
        }
        match &mapping.backing {
            Backing::Host => Ok(found(true, start as *mut u8, None)),
            Backing::Pending => Err(Error::ILLEGAL_ADDRESS),
            Backing::Physical(memory, offset) => {
                let host = matches!(memory.place, Place::Host(_));
                Ok(found(host, memory.at(*offset), Some(memory.clone())))
            }
        }
    }

    /// Visits a range piece by piece: offset into the range, the simulator's pointer, length.
    pub fn each(&self, address: u64, len: u64, write: bool, mut visit: impl FnMut(u64, *mut u8, usize)) -> Result {
        let mut done = 0;
        while done < len {
            let window = self.window(address.wrapping_add(done), write)?;
            let here = (len - done).min(window.end - (address + done)).min(PIECE);
            visit(done, window.at(address + done), here as usize);
            self.took(here, window.host);
            done += here;
        }
        Ok(())
    }

    /// Takes the time of bytes that the copy engine brought: over the link, or twice through VRAM.
    pub fn carried(&self, bytes: u64, over_the_link: bool) {
        if over_the_link {
            let link = &self.context.device().link;
            self.clock.not_before(link.carry(self.clock.now(), bytes, options().link_gbps));
        } else {
            self.clock.not_before(self.clock.now() + seconds(2 * bytes, options().vram_gbps));
        }
        self.clock.keep_pace();
    }

    /// Reads a range.
    pub fn read(&self, address: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.each(address, len, false, |offset, from, here| {
            // SAFETY: a window of at least `here` bytes, copied into a vector of `len`.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().add(offset as usize), here) };
        })?;
        Ok(bytes)
    }

    /// Reads a little-endian number.
    pub fn read_u32(&self, address: u64) -> Result<u32> {
        let bytes = self.read(address, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Writes a range.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result {
        self.each(address, bytes.len() as u64, true, |offset, to, here| {
            // SAFETY: a window of at least `here` bytes, filled from inside `bytes`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().add(offset as usize), to, here) };
        })
    }

    /// Writes a number as `cuStreamWriteValue` does.
    pub fn write_value(&self, address: u64, value: u64, wide: bool) -> Result {
        self.write(address, &value.to_le_bytes()[..if wide { 8 } else { 4 }])
    }

    /// Whether a `cuStreamWaitValue` condition holds.
    pub fn value_holds(&self, address: u64, value: u64, wait: ValueWait, wide: bool) -> Result<bool> {
        let mut bytes = [0; 8];
        let len = if wide { 8 } else { 4 };
        bytes[..len].copy_from_slice(&self.read(address, len as u64)?);
        let now = u64::from_le_bytes(bytes);
        let mask = if wide { u64::MAX } else { u32::MAX.into() };
        Ok(match wait {
            ValueWait::AtLeast if wide => now.wrapping_sub(value) as i64 >= 0,
            ValueWait::AtLeast => (now as u32).wrapping_sub(value as u32) as i32 >= 0,
            ValueWait::Equal => now == value & mask,
            ValueWait::AnyBit => now & value != 0,
            ValueWait::NotAll => !(now | value) & mask != 0,
        })
    }
}

/// The conditions of `cuStreamWaitValue`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueWait {
    /// Cyclically at least.
    AtLeast,
    /// Equal.
    Equal,
    /// A common bit.
    AnyBit,
    /// A bit that neither has.
    NotAll,
}

impl ValueWait {
    /// Reads `CUstreamWaitValue_flags`.
    pub fn from_flags(flags: u32) -> Option<ValueWait> {
        Some(match flags & !(1 << 30) {
            0 => ValueWait::AtLeast,
            1 => ValueWait::Equal,
            2 => ValueWait::AnyBit,
            3 => ValueWait::NotAll,
            _ => return None,
        })
    }
}

/// Memory a kernel believes it reads and writes, and does not.
fn stale(address: u64, real: Window) -> Window {
    thread_local! {
        static SCRATCH_MEMORY: *mut u8 = Box::leak(vec![0u8; SCRATCH].into_boxed_slice()).as_mut_ptr();
    }
    let base = SCRATCH_MEMORY.with(|memory| *memory);
    Window { start: address, end: real.end.min(address + SCRATCH as u64), base, ..real }
}
