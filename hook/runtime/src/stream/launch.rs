//! What is done at the launch of a kernel or of a graph.

use super::engine::Session;
use super::{choice, graphs, has_name, layout, may_capture, params, rules, weights};
use crate::memory::Memory;
use greenboost_contract::Stream;
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;

/// Issues a launch with the addresses of weights outside VRAM replaced by those of their copies. `issue` gets the
/// parameters, and whether they are replaced.
///
/// # Safety
/// The parameters are those of a launch of `function`, which `issue` makes.
pub unsafe fn launch(
    memory: &Memory,
    function: CUfunction,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    issue: impl Fn(*mut *mut c_void, *mut *mut c_void, bool) -> Status,
) -> Status {
    let index = weights::index();
    if index.len() == 0 || memory.settings.stream == Stream::Off {
        return issue(params, extra, false);
    }
    let layout = layout::of(function);
    if layout.is_never {
        return issue(params, extra, false);
    }
    let may_capture = may_capture();
    let mut relaxed = None;
    let mut session: Option<Session<'_>> = None;
    // Bytes of tensors that this launch reads in place to see how long that takes.
    let mut to_time = 0;
    let mut has_slots = false;
    let mut replace = |address| {
        let weight = index.find(address)?;
        let reading = match rules::way(layout.rules, weight.rules) {
            rules::Way::Slot => choice::Advice::Slot,
            rules::Way::InPlace => choice::Advice::InPlace,
            // A capture has no times.
            rules::Way::Measured if may_capture || has_slots => choice::Advice::Slot,
            rules::Way::Measured if to_time > 0 => choice::Advice::Time,
            rules::Way::Measured => choice::advice(memory.driver, &layout.name, &layout.decided),
        };
        let uses_slots = match reading {
            choice::Advice::Slot => true,
            // A capture's copies are its own, made in it.
            choice::Advice::InPlace => !may_capture,
            choice::Advice::Time => false,
        };
        if uses_slots && has_name(stream) {
            if session.is_none() {
                relaxed = may_capture.then(|| RelaxedCapture::enter(memory.driver));
                session = Session::begin(memory, weight.device, stream, may_capture);
            }
            let slot = session.as_mut().and_then(|session| match reading {
                choice::Advice::Slot => session.slot(weight),
                _ => session.slot_left(weight),
            });
            if let Some(slot) = slot {
                has_slots = true;
                return Some(slot + (address - weight.at));
            }
        }
        if reading == choice::Advice::Time {
            to_time += weight.bytes;
        }
        let device = memory.device(weight.device).ok()?;
        device.record.in_place.fetch_add(1, Relaxed);
        None
    };
    // SAFETY: the caller's promise.
    let replaced = unsafe { params::replace(&layout, params, extra, &mut replace) };
    let (Some(mut replaced), Some(mut session)) = (replaced, session) else {
        if to_time == 0 {
            return issue(params, extra, false);
        }
        let timing = choice::begins(memory.driver, stream, to_time);
        let status = issue(params, extra, false);
        choice::ends(memory.driver, &layout.name, stream, timing);
        return status;
    };
    if to_time > 0 {
        // Not alone: it has to wait for a copy, and says nothing.
        choice::give_up(&layout.name);
    }
    replaced.seal();
    if !session.before_launch() {
        return issue(params, extra, false);
    }
    let status = issue(replaced.params(), replaced.extra(), true);
    session.after_launch(&index, &layout.name);
    status
}

/// Issues a launch of a graph on `stream`.
pub fn launch_graph(memory: &Memory, exec: CUgraphExec, stream: CUstream, issue: impl Fn() -> Status) -> Status {
    // Served copies are in no graph, so that graphs use no slots then.
    if memory.settings.stream == Stream::Off {
        return issue();
    }
    let Some(device) = memory.current_device().ok() else { return issue() };
    let may_capture = may_capture();
    let _relaxed = may_capture.then(|| RelaxedCapture::enter(memory.driver));
    let Some(mut session) = Session::begin(memory, device.ordinal, stream, may_capture) else { return issue() };
    session.before_graph();
    let status = issue();
    session.after_graph();
    if status == SUCCESS {
        device.record.captured.fetch_add(graphs::copied_by(exec), Relaxed);
    }
    status
}
