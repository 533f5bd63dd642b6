//! A launch of the program, as far as experts go.

use crate::layout::Layout;
use greenboost_contract::experts::ExpertLayout;
use greenboost_cuda::abi::CUstream;
use std::ffi::c_void;

/// Grid and block of a launch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dimensions {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of one.
    pub block: [u32; 3],
}

/// A launch of the program.
pub struct Launch<'a> {
    /// The kernel.
    pub layout: &'a Layout,
    /// How it has its parameters.
    pub rule: &'a ExpertLayout,
    /// Its shape.
    pub shape: Dimensions,
    /// Its stream, which has a name.
    pub stream: CUstream,
    /// Its parameters.
    pub params: *mut *mut c_void,
    /// Or in this form.
    pub extra: *mut *mut c_void,
}
