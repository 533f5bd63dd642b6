//! The three layers through which calls reach the detours, and what keeps them up to date.
//!
//! * [`inline`]: the bodies of the loader's functions and of `cuGetProcAddress`, on request of all functions;
//! * [`got`]: the pointers through which loaded objects call;
//! * interposition: our exports, found first because this library is preloaded (made where the handlers are).
//!
//! Each works alone. Each is tried at start, and one that fails its test is left out.
//!
//! In order, each using only those before it: [`os`], [`image`], [`entries`], [`still`] read; [`layers`] keeps the state;
//! [`got`] and [`inline`] patch; [`renew`] has them look at what is new and installs them; [`origin`], [`open`] and
//! [`lookup`] decide the calls of the loader's functions, which [`shims`] leads to them.

pub mod entries;
pub mod got;
pub mod image;
pub mod inline;
pub mod layers;
pub mod lookup;
pub mod open;
pub mod origin;
pub mod os;
pub mod renew;
pub mod shim;
pub mod shims;
pub mod still;

pub use inline::engine;
pub use layers::{CODE, EXPORT, GOT, is_on, standing};
pub use os::page_size;
pub use renew::{install, tell_in, want};
