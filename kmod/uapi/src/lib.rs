//! What greenboost.ko offers, typed.
//!
//! A [`Device`] is an open `/dev/greenboost`: it allocates [`Buffer`]s (DMA-BUFs of 2 MiB pages), and hears of memory
//! pressure. A [`Mapping`] is a buffer in this process,
//! at an address where the kernel maps 2 MiB at once.
//!
//! Everything is given back by being dropped, and by the kernel where a process dies without dropping: memory belongs to
//! the last descriptor or mapping of a buffer, never to the device's.
//!
//! [`abi`] is the C header in Rust. Both sides assert the same sizes and offsets, and a test compiles the header and
//! compares.

pub mod abi;
mod buffer;
mod device;
mod error;
mod mapping;

pub use abi::CHUNK;
pub use buffer::{Buffer, Request};
pub use device::{Causes, Device, Event, Info, Level};
pub use error::{Error, Result};
pub use mapping::{Access, Mapping, map_fixed};
