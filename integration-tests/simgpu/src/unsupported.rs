//! What this GPU does not do: some functions nobody here needs. They exist, as they do in the real
//! library, and say so.

use crate::edge::{In, Out, driver};
use crate::errors::Error;
use std::ffi::c_void;

driver! {
    [ctx] "cuMipmappedArrayCreate" 5000 cuMipmappedArrayCreate(
        _call, _array: Out<usize>, _description: In<u8>, _levels: u32,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemMapArrayAsync" 11010 cuMemMapArrayAsync | 11010 cuMemMapArrayAsync_ptsz(
        _call, _list: In<u8>, _count: u32, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuGraphAddNode" 12020 cuGraphAddNode(
        _call, _out: Out<usize>, _graph: usize, _after: In<usize>, _count: usize, _parameters: In<u8>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuGraphAddNode" 12030 cuGraphAddNode_v2(
        _call, _out: Out<usize>, _graph: usize, _after: In<usize>, _edges: In<u8>, _count: usize,
        _parameters: In<u8>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuGraphAddMemAllocNode" 11040 cuGraphAddMemAllocNode(
        _call, _out: Out<usize>, _graph: usize, _after: In<usize>, _count: usize, _parameters: In<u8>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuGraphAddMemFreeNode" 11040 cuGraphAddMemFreeNode(
        _call, _out: Out<usize>, _graph: usize, _after: In<usize>, _count: usize, _address: u64,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuStreamBatchMemOp" 11070 cuStreamBatchMemOp_v2 | 11070 cuStreamBatchMemOp_v2_ptsz(
        _call, _stream: usize, _count: u32, _list: In<u8>, _flags: u32,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuDeviceGraphMemTrim" 11040 cuDeviceGraphMemTrim(_call, _device: i32) {
        Ok(())
    }

    [init] "cuMemPoolImportFromShareableHandle" 11020 cuMemPoolImportFromShareableHandle(
        _call, _out: Out<usize>, _handle: *mut c_void, _kind: u32, _flags: u64,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMulticastCreate" 12010 cuMulticastCreate(_call, _out: Out<u64>, _properties: In<u8>) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuImportExternalMemory" 10000 cuImportExternalMemory(
        _call, _memory: Out<usize>, _description: In<u8>,
    ) {
        // Documented as Tegra-only for DMA-BUF; it fails on PCIe boards.
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuImportExternalSemaphore" 10000 cuImportExternalSemaphore(
        _call, _semaphore: Out<usize>, _description: In<u8>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }
}
