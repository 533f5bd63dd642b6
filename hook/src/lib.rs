//! The library that `gb-launch` injects into a CUDA program.
//!
//! ```text
//!   program ──calls──▶ detour ──▶ handler ──▶ memory ──▶ driver (originals)
//!                 ▲ put there by inject: inline, GOT, preload
//! ```
//!
//! * [`table`] says, as data, which functions are intercepted; [`slot`], [`detours`] and the exports are
//!   generated from it;
//! * [`inject`] and [`real`] find the originals and put the detours in their place;
//! * [`stream`] holds the parts of streaming that exist so far, not yet in use;
//! * [`files`] makes the page cache of a model file a home of weights;
//! * [`guard`] is the border: on or off, no nesting, no panic, every failure ends in the original call;
//! * [`handlers`] translate between driver calls and [`memory`], which decides where bytes are.
//!
//! Nothing here prints, links CUDA, or starts a thread.

pub mod abi;
pub mod activate;
pub mod detours;
pub mod driver;
#[cfg(all(feature = "preload", not(test)))]
pub mod exports;
pub mod files;
pub mod ggml;
pub mod guard;
pub mod handlers;
pub mod inject;
pub mod json;
pub mod memory;
pub mod real;
pub mod slot;
pub mod stream;
pub mod table;
