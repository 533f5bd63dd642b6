//! What is done at the launch of a kernel or of a graph.

use crate::engine::session::Session;
use crate::experts::launched::{Dimensions, Launch};
use crate::{Streaming, params, rules};
use greenboost_contract::Stream;
use greenboost_contract::experts::Pointer;
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;

impl Streaming {
    /// Issues a launch with the addresses of weights outside VRAM replaced by those of their copies. `issue` gets the
    /// parameters, and whether they are replaced.
    ///
    /// # Safety
    /// The parameters are those of a launch of `function`, which `issue` makes.
    pub unsafe fn launch(
        &self,
        function: CUfunction,
        stream: CUstream,
        shape: Dimensions,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
        issue: impl Fn(*mut *mut c_void, *mut *mut c_void, bool) -> Status,
    ) -> Status {
        let index = self.index.get();
        let may_capture = self.may_capture();
        // What is captured is launched when other weights may be outside.
        if index.len() == 0 && !may_capture || self.memory.settings.stream == Stream::Off {
            return issue(params, extra, false);
        }
        let layout = self.layouts.of(&self.rules, function);
        if self.experts.is_on()
            && has_name(stream)
            && let Some(rule) = self.rules.experts(layout.rules)
        {
            let launch = Launch { layout: &layout, rule, shape, stream, params, extra };
            // SAFETY: the caller's promise.
            let issued = unsafe { self.experts.launch(&launch, &self.rules, &index, may_capture, &issue) };
            if let Some(status) = issued {
                return status;
            }
        }
        let mut relaxed = None;
        let mut session: Option<Session<'_>> = None;
        let mut written = Vec::new();
        let mut replace = |at: Pointer, address| {
            let Some(weight) = index.find(address) else {
                if may_capture
                    && (layout.may_write(at.param) || self.rules.may_write(layout.rules))
                    && self.tensors.has_weight(address, 1)
                {
                    self.note_graphs_write();
                }
                return None;
            };
            let way = self.rules.way(layout.rules, weight.rules);
            let way = if layout.may_write(at.param) { rules::Way::Written } else { way };
            let uses_slots = match way {
                rules::Way::Slot => true,
                // A capture's copies are its own, made in it.
                rules::Way::InPlace | rules::Way::Experts => !may_capture,
                rules::Way::Written => {
                    written.push((weight.at, weight.bytes));
                    return None;
                }
            };
            if uses_slots && has_name(stream) {
                if session.is_none() {
                    relaxed = may_capture.then(|| RelaxedCapture::enter(self.memory.driver));
                    session = Session::begin(self, weight.device, stream, may_capture);
                }
                let slot = session.as_mut().and_then(|session| match way {
                    rules::Way::Slot => session.slot(weight),
                    rules::Way::InPlace | rules::Way::Written | rules::Way::Experts => session.slot_left(weight),
                });
                if let Some(slot) = slot {
                    return Some(slot + (address - weight.at));
                }
            }
            let device = self.memory.device(weight.device).ok()?;
            device.record.in_place.fetch_add(1, Relaxed);
            None
        };
        // SAFETY: the caller's promise.
        let replaced = unsafe { params::replace(&layout, params, extra, &mut replace) };
        if !written.is_empty() {
            // Given up with no engine held; what else the kernel names is where it is.
            drop(session);
            let _writing = self.writing(written);
            return issue(params, extra, false);
        }
        let (Some(mut replaced), Some(mut session)) = (replaced, session) else {
            return issue(params, extra, false);
        };
        replaced.seal();
        if !session.before_launch() {
            return issue(params, extra, false);
        }
        let status = issue(replaced.params(), replaced.extra(), true);
        session.after_launch(&index, &layout.name);
        status
    }

    /// Issues a launch of a graph on `stream`.
    pub fn launch_graph(&self, stream: CUstream, issue: impl Fn() -> Status) -> Status {
        if self.experts.is_on() {
            return self.experts.launch_graph(stream, || self.launch_graph_of_weights(stream, &issue));
        }
        self.launch_graph_of_weights(stream, issue)
    }

    fn launch_graph_of_weights(&self, stream: CUstream, issue: impl Fn() -> Status) -> Status {
        // Served copies are in no graph, so that graphs use no slots then.
        if self.memory.settings.stream == Stream::Off {
            return issue();
        }
        let Ok(context) = self.memory.context_of(stream) else { return issue() };
        let may_capture = self.may_capture();
        let _relaxed = may_capture.then(|| RelaxedCapture::enter(self.memory.driver));
        // A graph is launched where it was captured, unless nothing with slots was captured there: then it may be any device's.
        let begin = |device| Session::begin_graph(self, device, stream, context, may_capture);
        let of_stream = self.memory.device_of(context).ok().map(|device| device.ordinal);
        let mut sessions: Vec<_> = of_stream.and_then(begin).into_iter().collect();
        if sessions.is_empty() {
            // In order of device, which is that of every thread.
            let others = self.memory.devices().map(|device| device.ordinal).filter(|device| Some(*device) != of_stream);
            sessions.extend(others.filter_map(begin));
        }
        sessions.iter_mut().for_each(Session::before_graph);
        let status = issue();
        sessions.iter_mut().for_each(Session::after_graph);
        status
    }
}
