//! Experts of a mixture in VRAM: copies of the hot ones in expert slots, and all of them in RAM.
//!
//! A token reads a few of a layer's experts, and reads some far more often than others. Each layer has expert slots in VRAM,
//! and what was asked for decides which experts are in them.

pub mod policy;
