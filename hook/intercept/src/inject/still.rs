//! Looking at loaded objects while the loader stands still.
//!
//! `dl_iterate_phdr` holds the loader's list lock, under which objects appear and vanish. All our work on
//! objects happens in its first callback, so that no object can be unmapped underneath, and that lock is at the
//! same time the only one around our own tables: there is no second lock to take in the wrong order, and none is
//! ever held while constructors run (the loader releases its list before).
//!
//! Work in there must not allocate: a profiling allocator may walk the loader's list with its own lock held. (Patching
//! the driver's code, once for each time it is loaded, is the exception.) And it must not log: the first line of a
//! thread registers a thread-local destructor, for which the C library takes the loader's other lock.

use super::image::{self, Image};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often the loader has added and removed objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Objects ever added.
    pub added: u64,
    /// Objects ever removed.
    pub removed: u64,
}

/// What keeps our work and the loader's apart. Atomics: a child of a fork sets them right without asking anybody.
struct Loader {
    /// Somebody is in [`still`]. Under the loader's list lock, which is recursive: only the same thread can find it set.
    busy: AtomicBool,
    /// Threads that have passed the [`Gate`].
    inside: AtomicUsize,
    /// A thread forks.
    forking: AtomicBool,
}

static LOADER: Loader =
    Loader { busy: AtomicBool::new(false), inside: AtomicUsize::new(0), forking: AtomicBool::new(false) };

/// Proof that the loader stands still.
#[derive(Debug)]
pub struct Still {
    changes: Changes,
}

impl Still {
    /// The loader's counters.
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// Calls `visit` with every object in load order, the executable first, until it answers `false`.
    pub fn each(&self, visit: &mut dyn FnMut(&Image<'_>) -> bool) {
        self.each_from(0, visit);
    }

    /// The same without the first `first` objects, which are not looked at.
    pub fn each_from(&self, first: usize, visit: &mut dyn FnMut(&Image<'_>) -> bool) {
        let mut at = 0;
        iterate(&mut |info| {
            at += 1;
            // SAFETY: the loader's record of an object, which cannot vanish while its list is locked.
            match unsafe { if at > first { Image::new(info) } else { None } } {
                Some(image) => visit(&image),
                None => true,
            }
        });
    }

    /// How many of the first objects were there when the loader had added `added` objects ever: it appends to its list, and
    /// keeps the order when it removes one.
    pub fn known_since(&self, added: u64) -> usize {
        let mut count = 0;
        iterate(&mut |_| {
            count += 1;
            true
        });
        count - count.min(usize::try_from(self.changes.added.saturating_sub(added)).unwrap_or(count))
    }

    /// Calls `visit` with the object that has loaded something at an address.
    pub fn at(&self, address: usize, visit: &mut dyn FnMut(&Image<'_>)) {
        iterate(&mut |info| {
            // SAFETY: as above.
            let has = unsafe { image::loads_at(info, address) };
            // SAFETY: as above.
            if has && let Some(image) = unsafe { Image::new(info) } {
                visit(&image);
            }
            !has
        });
    }
}

/// The loader's counters now.
pub fn changes() -> Changes {
    let _gate = Gate::pass();
    let mut changes = Changes::default();
    iterate(&mut |info| {
        changes = Changes { added: info.dlpi_adds, removed: info.dlpi_subs };
        false
    });
    changes
}

/// Runs `work` while the loader stands still. `None` when this very thread is in here already.
pub fn still<T>(work: impl FnOnce(&Still) -> T) -> Option<T> {
    let _gate = Gate::pass();
    let (mut work, mut result) = (Some(work), None);
    iterate(&mut |info| {
        if !LOADER.busy.swap(true, Ordering::Acquire) {
            let changes = Changes { added: info.dlpi_adds, removed: info.dlpi_subs };
            result = work.take().map(|work| work(&Still { changes }));
            LOADER.busy.store(false, Ordering::Release);
        }
        false
    });
    result
}

type Visit<'a> = &'a mut dyn FnMut(&libc::dl_phdr_info) -> bool;

fn iterate(visit: Visit<'_>) {
    unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: the pointer passed below, to a reference that outlives the iteration.
        let visit = unsafe { &mut *data.cast::<Visit<'_>>() };
        // SAFETY: the loader's record, valid during this call.
        let info = unsafe { &*info };
        // A panic must not unwind through the loader; it ends the walk.
        catch_unwind(AssertUnwindSafe(|| c_int::from(!visit(info)))).unwrap_or_else(|_| {
            LOADER.busy.store(false, Ordering::Release);
            1
        })
    }
    let mut visit = visit;
    // SAFETY: the callback has the asked-for form and gets the pointer it expects.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut visit).cast()) };
}

/// Keeps forks and our work on the loader's list or on code apart: a child would inherit a lock held by a
/// thread it does not have.
#[derive(Debug)]
pub struct Gate;

/// Either side stops waiting after this many yields: a late child is better than a process that hangs.
const PATIENCE: u32 = 100_000;

impl Gate {
    /// Waits while another thread forks, then keeps forks out until dropped.
    pub fn pass() -> Self {
        LOADER.inside.fetch_add(1, Ordering::SeqCst);
        let mut patience = PATIENCE;
        while LOADER.forking.load(Ordering::SeqCst) && patience > 0 {
            LOADER.inside.fetch_sub(1, Ordering::SeqCst);
            std::thread::yield_now();
            LOADER.inside.fetch_add(1, Ordering::SeqCst);
            patience -= 1;
        }
        Self
    }

    /// Before a fork: keeps new work out and waits for what runs.
    pub fn close() {
        LOADER.forking.store(true, Ordering::SeqCst);
        let mut patience = PATIENCE;
        while LOADER.inside.load(Ordering::SeqCst) > 0 && patience > 0 {
            std::thread::yield_now();
            patience -= 1;
        }
    }

    /// After a fork, in the parent.
    pub fn open() {
        LOADER.forking.store(false, Ordering::SeqCst);
    }

    /// After a fork, in the child, whose only thread is not inside.
    pub fn reset() {
        LOADER.inside.store(0, Ordering::SeqCst);
        LOADER.busy.store(false, Ordering::SeqCst);
        LOADER.forking.store(false, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A child's counter was reset while its one thread may still unwind out of here.
        let _ = LOADER.inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |inside| inside.checked_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_seen_and_a_nested_look_is_refused() {
        let (mut objects, mut libc_has_malloc) = (0, false);
        let nested = still(|world| {
            world.each(&mut |image| {
                objects += 1;
                libc_has_malloc |= image.soname() == Some(b"libc.so.6") && image.find(b"malloc").is_some();
                true
            });
            still(|_| ()).is_none()
        });
        assert_eq!(nested, Some(true));
        assert!(objects >= 2 && libc_has_malloc);
        assert!(still(|world| world.changes()).is_some_and(|seen| seen.added > 0));
    }

    #[test]
    fn only_what_came_since_is_gone_through() {
        let name = |image: &Image<'_>| image.path.to_vec();
        still(|world| {
            let (mut all, mut last) = (Vec::new(), Vec::new());
            world.each(&mut |image| {
                all.push(name(image));
                true
            });
            let added = world.changes().added;
            assert_eq!((world.known_since(added), world.known_since(added - 2)), (all.len(), all.len() - 2));
            assert_eq!(world.known_since(0), 0);
            world.each_from(all.len() - 2, &mut |image| {
                last.push(name(image));
                true
            });
            assert_eq!(last, all[all.len() - 2..]);
            let mut found = Vec::new();
            world.at(libc::dl_iterate_phdr as *const () as usize, &mut |image| found.push(name(image)));
            assert!(found.len() == 1 && found[0].ends_with(b"libc.so.6"), "{found:?}");
            world.at(8, &mut |_| panic!("nothing is there"));
        });
    }
}
