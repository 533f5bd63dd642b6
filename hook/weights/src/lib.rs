//! Tensors as the hook knows them: which there are, where they should be, which bytes of which file they are.
//!
//! * [`registry`] has the tensors that the program's framework told of;
//! * [`placement`] goes from rules and tensors to tiers, [`eviction`] says what leaves VRAM first, [`hint`] how much bytes want
//!   to be there;
//! * [`files`] knows the model files that the program has mapped, and what is in them.
//!
//! No driver and no statics: all of it can be tested alone.

pub mod eviction;
pub mod files;
pub mod hint;
pub mod placement;
pub mod registry;
