//! What the driver says about functions and kernels.

use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use crate::module::{FUNCTIONS, Function, KERNELS};
use std::ffi::c_char;
use std::sync::atomic::Ordering;

const MAX_DYNAMIC_SHARED: u32 = 8;
const SHARED_OPT_IN: i32 = 232_448;

fn attribute(function: &Function, attribute: u32) -> Result<i32> {
    Ok(match attribute {
        0 => 1024,
        4 => 32,
        5 => 80,
        6 => 90,
        MAX_DYNAMIC_SHARED => function.shared_limit.load(Ordering::Relaxed),
        9 => -1,
        1..=17 => 0,
        _ => return Err(Error::INVALID_VALUE),
    })
}

fn set_attribute(function: &Function, attribute: u32, value: i32) -> Result {
    match attribute {
        MAX_DYNAMIC_SHARED if !(0..=SHARED_OPT_IN).contains(&value) => Err(Error::INVALID_VALUE),
        MAX_DYNAMIC_SHARED => {
            function.shared_limit.store(value, Ordering::Relaxed);
            Ok(())
        }
        9 | 11..=15 => Ok(()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn parameter(function: &Function, index: usize, offset: Out<usize>, size: Out<usize>) -> Result {
    // Callers count parameters by asking until this fails.
    let (at, bytes) = *function.parameters.get(index).ok_or(Error::INVALID_VALUE)?;
    offset.put(at)?;
    size.opt(bytes);
    Ok(())
}

driver! {
    [ctx] "cuFuncGetAttribute" 2020 cuFuncGetAttribute(_call, out: Out<i32>, which: u32, function: usize) {
        out.put(attribute(&*crate::module::function(function)?, which)?)
    }

    [ctx] "cuFuncSetAttribute" 9000 cuFuncSetAttribute(_call, function: usize, which: u32, value: i32) {
        set_attribute(&*crate::module::function(function)?, which, value)
    }

    [ctx] "cuFuncSetCacheConfig" 3000 cuFuncSetCacheConfig(_call, function: usize, _config: u32) {
        FUNCTIONS.get(function).map(drop)
    }

    [ctx] "cuFuncSetSharedMemConfig" 4020 cuFuncSetSharedMemConfig(_call, function: usize, _config: u32) {
        FUNCTIONS.get(function).map(drop)
    }

    [ctx] "cuFuncGetModule" 11000 cuFuncGetModule(_call, out: Out<usize>, function: usize) {
        out.put(FUNCTIONS.get(function)?.module)
    }

    [init] "cuFuncGetName" 12030 cuFuncGetName(_call, out: Out<*const c_char>, function: usize) {
        out.put(FUNCTIONS.get(function)?.name.as_ptr())
    }

    [init] "cuFuncGetParamInfo" 12040 cuFuncGetParamInfo(
        _call, function: usize, index: usize, offset: Out<usize>, size: Out<usize>,
    ) {
        parameter(&*FUNCTIONS.get(function)?, index, offset, size)
    }

    [init] "cuFuncIsLoaded" 12040 cuFuncIsLoaded(_call, state: Out<u32>, function: usize) {
        FUNCTIONS.get(function)?;
        state.put(1)
    }

    [init] "cuFuncLoad" 12040 cuFuncLoad(_call, function: usize) {
        FUNCTIONS.get(function).map(drop)
    }

    [init] "cuKernelGetName" 12030 cuKernelGetName(_call, out: Out<*const c_char>, kernel: usize) {
        out.put(KERNELS.get(kernel)?.function.name.as_ptr())
    }

    [init] "cuKernelGetParamInfo" 12040 cuKernelGetParamInfo(
        _call, kernel: usize, index: usize, offset: Out<usize>, size: Out<usize>,
    ) {
        parameter(&KERNELS.get(kernel)?.function, index, offset, size)
    }

    [init] "cuKernelGetAttribute" 12000 cuKernelGetAttribute(
        _call, out: Out<i32>, which: u32, kernel: usize, _device: i32,
    ) {
        out.put(attribute(&KERNELS.get(kernel)?.function, which)?)
    }

    [init] "cuKernelSetAttribute" 12000 cuKernelSetAttribute(
        _call, which: u32, value: i32, kernel: usize, _device: i32,
    ) {
        set_attribute(&KERNELS.get(kernel)?.function, which, value)
    }

    [init] "cuKernelSetCacheConfig" 12000 cuKernelSetCacheConfig(_call, kernel: usize, _config: u32, _device: i32) {
        KERNELS.get(kernel).map(drop)
    }

    [ctx] "cuOccupancyMaxActiveBlocksPerMultiprocessor" 6050 cuOccupancyMaxActiveBlocksPerMultiprocessor(
        _call, blocks: Out<i32>, function: usize, block: i32, _shared: usize,
    ) {
        crate::module::function(function)?;
        blocks.put(2048 / block.clamp(1, 1024))
    }

    [ctx] "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags" 7000
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        _call, blocks: Out<i32>, function: usize, block: i32, _shared: usize, _flags: u32,
    ) {
        crate::module::function(function)?;
        blocks.put(2048 / block.clamp(1, 1024))
    }

    [ctx] "cuOccupancyMaxPotentialBlockSize" 6050 cuOccupancyMaxPotentialBlockSize(
        _call, grid: Out<i32>, block: Out<i32>, function: usize, _shared_of: In<u8>, _shared: usize, _limit: i32,
    ) {
        crate::module::function(function)?;
        grid.put(264)?;
        block.put(1024)
    }

    [ctx] "cuOccupancyMaxPotentialBlockSizeWithFlags" 7000 cuOccupancyMaxPotentialBlockSizeWithFlags(
        _call, grid: Out<i32>, block: Out<i32>, function: usize, _shared_of: In<u8>, _shared: usize, _limit: i32,
        _flags: u32,
    ) {
        crate::module::function(function)?;
        grid.put(264)?;
        block.put(1024)
    }

    [ctx] "cuOccupancyAvailableDynamicSMemPerBlock" 10020 cuOccupancyAvailableDynamicSMemPerBlock(
        _call, bytes: Out<usize>, function: usize, blocks: i32, _block: i32,
    ) {
        crate::module::function(function)?;
        bytes.put(SHARED_OPT_IN as usize / blocks.max(1) as usize)
    }

    [ctx] "cuOccupancyMaxActiveClusters" 11070 cuOccupancyMaxActiveClusters(
        _call, clusters: Out<i32>, function: usize, _config: In<u8>,
    ) {
        crate::module::function(function)?;
        clusters.put(66)
    }
}
