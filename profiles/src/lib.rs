//! Framework profiles: loading, matching, validation.
//!
//! A profile is a TOML file that says how GreenBoost treats one framework: which commands it is for, which of their
//! processes are hooked, what may leave VRAM, where which tensors should be, what is reported as free, and which of the
//! framework's own environment variables are set. The ones beside this crate are compiled in; files in `/etc/greenboost/profiles` and in the user's
//! configuration folder add to them or replace them by name.
//!
//! * `file`: the keys, and what one file says, before inheritance; how that becomes a [`Profile`];
//! * `values`: the kinds of values that keys have;
//! * `refusal`: what is wrong with a file, with file, line, key and what is allowed;
//! * [`pattern`]: regular expressions, read as the hook reads them;
//! * `profiles`: the set of all files: overriding, inheritance, matching.
//!
//! A later key is a field in `file`, and a line in its `apply`.

mod error;
mod file;
pub mod pattern;
mod profile;
mod profiles;
mod refusal;
mod values;

pub use error::ProfileError;
pub use profile::{Matcher, Profile, Source, Variable};
pub use profiles::{Match, Profiles};
