//! The library that `gb-launch` injects into a CUDA program: the top floor, which owns all state and decides.
//!
//! ```text
//!   program ──calls──▶ detour ──▶ handler ──▶ Core: allocate, deferred, eviction, pending, writes
//!                                                │
//!        streaming (stream) ── memory ── weights ── intercept ── cuda ──▶ driver (originals)
//! ```
//!
//! * [`runtime`] has the state; [`activate`] decides whether this process is ours, and starts everything;
//! * [`handlers`] translate between driver calls and [`runtime::Core`], with [`detours`] and exports made from the table;
//! * [`ggml`] listens to what llama.cpp's libraries say of tensors, [`follow`] to what the program does with its addresses.
//!
//! Nothing here prints or links CUDA. Threads are few, have a reason each and all signals blocked.

// Contexts and streams are names of the driver's; their types are pointers that nobody here follows.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

pub mod activate;
mod ahead;
mod allocate;
mod deferred;
pub mod detours;
mod eviction;
mod exit;
#[cfg(all(feature = "preload", not(test)))]
pub mod exports;
pub mod follow;
mod free;
pub mod ggml;
pub mod handlers;
mod pending;
mod pressure;
mod probe;
pub mod runtime;
mod tier_map;
mod writes;
