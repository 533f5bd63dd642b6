//! The stream functions of the driver, captures excepted.

use crate::capture;
use crate::edge::{Call, Out, driver};
use crate::errors::{Error, Result};
use crate::event::EVENTS;
use crate::event_calls::make_wait;
use crate::gpu::ValueWait;
use crate::stream::{Kind, NON_BLOCKING, STREAMS, Stream, adopt, disown, of, retire};
use crate::work::{HostCall, HostFunction, Work};
use std::ffi::c_void;

/// `CUstreamCallback`
pub type Callback = Option<unsafe extern "C" fn(usize, u32, *mut c_void)>;

impl crate::edge::Shown for Callback {
    fn shown(&self) -> String {
        format!("{:#x}", self.map_or(0, |function| function as usize))
    }
}

fn create(call: &Call, out: Out<usize>, flags: u32, priority: i32) -> Result {
    if out.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    let stream = Stream::create(&context, Kind::Created, flags, priority.clamp(-5, 0));
    adopt(&context, stream.clone());
    out.put(stream.handle)
}

fn write_value(call: &Call, stream: usize, address: u64, value: u64, wide: bool) -> Result {
    if !address.is_multiple_of(if wide { 8 } else { 4 }) {
        return Err(Error::INVALID_VALUE);
    }
    call.stream(stream)?.enqueue(Work::WriteValue { address, value, wide }).map(drop)
}

fn wait_value(call: &Call, stream: usize, address: u64, value: u64, flags: u32, wide: bool) -> Result {
    let wait = ValueWait::from_flags(flags).ok_or(Error::INVALID_VALUE)?;
    call.stream(stream)?.enqueue(Work::WaitValue { address, value, wait, wide }).map(drop)
}

driver! {
    [ctx] "cuStreamCreate" 2000 cuStreamCreate(call, out: Out<usize>, flags: u32) {
        create(call, out, flags, 0)
    }

    [ctx] "cuStreamCreateWithPriority" 5050 cuStreamCreateWithPriority(
        call, out: Out<usize>, flags: u32, priority: i32,
    ) {
        create(call, out, flags, priority)
    }

    [init] "cuStreamDestroy" 4000 cuStreamDestroy_v2(_call, handle: usize) {
        let stream = STREAMS.get(handle)?;
        stream.forbid_capturing()?;
        STREAMS.remove(handle)?;
        // Work that is queued still runs; only then does the worker end.
        stream.close();
        if let Ok(context) = stream.context() {
            if stream.idle() {
                disown(&context, &stream);
            } else {
                retire(&context, stream);
            }
        }
        Ok(())
    }

    [quiet] "cuStreamSynchronize" 2000 cuStreamSynchronize | 7000 cuStreamSynchronize_ptsz(call, stream: usize) {
        let stream = call.stream(stream)?;
        stream.forbid_capturing()?;
        if stream.kind == Kind::Legacy {
            // Passing through the legacy stream waits for every blocking stream as well.
            stream.submit(Work::Nothing, Vec::new())?;
        }
        stream.wait_all();
        let context = stream.context()?;
        crate::pool::trim_after_sync(context.ordinal());
        context.healthy()
    }

    [quiet] "cuStreamQuery" 2000 cuStreamQuery | 7000 cuStreamQuery_ptsz(call, stream: usize) {
        let stream = call.stream(stream)?;
        stream.forbid_capturing()?;
        let context = stream.context()?;
        context.healthy()?;
        let behind_legacy = stream.kind == Kind::Legacy;
        let busy = !stream.idle()
            || behind_legacy && of(&context).iter().any(|other| other.blocking() && !other.idle());
        if busy { Err(Error::NOT_READY) } else { Ok(()) }
    }

    [ctx] "cuStreamWaitEvent" 3020 cuStreamWaitEvent | 7000 cuStreamWaitEvent_ptsz(
        call, stream: usize, event: usize, flags: u32,
    ) {
        let stream = call.stream(stream)?;
        make_wait(&EVENTS.get(event)?, &stream, flags)
    }

    [init] "cuStreamGetFlags" 5050 cuStreamGetFlags | 7000 cuStreamGetFlags_ptsz(
        call, stream: usize, flags: Out<u32>,
    ) {
        flags.put(call.stream(stream)?.flags)
    }

    [init] "cuStreamGetPriority" 5050 cuStreamGetPriority | 7000 cuStreamGetPriority_ptsz(
        call, stream: usize, priority: Out<i32>,
    ) {
        priority.put(call.stream(stream)?.priority)
    }

    [init] "cuStreamGetCtx" 9020 cuStreamGetCtx | 9020 cuStreamGetCtx_ptsz(call, stream: usize, out: Out<usize>) {
        out.put(call.stream(stream)?.context()?.handle)
    }

    [init] "cuStreamGetCtx" 12050 cuStreamGetCtx_v2 | 12050 cuStreamGetCtx_v2_ptsz(
        call, stream: usize, out: Out<usize>, green: Out<usize>,
    ) {
        green.opt(0);
        out.put(call.stream(stream)?.context()?.handle)
    }

    [init] "cuStreamGetDevice" 12080 cuStreamGetDevice | 12080 cuStreamGetDevice_ptsz(
        call, stream: usize, out: Out<i32>,
    ) {
        out.put(call.stream(stream)?.context()?.ordinal() as i32)
    }

    [init] "cuStreamGetId" 12000 cuStreamGetId | 12000 cuStreamGetId_ptsz(call, stream: usize, out: Out<u64>) {
        out.put(call.stream(stream)?.id)
    }

    [init] "cuStreamGetAttribute" 11000 cuStreamGetAttribute | 11000 cuStreamGetAttribute_ptsz(
        call, stream: usize, _attribute: u32, value: Out<[u8; 64]>,
    ) {
        call.stream(stream)?;
        value.put([0; 64])
    }

    [init] "cuStreamSetAttribute" 11000 cuStreamSetAttribute | 11000 cuStreamSetAttribute_ptsz(
        call, stream: usize, _attribute: u32, _value: Out<u8>,
    ) {
        call.stream(stream).map(drop)
    }

    [init] "cuStreamCopyAttributes" 11000 cuStreamCopyAttributes | 11000 cuStreamCopyAttributes_ptsz(
        call, to: usize, from: usize,
    ) {
        call.stream(to)?;
        call.stream(from).map(drop)
    }

    [ctx] "cuStreamAttachMemAsync" 6000 cuStreamAttachMemAsync | 7000 cuStreamAttachMemAsync_ptsz(
        call, stream: usize, _address: u64, _len: usize, _flags: u32,
    ) {
        call.stream(stream).map(drop)
    }

    [ctx] "cuLaunchHostFunc" 10000 cuLaunchHostFunc | 10000 cuLaunchHostFunc_ptsz(
        call, stream: usize, function: HostFunction, data: *mut c_void,
    ) {
        let function = function.ok_or(Error::INVALID_VALUE)?;
        call.stream(stream)?.enqueue(Work::Host(HostCall { function, data: data as usize })).map(drop)
    }

    [ctx] "cuStreamAddCallback" 5000 cuStreamAddCallback | 7000 cuStreamAddCallback_ptsz(
        call, stream: usize, callback: Callback, data: *mut c_void, flags: u32,
    ) {
        let callback = callback.ok_or(Error::INVALID_VALUE)?;
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let target = call.stream(stream)?;
        // Callbacks, unlike host functions, cannot be captured.
        target.forbid_capturing()?;
        target.enqueue(Work::Callback { callback, stream, data: data as usize }).map(drop)
    }

    [ctx] "cuStreamWriteValue32" 8000 cuStreamWriteValue32 | 8000 cuStreamWriteValue32_ptsz(
        call, stream: usize, address: u64, value: u32, _flags: u32,
    ) {
        write_value(call, stream, address, value.into(), false)
    }

    [ctx] "cuStreamWriteValue32" 11070 cuStreamWriteValue32_v2 | 11070 cuStreamWriteValue32_v2_ptsz(
        call, stream: usize, address: u64, value: u32, _flags: u32,
    ) {
        write_value(call, stream, address, value.into(), false)
    }

    [ctx] "cuStreamWriteValue64" 9000 cuStreamWriteValue64 | 9000 cuStreamWriteValue64_ptsz(
        call, stream: usize, address: u64, value: u64, _flags: u32,
    ) {
        write_value(call, stream, address, value, true)
    }

    [ctx] "cuStreamWriteValue64" 11070 cuStreamWriteValue64_v2 | 11070 cuStreamWriteValue64_v2_ptsz(
        call, stream: usize, address: u64, value: u64, _flags: u32,
    ) {
        write_value(call, stream, address, value, true)
    }

    [ctx] "cuStreamWaitValue32" 8000 cuStreamWaitValue32 | 8000 cuStreamWaitValue32_ptsz(
        call, stream: usize, address: u64, value: u32, flags: u32,
    ) {
        wait_value(call, stream, address, value.into(), flags, false)
    }

    [ctx] "cuStreamWaitValue32" 11070 cuStreamWaitValue32_v2 | 11070 cuStreamWaitValue32_v2_ptsz(
        call, stream: usize, address: u64, value: u32, flags: u32,
    ) {
        wait_value(call, stream, address, value.into(), flags, false)
    }

    [ctx] "cuStreamWaitValue64" 9000 cuStreamWaitValue64 | 9000 cuStreamWaitValue64_ptsz(
        call, stream: usize, address: u64, value: u64, flags: u32,
    ) {
        wait_value(call, stream, address, value, flags, true)
    }

    [ctx] "cuStreamWaitValue64" 11070 cuStreamWaitValue64_v2 | 11070 cuStreamWaitValue64_v2_ptsz(
        call, stream: usize, address: u64, value: u64, flags: u32,
    ) {
        wait_value(call, stream, address, value, flags, true)
    }

    [init] "cuThreadExchangeStreamCaptureMode" 10010 cuThreadExchangeStreamCaptureMode(_call, mode: Out<u32>) {
        let wanted = mode.get()?;
        mode.put(capture::exchange_mode(wanted)?)
    }
}
