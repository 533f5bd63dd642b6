//! Tests across the parts: launcher, hook, simulated GPU, fixture programs.
//!
//! A test describes a [`World`] (how much VRAM, which driver, hooked or not) and runs a target program in it:
//!
//! ```no_run
//! use integration_tests::World;
//! let outcome = World::new().vram("16MiB").layers("got").run("dlsym");
//! assert!(outcome.caught());
//! ```
//!
//! Everything a world needs is built on first use ([`artefacts`], [`fixtures`]).

pub mod artefacts;
pub mod fixtures;
mod outcome;
pub mod streamed;
pub mod tier_map;
mod toy;
pub mod trace;
mod world;

pub use outcome::{Outcome, Running};
pub use toy::{Toy, toy};
pub use world::World;
