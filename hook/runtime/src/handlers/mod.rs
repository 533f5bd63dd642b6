//! What happens at each intercepted call. One module per area of the driver; a handler has the original as its
//! first argument, then the arguments of the table's row.
//!
//! Handlers are thin: they turn driver arguments into questions to [`crate::runtime::Core`] and its answers into
//! driver results. They answer [`greenboost_intercept::guard::Bypass`] only before they have called the original.
//!
//! All of them are unsafe for one reason, stated here once: they are called with whatever the program passes
//! to the driver, and write where it says, exactly as the driver would.
#![allow(clippy::missing_safety_doc)]
// The driver decides how many arguments there are.
#![allow(clippy::too_many_arguments)]

pub mod alloc;
pub mod batch;
pub mod batch3d;
pub mod capture;
pub mod context;
pub mod copy;
pub mod copy2d;
pub mod copy3d;
pub mod host;
pub mod launch;
pub mod memset;
pub mod nvml;
pub mod query;
pub mod resolve;
pub mod retry;
pub mod vmm;
