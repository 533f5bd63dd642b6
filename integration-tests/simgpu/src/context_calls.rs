//! The context functions of the driver.

use crate::context::{CONTEXTS, Context, current, with_stack};
use crate::driver;
use crate::edge::{Call, Out, driver};
use crate::errors::{Error, Result};
use crate::pool::trim_after_sync;
use crate::stream::of;
use crate::waiting::{destroy, wait_for};
use std::sync::Arc;

fn create_current(out: Out<usize>, flags: u32, device: i32, version: u32) -> Result {
    if out.is_null() || flags & !0xff != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let ordinal = driver::device(device)?.ordinal;
    let context = Context::create(ordinal, flags, version, false)?;
    out.put(context.handle)?;
    with_stack(|stack| stack.push(context))
}

fn set_peer(call: &Call, peer: usize, on: bool) -> Result {
    let context = call.context()?;
    let peer = CONTEXTS.get(peer)?.ordinal();
    if peer == context.ordinal() { Err(Error::INVALID_DEVICE) } else { context.set_peer(peer, on) }
}

fn synchronize(context: &Arc<Context>) -> Result {
    for stream in of(context) {
        stream.forbid_capturing()?;
    }
    wait_for(context);
    trim_after_sync(context.ordinal());
    context.healthy()
}

driver! {
    [init] "cuCtxCreate" 3020 cuCtxCreate_v2(_call, out: Out<usize>, flags: u32, device: i32) {
        create_current(out, flags, device, 3020)
    }

    [init] "cuCtxCreate" 11040 cuCtxCreate_v3(
        _call, out: Out<usize>, _affinity: Out<u8>, _count: i32, flags: u32, device: i32,
    ) {
        create_current(out, flags, device, 3020)
    }

    [init] "cuCtxCreate" 12050 cuCtxCreate_v4(
        _call, out: Out<usize>, _params: Out<u8>, flags: u32, device: i32,
    ) {
        create_current(out, flags, device, 3020)
    }

    [init] "cuCtxDestroy" 4000 cuCtxDestroy_v2(_call, handle: usize) {
        let context = CONTEXTS.get(handle)?;
        if context.primary() {
            return Err(Error::INVALID_CONTEXT);
        }
        destroy(&context);
        with_stack(|stack| {
            if stack.last().is_some_and(|top| top.handle == handle) {
                stack.pop();
            }
        })
    }

    [init] "cuCtxGetCurrent" 4000 cuCtxGetCurrent(_call, out: Out<usize>) {
        out.put(current().map_or(0, |context| context.handle))
    }

    [init] "cuCtxSetCurrent" 4000 cuCtxSetCurrent(_call, handle: usize) {
        let context = if handle == 0 { None } else { Some(CONTEXTS.get(handle)?) };
        with_stack(|stack| {
            stack.pop();
            stack.extend(context);
        })
    }

    [init] "cuCtxPushCurrent" 4000 cuCtxPushCurrent_v2(_call, handle: usize) {
        let context = CONTEXTS.get(handle)?;
        with_stack(|stack| stack.push(context))
    }

    [init] "cuCtxPopCurrent" 4000 cuCtxPopCurrent_v2(_call, out: Out<usize>) {
        let context = with_stack(Vec::pop)?.ok_or(Error::INVALID_CONTEXT)?;
        out.opt(context.handle);
        Ok(())
    }

    [init] "cuCtxGetDevice" 2000 cuCtxGetDevice(call, out: Out<i32>) {
        out.put(call.context()?.ordinal() as i32)
    }

    [init] "cuCtxGetDevice" 13000 cuCtxGetDevice_v2(call, out: Out<i32>, handle: usize) {
        let context = if handle == 0 { call.context()? } else { CONTEXTS.get(handle)? };
        out.put(context.ordinal() as i32)
    }

    [init] "cuCtxGetFlags" 7000 cuCtxGetFlags(call, out: Out<u32>) {
        out.put(call.context()?.flags())
    }

    [init] "cuCtxSetFlags" 12010 cuCtxSetFlags(call, _flags: u32) {
        call.context().map(drop)
    }

    [init] "cuCtxGetId" 12000 cuCtxGetId(call, handle: usize, out: Out<u64>) {
        let context = if handle == 0 { call.context()? } else { CONTEXTS.get(handle)? };
        out.put(context.handle as u64 >> 6)
    }

    [init] "cuCtxGetApiVersion" 3020 cuCtxGetApiVersion(call, handle: usize, out: Out<u32>) {
        let context = if handle == 0 { call.context()? } else { CONTEXTS.get(handle)? };
        out.put(context.version())
    }

    [ctx] "cuCtxGetStreamPriorityRange" 5050 cuCtxGetStreamPriorityRange(
        _call, least: Out<i32>, greatest: Out<i32>,
    ) {
        least.opt(0);
        greatest.opt(-5);
        Ok(())
    }

    [ctx] "cuCtxGetCacheConfig" 3020 cuCtxGetCacheConfig(_call, out: Out<u32>) {
        out.put(0)
    }

    [ctx] "cuCtxSetCacheConfig" 3020 cuCtxSetCacheConfig(_call, _config: u32) {
        Ok(())
    }

    [ctx] "cuCtxGetSharedMemConfig" 4020 cuCtxGetSharedMemConfig(_call, out: Out<u32>) {
        out.put(1)
    }

    [ctx] "cuCtxSetSharedMemConfig" 4020 cuCtxSetSharedMemConfig(_call, _config: u32) {
        Ok(())
    }

    [ctx] "cuCtxGetLimit" 3010 cuCtxGetLimit(_call, out: Out<usize>, limit: u32) {
        out.put(match limit {
            0 => 1024,
            1 => 1 << 20,
            2 => 8 << 20,
            3 => 2,
            4 => 2048,
            5 => 64,
            6 => 0,
            _ => return Err(Error::UNSUPPORTED_LIMIT),
        })
    }

    [ctx] "cuCtxSetLimit" 3010 cuCtxSetLimit(_call, limit: u32, _value: usize) {
        if limit > 6 { Err(Error::UNSUPPORTED_LIMIT) } else { Ok(()) }
    }

    [ctx] "cuCtxResetPersistingL2Cache" 11000 cuCtxResetPersistingL2Cache(_call) {
        Ok(())
    }

    [ctx] "cuCtxEnablePeerAccess" 4000 cuCtxEnablePeerAccess(call, peer: usize, flags: u32) {
        if flags != 0 { return Err(Error::INVALID_VALUE) }
        set_peer(call, peer, true)
    }

    [ctx] "cuCtxDisablePeerAccess" 4000 cuCtxDisablePeerAccess(call, peer: usize) {
        set_peer(call, peer, false)
    }

    [quiet] "cuCtxSynchronize" 2000 cuCtxSynchronize(call) {
        synchronize(&call.context()?)
    }

    [quiet] "cuCtxSynchronize" 13000 cuCtxSynchronize_v2(call, handle: usize) {
        let context = if handle == 0 { call.context()? } else { CONTEXTS.get(handle)? };
        synchronize(&context)
    }
}
