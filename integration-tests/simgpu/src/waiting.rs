//! Waiting for the work of a context or of a device, and the end of a context, which waits for it.

use crate::context::{CONTEXTS, Context};
use crate::stream::{forget, of};

/// Waits for everything submitted to a context.
pub fn wait_for(context: &Context) {
    for stream in of(context) {
        stream.wait_all();
    }
}

/// Waits for all work on a device, whatever its context.
pub fn wait_for_device(ordinal: usize) {
    for context in CONTEXTS.all().iter().filter(|context| context.ordinal() == ordinal) {
        wait_for(context);
    }
}

/// Ends a context once its work is done, and frees what belongs to it.
pub fn destroy(context: &Context) {
    wait_for(context);
    if !context.end() {
        return;
    }
    for stream in of(context) {
        stream.close();
    }
    forget(context);
    context.release();
}
