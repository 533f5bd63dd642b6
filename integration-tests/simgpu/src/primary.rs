//! Primary contexts: one per device, counted, and gone with a reset.

use crate::context::Context;
use crate::driver;
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::waiting::destroy;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[derive(Default)]
struct Primary {
    context: Weak<Context>,
    held: Option<Arc<Context>>,
    count: u32,
    flags: u32,
}

static PRIMARIES: Mutex<Option<HashMap<usize, Primary>>> = Mutex::new(None);

fn with_primary<R>(device: i32, change: impl FnOnce(usize, &mut Primary) -> Result<R>) -> Result<R> {
    let ordinal = driver::device(device)?.ordinal;
    let mut primaries = PRIMARIES.lock().unwrap_or_else(PoisonError::into_inner);
    change(ordinal, primaries.get_or_insert_default().entry(ordinal).or_default())
}

fn release_primary(device: i32) -> Result {
    let last = with_primary(device, |_, primary| {
        primary.count = primary.count.checked_sub(1).ok_or(Error::INVALID_CONTEXT)?;
        Ok(if primary.count == 0 { primary.held.take() } else { None })
    })?;
    if let Some(context) = last {
        destroy(&context);
    }
    Ok(())
}

fn reset_primary(device: i32) -> Result {
    let context = with_primary(device, |_, primary| Ok(primary.held.take()))?;
    if let Some(context) = context {
        destroy(&context);
    }
    Ok(())
}

driver! {
    [init] "cuDevicePrimaryCtxRetain" 7000 cuDevicePrimaryCtxRetain(_call, out: Out<usize>, device: i32) {
        with_primary(device, |ordinal, primary| {
            let context = match primary.context.upgrade().filter(|_| primary.held.is_some()) {
                Some(context) => context,
                None => Context::create(ordinal, primary.flags, 3020, true)?,
            };
            out.put(context.handle)?;
            primary.context = Arc::downgrade(&context);
            primary.held = Some(context);
            primary.count += 1;
            Ok(())
        })
    }

    [init] "cuDevicePrimaryCtxRelease" 7000 cuDevicePrimaryCtxRelease(_call, device: i32) {
        release_primary(device)
    }

    [init] "cuDevicePrimaryCtxRelease" 11000 cuDevicePrimaryCtxRelease_v2(_call, device: i32) {
        release_primary(device)
    }

    [init] "cuDevicePrimaryCtxReset" 7000 cuDevicePrimaryCtxReset(_call, device: i32) {
        reset_primary(device)
    }

    [init] "cuDevicePrimaryCtxReset" 11000 cuDevicePrimaryCtxReset_v2(_call, device: i32) {
        reset_primary(device)
    }

    [init] "cuDevicePrimaryCtxGetState" 7000 cuDevicePrimaryCtxGetState(
        _call, device: i32, flags: Out<u32>, active: Out<i32>,
    ) {
        with_primary(device, |_, primary| {
            flags.opt(primary.flags);
            active.opt(primary.held.is_some() as i32);
            Ok(())
        })
    }

    [init] "cuDevicePrimaryCtxSetFlags" 7000 cuDevicePrimaryCtxSetFlags(_call, device: i32, flags: u32) {
        with_primary(device, |_, primary| {
            if primary.held.is_some() { return Err(Error::PRIMARY_CONTEXT_ACTIVE) }
            primary.flags = flags;
            Ok(())
        })
    }

    [init] "cuDevicePrimaryCtxSetFlags" 11000 cuDevicePrimaryCtxSetFlags_v2(_call, device: i32, flags: u32) {
        with_primary(device, |_, primary| {
            primary.flags = flags;
            Ok(())
        })
    }
}
