//! The driver's functions on the driver as a whole.

use crate::driver::initialize;
use crate::edge::{In, Out, driver};
use crate::env::options;
use crate::errors::Error;
use std::ffi::c_void;

driver! {
    [any] "cuInit" 2000 cuInit(_call, flags: u32) {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        initialize()
    }

    [any] "cuDriverGetVersion" 2020 cuDriverGetVersion(_call, version: Out<i32>) {
        version.put(options().driver_version)
    }

    // What the runtime finds in these tables is the driver's secret; without one it goes on alone.
    [any] "cuGetExportTable" 3000 cuGetExportTable(_call, table: Out<*const c_void>, _id: In<[u8; 16]>) {
        table.opt(std::ptr::null());
        Err(Error::NOT_FOUND)
    }

    [init] "cuProfilerStart" 4000 cuProfilerStart(_call) {
        Ok(())
    }

    [init] "cuProfilerStop" 4000 cuProfilerStop(_call) {
        Ok(())
    }
}
