//! The CUDA driver as the hook calls it. Nothing here decides anything, holds state, or links CUDA.
//!
//! * [`abi`] has the types that cross the border, [`status`] the results;
//! * [`driver`] is the table of functions that we call ourselves, always the originals;
//! * [`context`] and [`event`], [`vmm`] and [`host`] are what is made, used and given back with them: points of a stream,
//!   memory of the device's, and memory of the host's that the device uses.

// Contexts, streams and events are names of the driver's; their types are pointers that nobody here follows.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

pub mod abi;
pub mod context;
pub mod driver;
pub mod event;
pub mod host;
pub mod status;
pub mod vmm;

pub use context::{Current, RelaxedCapture};
pub use driver::{Driver, PointerAttribute};
