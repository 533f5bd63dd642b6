//! The parts of streaming that need no driver, each tested by itself: weights outside VRAM are to be copied into VRAM
//! slots ahead of the kernels that read them.
//!
//! The engine that puts them together does not exist yet, and nothing here is called by the hook. How it is meant to
//! work is in `docs/streaming.md`.
//!
//! * [`ring`] gives out slots, [`order`] guesses what comes next, [`rules`] say which kernels get copies;
//! * [`layout`] asks the driver where a kernel's parameters are; [`params`] finds and replaces addresses in them;
//! * [`weights`] is the index that a launch looks into.

pub mod layout;
pub mod order;
pub mod params;
pub mod ring;
pub mod rules;
pub mod weights;
