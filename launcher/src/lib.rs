//! gb-launch, which wraps a command, and greenboost, which looks after the machine.
//!
//! * [`launch`]: from a command line to `exec` with the hook preloaded;
//! * [`status`]: what the hooked processes of this machine hold;
//! * [`doctor`]: what this machine can do, what it cannot, and what to do about it;
//! * [`module`]: the kernel module, installed by DKMS and removed again;
//! * [`pool`]: the kernel module's pool of ready pages, looked at, set and followed;
//! * [`output`]: what all of them print, and what becomes of it where it cannot be written;
//! * [`plan`]: how fast a model will be on this machine, which strategy is fastest, and how to get it.
//!
//! Nothing here links CUDA: every machine can run all of it, and is told what is missing.

pub mod doctor;
pub mod launch;
pub mod module;
pub mod plan;
pub mod pool;
pub mod status;

mod driver;
mod elf;
mod machine;
mod ollama;
pub mod output;
mod procfs;
mod progress;
