//! Pages, the unit in which files are mapped.

use greenboost_intercept::inject::page_size;

/// Bytes of a page.
pub fn page() -> u64 {
    page_size() as u64
}

/// Whether a tensor at an address can have a file's pages for its own: they are mapped whole.
pub fn is_congruent(address: u64, offset: u64) -> bool {
    address % page() == offset % page()
}
