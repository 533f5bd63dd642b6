//! Asking the driver: its functions, found at run time (`cuda`, `nvml`), in a process of its own, because a driver can hang
//! or crash (`child` starts it), which says what it learns line by line (`report`, `describe`). Doctor and plan both ask.

pub mod child;
pub mod cuda;
pub mod describe;
pub mod nvml;
pub mod report;
