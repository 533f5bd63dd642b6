//! The driver's functions that launch kernels.

use crate::edge::{Call, In, driver};
use crate::errors::Result;
use crate::launch::{Arguments, Dimensions, Launch};
use crate::launch_attributes::{Attribute, programmatic};
use crate::module;
use crate::work::Work;
use std::ffi::c_void;
use std::sync::Arc;

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: Dimensions,
    block: Dimensions,
    shared: u32,
    stream: usize,
    attributes: In<Attribute>,
    attribute_count: u32,
}

impl Config {
    /// One block for a stream; the attributes stay the caller's.
    pub fn new(stream: usize, attributes: &[Attribute]) -> Config {
        let attribute_count = attributes.len() as u32;
        let attributes = In::from(attributes.as_ptr());
        Config { grid: [1; 3], block: [32, 1, 1], shared: 0, stream, attributes, attribute_count }
    }

    /// With another grid and other blocks.
    pub fn shaped(self, grid: Dimensions, block: Dimensions) -> Config {
        Config { grid, block, ..self }
    }
}

const _: () = assert!(size_of::<Config>() == size_of::<cudarc::driver::sys::CUlaunchConfig>());

fn launch(
    call: &Call,
    function: usize,
    (grid, block, shared): (Dimensions, Dimensions, u32),
    stream: usize,
    given: Arguments,
    programmatic: bool,
) -> Result {
    let function = module::function(function)?;
    let stream = call.stream(stream)?;
    let mut launch = Launch::new(function, grid, block, shared, given)?;
    launch.programmatic = programmatic;
    stream.enqueue(Work::Kernel(Arc::new(launch))).map(drop)
}

driver! {
    [ctx] "cuLaunchKernel" 4000 cuLaunchKernel | 7000 cuLaunchKernel_ptsz(
        call, function: usize, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: usize,
        pointers: In<*const c_void>, extra: In<usize>,
    ) {
        let given = Arguments { pointers, extra };
        launch(call, function, ([gx, gy, gz], [bx, by, bz], shared), stream, given, false)
    }

    [ctx] "cuLaunchCooperativeKernel" 9000 cuLaunchCooperativeKernel | 9000 cuLaunchCooperativeKernel_ptsz(
        call, function: usize, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: usize,
        pointers: In<*const c_void>,
    ) {
        let given = Arguments { pointers, extra: In::from(std::ptr::null()) };
        launch(call, function, ([gx, gy, gz], [bx, by, bz], shared), stream, given, false)
    }

    [ctx] "cuLaunchKernelEx" 11060 cuLaunchKernelEx | 11060 cuLaunchKernelEx_ptsz(
        call, config: In<Config>, function: usize, pointers: In<*const c_void>, extra: In<usize>,
    ) {
        let config = config.get()?;
        let early = programmatic(config.attributes, config.attribute_count)?;
        let given = Arguments { pointers, extra };
        launch(call, function, (config.grid, config.block, config.shared), config.stream, given, early)
    }
}
