//! Framework profiles: loading, matching, validation.
//!
//! A profile is a TOML file that says how GreenBoost treats one framework: which commands it is for, which of their
//! processes are hooked, what may leave VRAM, where which tensors should be, what is reported as free, and which of the
//! framework's own environment variables are set. The ones beside this crate are compiled in; files in `/etc/greenboost/profiles` and in the user's
//! configuration folder add to them or replace them by name.
//!
//! * `schema`: the keys, as data;
//! * `read`: one file to a `Draft`, every error with file, line, key and what is allowed; its `[[place]]` rules: `place`;
//! * `draft`: what a file says, before inheritance, and how that becomes a [`Profile`];
//! * [`pattern`]: regular expressions, read as the hook reads them;
//! * `profiles`: the set of all files: overriding, inheritance, matching.
//!
//! A later `[[kernel]]` rule is a row in `schema`, a field in `Draft`, and a reader in `read`.

mod draft;
mod error;
mod kernel;
pub mod pattern;
mod place;
mod profile;
mod profiles;
mod read;
mod schema;

pub use error::ProfileError;
pub use profile::{Matcher, Profile, Source, Variable};
pub use profiles::{Match, Profiles};
