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
//! * [`stream`] copies weights outside VRAM ahead of the kernels that read them;
//! * [`upload`] copies weights to the device with several threads;
//! * [`files`] makes the page cache of a model file a home of weights;
//! * [`guard`] is the border: on or off, no nesting, no panic, every failure ends in the original call;
//! * [`handlers`] translate between driver calls and [`memory`], which decides where bytes are.
//!
//! Nothing here prints or links CUDA. Threads are few, have a reason each and all signals blocked.

pub mod activate;
pub mod detours;
pub mod driver;
#[cfg(all(feature = "preload", not(test)))]
pub mod exports;
pub mod files;
pub mod ggml;
pub mod handlers;
pub mod json;
pub mod memory;
pub mod stream;
pub mod upload;
