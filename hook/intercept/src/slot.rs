//! What is kept for each intercepted symbol: its names, its detour, and the original.

use crate::functions;
use greenboost_cuda::abi::{NOT_FOUND, NVML_FUNCTION_NOT_FOUND, Status};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// The library a function belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// `libcuda.so.1`.
    Cuda,
    /// `libnvidia-ml.so.1`.
    Nvml,
    /// llama.cpp's `libggml*.so`. A process can have several of different versions, each with tensors
    /// of its own: one is listened to, and the others' calls stay theirs.
    Ggml,
    /// glibc.
    CLibrary,
}

impl Library {
    /// Those of the driver.
    pub const DRIVER: [Self; 2] = [Self::Cuda, Self::Nvml];

    /// The name to open it by.
    pub fn soname(self) -> &'static CStr {
        match self {
            Self::Cuda => c"libcuda.so.1",
            Self::Nvml => c"libnvidia-ml.so.1",
            Self::Ggml => c"libggml-base.so",
            Self::CLibrary => c"libc.so.6",
        }
    }

    /// What a call of the driver returns when the library or the function is not there.
    pub fn absent(self) -> Status {
        if self == Self::Nvml { NVML_FUNCTION_NOT_FOUND } else { NOT_FOUND }
    }
}

/// Which part of the table a row is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// CUDA and NVML.
    Driver,
    /// What tells which tensors lie at an address.
    Tensors,
    /// What a tensor takes.
    TensorSizes,
    /// The program's own changes to its address space.
    Mappings,
    /// The loader.
    Loader,
}

/// One intercepted symbol. Alone on its cache line: calls of different functions count on different ones.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot {
    /// The exported symbol, `cuMemcpyHtoDAsync_v2_ptsz`.
    pub symbol: &'static CStr,
    /// The library that has it.
    pub library: Library,
    /// The part of the table.
    pub section: Section,
    /// The version in which it appeared, in the unit that the table states.
    pub since: i32,
    /// What the detour calls: the function, or the way around its patched body; of the loader's functions only the latter.
    original: AtomicPtr<c_void>,
    /// The library's own function; 0 while it is not loaded.
    pub(crate) real: AtomicUsize,
    /// The function of another library that comes after this one; 0 for none.
    pub(crate) behind: AtomicUsize,
    /// Whether a library before us exports the name: programs meant to reach that one first.
    pub(crate) before: AtomicBool,
    /// Calls that reached the detour.
    pub calls: AtomicU64,
}

impl Slot {
    const fn new(symbol: &'static str, library: Library, section: Section, since: i32) -> Self {
        let symbol = match CStr::from_bytes_with_nul(symbol.as_bytes()) {
            Ok(symbol) => symbol,
            Err(_) => panic!("the table's macro ends a symbol with NUL"),
        };
        Self {
            symbol,
            library,
            section,
            since,
            original: AtomicPtr::new(null_mut()),
            real: AtomicUsize::new(0),
            behind: AtomicUsize::new(0),
            before: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        }
    }

    /// Its position in the table.
    pub fn position(&self) -> usize {
        (std::ptr::from_ref(self) as usize - ORIGINALS.slots.as_ptr() as usize) / size_of::<Self>()
    }

    /// Our replacement, of the same ABI; null before [`set_replacements`]. The loader's functions have one for each layer
    /// and none here.
    #[inline]
    pub fn detour(&self) -> *const c_void {
        replacements().map_or(null(), |known| known.detours[self.position()])
    }

    /// The symbol without version and stream suffixes: the name `cuGetProcAddress` is asked for.
    pub fn base(&self) -> &'static str {
        let symbol = self.symbol.to_str().unwrap_or_default();
        let symbol = symbol.strip_suffix("_ptsz").or(symbol.strip_suffix("_ptds")).unwrap_or(symbol);
        match symbol.rsplit_once("_v") {
            Some((base, version)) if version.bytes().all(|byte| byte.is_ascii_digit()) => base,
            _ => symbol,
        }
    }

    /// Whether this is the form for per-thread default streams.
    pub fn per_thread(&self) -> bool {
        let symbol = self.symbol.to_bytes();
        symbol.ends_with(b"_ptsz") || symbol.ends_with(b"_ptds")
    }

    /// The original function; null when it is not known (yet).
    #[inline]
    pub fn original(&self) -> *const c_void {
        self.original.load(Ordering::Acquire)
    }

    /// The library's own function; 0 when it is not loaded or lacks the symbol.
    pub fn real(&self) -> usize {
        self.real.load(Ordering::Acquire)
    }

    /// Whether another library comes before or after us for this symbol.
    pub fn is_interposed(&self) -> bool {
        self.is_preceded() || self.behind.load(Ordering::Acquire) != 0
    }

    /// Whether a library that comes before us exports this symbol.
    pub fn is_preceded(&self) -> bool {
        self.before.load(Ordering::Acquire)
    }

    /// Sets the original: the real function, or the trampoline to it once its body is patched.
    pub fn set_original(&self, original: *const c_void) {
        self.original.store(original.cast_mut(), Ordering::Release);
    }

    /// Sets the original if it is still `known`. False: somebody else did.
    pub fn replace_original(&self, known: *const c_void, original: *const c_void) -> bool {
        let (known, original) = (known.cast_mut(), original.cast_mut());
        self.original.compare_exchange(known, original, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

macro_rules! slots {
    (
        driver { $($library:ident $module:ident :: $handler:ident [$($symbol:ident @ $since:literal),+ $(,)?] $args:tt;)+ }
        $(called $section:ident of $owner:ident {
            $($area:ident :: $called:ident [$name:ident @ $from:literal] $called_args:tt $(-> $result:ty)?;)+
        })+
        loader { $($part:ident :: $decide:ident [$loader:ident @ $glibc:literal] $loader_args:tt if $when:expr;)+ }
    ) => {
        /// Position of each symbol in the table.
        #[allow(non_camel_case_types)]
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($($symbol),+,)+ $($($name,)+)+ $($loader),+ }

        impl Function {
            /// The symbol's [`Slot`].
            #[inline]
            pub fn slot(self) -> &'static Slot {
                &ORIGINALS.slots[self as usize]
            }

            /// The loader's.
            pub const LOADER: &[Self] = &[$(Self::$loader),+];
        }

        const SYMBOLS: &[&str] =
            &[$($(stringify!($symbol)),+,)+ $($(stringify!($name),)+)+ $(stringify!($loader)),+];

        static ORIGINALS: Originals = Originals {
            slots: [
                $($(Slot::new(concat!(stringify!($symbol), "\0"), Library::$library, Section::Driver, $since)),+,)+
                $($(Slot::new(concat!(stringify!($name), "\0"), Library::$owner, Section::$section, $from),)+)+
                $(Slot::new(concat!(stringify!($loader), "\0"), Library::CLibrary, Section::Loader, $glibc)),+
            ],
            replacements: AtomicPtr::new(null_mut()),
        };

        /// How many symbols of the driver there are.
        pub const DRIVER: usize = [$($(stringify!($symbol)),+),+].len();
    };
}
functions!(slots);

/// All that is known of the intercepted functions. Atomics, read without a lock in every call; what belongs together (the
/// originals of one library) is written while the loader stands still, and the replacements once, before any layer is
/// installed.
struct Originals {
    slots: [Slot; COUNT],
    replacements: AtomicPtr<Replacements>,
}

/// How many symbols are intercepted.
pub const COUNT: usize = SYMBOLS.len();

/// Every intercepted symbol, in the order of the table.
pub fn all() -> &'static [Slot; COUNT] {
    &ORIGINALS.slots
}

/// The driver's symbols: the first [`DRIVER`] ones.
pub fn driver() -> &'static [Slot] {
    &ORIGINALS.slots[..DRIVER]
}

/// The symbols of a section.
pub fn section(section: Section) -> impl Iterator<Item = &'static Slot> {
    all().iter().filter(move |slot| slot.section == section)
}

/// What takes the place of the intercepted functions, by position in the table.
#[derive(Debug)]
pub struct Replacements {
    /// The detours; null for the loader's functions.
    pub detours: [*const c_void; COUNT],
    /// What stands for the loader's functions instead, by layer.
    pub shims: &'static Shims,
    /// This library's own exports of the driver's names, where it has any.
    pub exports: Option<&'static [unsafe extern "C" fn(); DRIVER]>,
}

/// The shims of the layers that patch, in the order of [`Function::LOADER`].
#[derive(Debug)]
pub struct Shims {
    /// Of the layer that patches the functions themselves.
    pub code: [unsafe extern "C" fn(); Function::LOADER.len()],
    /// Of the GOT layer.
    pub got: [unsafe extern "C" fn(); Function::LOADER.len()],
}

// SAFETY: addresses of functions.
unsafe impl Sync for Replacements {}

/// Hands over what the layers are to lead calls to. To be called before a layer is installed.
pub fn set_replacements(all: &'static Replacements) {
    ORIGINALS.replacements.store(std::ptr::from_ref(all).cast_mut(), Ordering::Release);
}

#[inline]
fn replacements() -> Option<&'static Replacements> {
    // SAFETY: null, or what was handed over, which lives for ever.
    unsafe { ORIGINALS.replacements.load(Ordering::Acquire).as_ref() }
}

/// The shims of the loader's functions, once they were handed over.
pub fn shims() -> Option<&'static Shims> {
    replacements().map(|all| all.shims)
}

/// The [`Slot`] whose export is at an address.
pub fn of_export(address: *const c_void) -> Option<&'static Slot> {
    let exports = replacements()?.exports?;
    exports.iter().position(|export| *export as *const c_void == address).map(|at| &ORIGINALS.slots[at])
}

/// Places in the name index: a power of two, at least half of them empty.
const PLACES: usize = (2 * SYMBOLS.len()).next_power_of_two();

/// FNV-1a, folded to a place.
const fn place(name: &[u8]) -> usize {
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < name.len() {
        hash = (hash ^ name[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    (hash ^ hash >> 32) as usize % PLACES
}

/// Symbols by name, made by the compiler: a look-up is in the path of every `dlsym` of a driver name. Each place
/// holds a position in the table plus one; what does not fit goes to the next place.
const BY_NAME: &[u16; PLACES] = &{
    let mut index = [0; PLACES];
    let mut at = 0;
    while at < SYMBOLS.len() {
        let mut place = place(SYMBOLS[at].as_bytes());
        while index[place] != 0 {
            place = (place + 1) % PLACES;
        }
        at += 1;
        index[place] = at as u16;
    }
    index
};

/// The bits of the symbols' first letters: most names of a program differ in that already.
const FIRST: u64 = {
    let (mut bits, mut at) = (0, 0);
    while at < SYMBOLS.len() {
        bits |= 1 << (SYMBOLS[at].as_bytes()[0] & 63);
        at += 1;
    }
    bits
};

/// The [`Slot`] of a symbol.
pub fn find(symbol: &[u8]) -> Option<&'static Slot> {
    if FIRST & 1 << (symbol.first()? & 63) == 0 {
        return None;
    }
    let mut place = place(symbol);
    loop {
        let at = (BY_NAME[place] as usize).checked_sub(1)?;
        if SYMBOLS[at].as_bytes() == symbol {
            return Some(&ORIGINALS.slots[at]);
        }
        place = (place + 1) % PLACES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_symbol_is_declared_once_and_found() {
        let names: HashSet<_> = all().iter().map(|slot| slot.symbol).collect();
        assert_eq!(names.len(), COUNT);
        for slot in all() {
            assert!(std::ptr::eq(find(slot.symbol.to_bytes()).expect("declared"), slot));
        }
        assert!(find(b"cuMemAlloc").is_none(), "the 32-bit form must not be replaced");
    }

    #[test]
    fn every_row_names_the_version_in_which_its_function_appeared() {
        for slot in all() {
            let known = match (slot.section, slot.library) {
                (Section::Driver, Library::Cuda) => 2000..14000,
                (Section::Driver, _) => 285..1000,
                (_, Library::Ggml) => 202_310..210_000,
                _ => 2000..2990,
            };
            assert!(known.contains(&slot.since), "{:?} {}", slot.symbol, slot.since);
        }
        assert!(driver().iter().all(|slot| slot.section == Section::Driver));
        assert_eq!(section(Section::Driver).count(), DRIVER);
        assert_eq!(size_of::<Slot>(), 64, "one cache line");
    }

    #[test]
    fn base_names_are_what_programs_ask_for() {
        for (symbol, base, per_thread) in [
            (Function::cuMemAlloc_v2, "cuMemAlloc", false),
            (Function::cuMemcpyHtoDAsync_v2_ptsz, "cuMemcpyHtoDAsync", true),
            (Function::cuMemcpy_ptds, "cuMemcpy", true),
            (Function::cuMemsetD2D8Async, "cuMemsetD2D8Async", false),
            (Function::cuGetProcAddress_v2, "cuGetProcAddress", false),
        ] {
            assert_eq!((symbol.slot().base(), symbol.slot().per_thread()), (base, per_thread));
        }
    }
}
