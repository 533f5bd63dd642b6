//! Framework profiles: loading, matching, validation.
