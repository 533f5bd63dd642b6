//! Which functions are caught, and how calls of them reach us.
//!
//! ```text
//!   program ──calls──▶ detour (made from the table's row) ──▶ handler ──▶ original
//!                 ▲ put there by a layer: inline, GOT, preload
//! ```
//!
//! * [`table`] says, as data, which functions are intercepted; [`slot`] and the detours are generated from it;
//! * `libraries` and [`loader`] find the originals, and `twins` their second addresses; [`inject`] puts the detours in
//!   their place; [`real`] is how the floors above ask for originals;
//! * [`guard`] is the border: on or off, no nesting, no panic, every failure ends in the original call.
//!
//! What a caught call does is not known here: the crate above hands over its detours with [`slot::set_replacements`]
//! before a layer is installed.

pub mod failpoint;
pub mod guard;
pub mod inject;
mod libraries;
pub mod loader;
pub mod process;
pub mod real;
pub mod slot;
pub mod table;
mod twins;
