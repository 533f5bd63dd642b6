//! The driver of this process.

use greenboost_cuda::Driver;
use greenboost_intercept::real;
use greenboost_intercept::slot::Library;
use std::sync::OnceLock;

/// The driver, or `None` when it is not loaded or too old to have a function we need.
pub fn get() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            Driver::load(real::original)
                .inspect_err(|symbol| log::error!("the driver has no {symbol}: memory stays as the driver gives it"))
                .ok()
        })
        .as_ref()
}

/// Keeps the driver where it is. A plugin that needs it may be closed and opened again (ggml does), and the driver
/// would come back elsewhere while our addresses, and our memory, are of the old one.
pub fn pin() {
    if !real::dl::keep(Library::Cuda.soname()) {
        log::warn!("the driver could not be pinned: a program that unloads it would take our addresses with it");
    }
}
