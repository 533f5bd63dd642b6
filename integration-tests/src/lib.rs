//! Tests across the parts: launcher, hook, simulated GPU, fixture programs.
