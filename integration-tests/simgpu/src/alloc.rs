//! Ordinary device memory.

use crate::accounting::{accounted, addresses};
use crate::context::Context;
use crate::errors::Result;
use crate::physical::{Physical, Place};
use crate::pool::or_trim;
use crate::va::{self, Backing, Origin, only};

/// Allocates for a context.
pub fn take(context: &Context, bytes: u64) -> Result<u64> {
    let place = Place::Device(context.ordinal());
    let memory = or_trim(|| Physical::create(place, accounted(bytes), 0, 0))?;
    let start = addresses(bytes)?;
    let rights = only(context.ordinal());
    va::write().insert(start, bytes, Backing::Physical(memory, 0), Origin::Alloc, rights, context.handle);
    Ok(start)
}
