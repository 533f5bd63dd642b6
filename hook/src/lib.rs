//! The library injected into CUDA programs: intercepts the driver, places and moves memory.
