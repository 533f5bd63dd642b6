//! Starting a copy: when the source is read, and how long the host waits.

use crate::capture::{self, Member};
use crate::copy::{Kind, Place, Plan, Shape};
use crate::errors::Result;
use crate::stream::Stream;
use crate::work::Work;
use std::sync::Arc;

/// Pageable sources up to this size are staged by a synchronous copy, which then returns before they arrived.
const STAGED_SYNC: u64 = 64 << 10;

/// When the source of an asynchronous copy is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceOrder {
    /// Pageable memory at the call, other memory in stream order.
    Usual,
    /// In stream order, whatever it is.
    Stream,
    /// At the call, whatever it is.
    AtCall,
}

/// Starts a copy as `cuMemcpy*` (`sync`) or `cuMemcpy*Async` does, and waits as long as those wait.
pub fn start(stream: &Arc<Stream>, sync: bool, order: SourceOrder, to: Place, from: Place, shape: Shape) -> Result {
    if sync {
        stream.forbid_capturing()?;
        capture::forbid_unsafe()?;
    }
    if shape.bytes() == 0 {
        return Ok(());
    }
    let context = stream.context()?;
    let (mut plan, to_kind, from_kind) = Plan::new(to, from, shape)?;
    let capturing = stream.capture().is_some();
    let stage = !capturing
        && match order {
            SourceOrder::Usual => from_kind == Kind::Pageable && (!sync || shape.bytes() <= STAGED_SYNC),
            SourceOrder::Stream => false,
            SourceOrder::AtCall => true,
        };
    if stage {
        if sync {
            stream.submit(Work::Nothing, Vec::new())?.wait();
        }
        plan.stage(&context)?;
    }
    let wait = if sync {
        to_kind != Kind::Device || from_kind != Kind::Device && !stage
    } else {
        to_kind == Kind::Pageable && order == SourceOrder::Usual
    };
    if let Some(fence) = stream.enqueue(Work::Copy(Arc::new(plan)))?
        && wait
    {
        fence.wait();
        context.healthy()?;
    }
    Ok(())
}
