//! Knowing the tensors: what llama.cpp's own library calls tell about the memory behind them.
//!
//! The driver sees bytes; ggml knows which tensor they are. Its libraries call each other through the PLT, so the
//! GOT layer can put these in between:
//!
//! | call | tells |
//! |---|---|
//! | `ggml_backend_tensor_alloc` | a tensor's name, address and size |
//! | `ggml_backend_buffer_set_usage` | that a buffer holds weights, or scratch |
//! | `ggml_backend_tensor_set`, `_set_async` | that bytes of a tensor arrive, and from where |
//! | `ggml_backend_buffer_free` | that a buffer goes, and its tensors with it |
//! | `ggml_backend_buft_get_alloc_size`, `_buffer_get_alloc_size` | what a tensor takes; a page more is answered (`congruent`) |
//!
//! The first two are needed; without the others less is known.
//!
//! All of them are of one library, the first one found, which stays loaded from then on.
//!
//! Tensors and buffers are opaque: they are read through accessors that ggml exports, never by offset. A program
//! without these symbols (linked into one file, or another framework) is placed allocation by allocation.

mod accessors;
pub mod congruent;
pub mod detours;
pub mod dump;

use crate::runtime::{Core, RUNTIME};
use accessors::Accessors;
use congruent::Answers;
use greenboost_contract::PageCache;
use greenboost_intercept::inject;
use greenboost_intercept::inject::got;
use greenboost_intercept::slot::{Function, Section};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Asks the GOT layer to lead ggml's calls to us. Does nothing where that layer does not stand.
pub fn install(page_cache: PageCache) {
    if !inject::is_on(inject::GOT) {
        return;
    }
    match page_cache {
        PageCache::On => got::want(&[Section::Tensors, Section::TensorSizes]),
        PageCache::Off => got::want(&[Section::Tensors]),
    }
}

/// Whether an object that calls a function was seen.
fn is_caught(function: Function) -> bool {
    !function.slot().known_original().is_null()
}

/// Whether both functions are caught without which nothing is known.
fn caught() -> (bool, bool) {
    (is_caught(Function::ggml_backend_tensor_alloc), is_caught(Function::ggml_backend_buffer_set_usage))
}

/// What is known of the ggml that is listened to.
#[derive(Default)]
pub struct Listener {
    /// Looked up once ggml is known to be there; `None` where it lacks one that is needed.
    accessors: OnceLock<Option<Accessors>>,
    /// What was answered for tensors that are to have a file's pages.
    answers: Answers,
    /// The file that gets the list of tensors at the program's end, if any.
    pub tensors_file: OnceLock<PathBuf>,
}

impl Listener {
    /// Nothing has been heard.
    pub const fn new() -> Self {
        Self { accessors: OnceLock::new(), answers: Answers::new(), tensors_file: OnceLock::new() }
    }

    /// The accessors, if the library exports them all.
    fn accessors(&self) -> Option<&Accessors> {
        self.accessors.get_or_init(accessors::find).as_ref()
    }

    /// Whether this process's allocations will be explained by ggml: both calls are caught and all accessors are there.
    /// An allocation may then wait for its explanation before it gets its chunks.
    pub fn explains(&self) -> bool {
        caught() == (true, true) && self.accessors().is_some()
    }

    /// Why tensors are known, or not: for the status record and doctor.
    pub fn reason(&self) -> &'static str {
        match caught() {
            (true, true) if self.accessors().is_some() => "by tensor",
            (true, true) => "by allocation: this ggml lacks an accessor",
            (false, false) => "by allocation: no calls of ggml's libraries are seen",
            _ => "by allocation: not all calls of ggml's libraries are seen",
        }
    }

    /// Bytes, at least, that files will have of the tensors that were counted since this was last asked.
    pub fn expected_in_files(&self) -> u64 {
        self.answers.expected()
    }
}

impl Core {
    /// What is known of the ggml that is listened to.
    pub fn ggml(&self) -> &'static Listener {
        &RUNTIME.ggml
    }
}

/// Whether this thread is inside ggml's allocation of a tensor, whose padding it clears.
pub fn is_allocating_tensor() -> bool {
    detours::is_allocating_tensor()
}
