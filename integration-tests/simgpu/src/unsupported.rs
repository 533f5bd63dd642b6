//! What this GPU does not do: arrays, and some functions nobody here needs. They exist, as they do in the real
//! library, and say so.

use crate::edge::{In, Out, driver};
use crate::errors::Error;
use std::ffi::c_void;

driver! {
    [ctx] "cuArrayCreate" 3020 cuArrayCreate_v2(_call, _array: Out<usize>, _description: In<u8>) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuArray3DCreate" 3020 cuArray3DCreate_v2(_call, _array: Out<usize>, _description: In<u8>) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuArrayDestroy" 2000 cuArrayDestroy(_call, _array: usize) {
        Err(Error::INVALID_HANDLE)
    }

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

    [ctx] "cuMemcpyDtoA" 3020 cuMemcpyDtoA_v2 | 7000 cuMemcpyDtoA_v2_ptds(
        _call, _to: usize, _offset: usize, _from: u64, _bytes: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyAtoD" 3020 cuMemcpyAtoD_v2 | 7000 cuMemcpyAtoD_v2_ptds(
        _call, _to: u64, _from: usize, _offset: usize, _bytes: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyHtoA" 3020 cuMemcpyHtoA_v2 | 7000 cuMemcpyHtoA_v2_ptds(
        _call, _to: usize, _offset: usize, _from: *mut c_void, _bytes: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyAtoH" 3020 cuMemcpyAtoH_v2 | 7000 cuMemcpyAtoH_v2_ptds(
        _call, _to: *mut c_void, _from: usize, _offset: usize, _bytes: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyAtoA" 3020 cuMemcpyAtoA_v2 | 7000 cuMemcpyAtoA_v2_ptds(
        _call, _to: usize, _to_offset: usize, _from: usize, _from_offset: usize, _bytes: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyHtoAAsync" 3020 cuMemcpyHtoAAsync_v2 | 7000 cuMemcpyHtoAAsync_v2_ptsz(
        _call, _to: usize, _offset: usize, _from: *mut c_void, _bytes: usize, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpyAtoHAsync" 3020 cuMemcpyAtoHAsync_v2 | 7000 cuMemcpyAtoHAsync_v2_ptsz(
        _call, _to: *mut c_void, _from: usize, _offset: usize, _bytes: usize, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpy3DBatchAsync" 12080 cuMemcpy3DBatchAsync | 12080 cuMemcpy3DBatchAsync_ptsz(
        _call, _count: usize, _list: In<u8>, _failed: Out<usize>, _flags: u64, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [ctx] "cuMemcpy3DBatchAsync" 13000 cuMemcpy3DBatchAsync_v2 | 13000 cuMemcpy3DBatchAsync_v2_ptsz(
        _call, _count: usize, _list: In<u8>, _flags: u64, _stream: usize,
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
