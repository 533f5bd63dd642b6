//! The first generation of functions. Those with 32-bit sizes and device pointers fail, so that a caller who takes
//! them for today's functions notices; the others do what their successors do.

use crate::edge::{Out, driver};
use crate::errors::Error;
use std::ffi::c_void;

driver! {
    [init] "cuMemAlloc" 2000 cuMemAlloc(_call, _out: Out<u32>, _bytes: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemAllocPitch" 2000 cuMemAllocPitch(
        _call, _out: Out<u32>, _pitch: Out<u32>, _width: u32, _height: u32, _element: u32,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemFree" 2000 cuMemFree(_call, _address: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemGetInfo" 2000 cuMemGetInfo(_call, _free: Out<u32>, _total: Out<u32>) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemGetAddressRange" 2000 cuMemGetAddressRange(
        _call, _start: Out<u32>, _len: Out<u32>, _address: u32,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemAllocHost" 2000 cuMemAllocHost(_call, _out: Out<u64>, _bytes: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemHostGetDevicePointer" 2020 cuMemHostGetDevicePointer(
        _call, _out: Out<u32>, _address: *mut c_void, _flags: u32,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyHtoD" 2000 cuMemcpyHtoD(_call, _to: u32, _from: *mut c_void, _bytes: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyDtoH" 2000 cuMemcpyDtoH(_call, _to: *mut c_void, _from: u32, _bytes: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyDtoD" 2000 cuMemcpyDtoD(_call, _to: u32, _from: u32, _bytes: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyHtoDAsync" 2000 cuMemcpyHtoDAsync(
        _call, _to: u32, _from: *mut c_void, _bytes: u32, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyDtoHAsync" 2000 cuMemcpyDtoHAsync(
        _call, _to: *mut c_void, _from: u32, _bytes: u32, _stream: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpyDtoDAsync" 3000 cuMemcpyDtoDAsync(_call, _to: u32, _from: u32, _bytes: u32, _stream: usize) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpy2D" 2000 cuMemcpy2D(_call, _copy: Out<c_void>) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpy2DUnaligned" 2000 cuMemcpy2DUnaligned(_call, _copy: Out<c_void>) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpy2DAsync" 2000 cuMemcpy2DAsync(_call, _copy: Out<c_void>, _stream: usize) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpy3D" 2000 cuMemcpy3D(_call, _copy: Out<c_void>) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemcpy3DAsync" 2000 cuMemcpy3DAsync(_call, _copy: Out<c_void>, _stream: usize) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemsetD8" 2000 cuMemsetD8(_call, _to: u32, _value: u8, _n: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemsetD16" 2000 cuMemsetD16(_call, _to: u32, _value: u16, _n: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuMemsetD32" 2000 cuMemsetD32(_call, _to: u32, _value: u32, _n: u32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuDeviceTotalMem" 2000 cuDeviceTotalMem(_call, _bytes: Out<u32>, _device: i32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuModuleGetGlobal" 2000 cuModuleGetGlobal(
        _call, _address: Out<u32>, _size: Out<u32>, _module: usize, _name: Out<u8>,
    ) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuCtxCreate" 2000 cuCtxCreate(_call, _out: Out<usize>, _flags: u32, _device: i32) {
        Err(Error::NOT_SUPPORTED)
    }

    [any] "cuCtxDestroy" 2000 cuCtxDestroy(_call, context: usize) {
        pass(crate::context_calls::cuCtxDestroy_v2(context))
    }

    [any] "cuCtxPushCurrent" 2000 cuCtxPushCurrent(_call, context: usize) {
        pass(crate::context_calls::cuCtxPushCurrent_v2(context))
    }

    [any] "cuCtxPopCurrent" 2000 cuCtxPopCurrent(_call, out: Out<usize>) {
        pass(crate::context_calls::cuCtxPopCurrent_v2(out))
    }

    [any] "cuStreamDestroy" 2000 cuStreamDestroy(_call, stream: usize) {
        pass(crate::stream_calls::cuStreamDestroy_v2(stream))
    }

    [any] "cuEventDestroy" 2000 cuEventDestroy(_call, event: usize) {
        pass(crate::event_calls::cuEventDestroy_v2(event))
    }

    [any] "cuStreamBeginCapture" 10000 cuStreamBeginCapture | 10000 cuStreamBeginCapture_ptsz(_call, stream: usize) {
        pass(crate::capture_calls::cuStreamBeginCapture_v2(stream, 0))
    }
}

fn pass(code: u32) -> crate::errors::Result {
    if code == 0 { Ok(()) } else { Err(Error(code)) }
}
