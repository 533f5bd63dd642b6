//! Knowing the tensors: what llama.cpp's own library calls tell about the memory they use.
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
mod answers;
pub mod congruent;
pub mod detours;
pub mod dump;
pub mod listener;
pub mod look;

use crate::runtime::{Core, RUNTIME};
use greenboost_contract::PageCache;
use greenboost_intercept::inject;
use greenboost_intercept::slot::Section;
use listener::Listener;

/// Asks the GOT layer to lead ggml's calls to us. Does nothing where that layer does not stand.
pub fn install(page_cache: PageCache) {
    if !inject::is_on(inject::GOT) {
        return;
    }
    match page_cache {
        PageCache::On => inject::want(&[Section::Tensors, Section::TensorSizes]),
        PageCache::Off => inject::want(&[Section::Tensors]),
    }
}

impl Core {
    /// What is known of the ggml that is listened to.
    pub fn ggml(&self) -> &'static Listener {
        &RUNTIME.ggml
    }
}
