//! What is done at a launch over experts.
//!
//! In front of the program's kernel, on its stream and captured where it captures, a kernel of ours looks each id up in the layer's
//! table and writes to a place of the stream's what the program's kernel then reads in place of the ids: the number of an expert slot, or
//! the id itself. A launch that does not look as its rule says is left as it is, and counted.

use super::Experts;
use super::cache::Cache;
use super::ground::{MOST_IDS, NOTES};
use super::lanes::Lane;
use super::launched::Launch;
use super::window::Window;
use crate::index::Index;
use crate::params::{self, Values};
use crate::rules::{Rules, Way};
use greenboost_contract::experts::{Pointer, Tokens};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Driver, RelaxedCapture};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_memory::captures;
use smallvec::SmallVec;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

/// What a launch asks for.
struct Asked {
    window: Arc<Window>,
    ids: CUdeviceptr,
    used: u32,
    tokens: u32,
    step: u32,
}

/// Why a launch is left as it is.
enum Left {
    /// It is none over experts outside VRAM.
    Other,
    /// Its parameters are not what the rule says.
    Unfit,
}

impl Experts {
    /// Issues a launch over experts. `None`: it is none, or is to be issued as any other.
    ///
    /// # Safety
    /// The launch's parameters are valid, and `issue` makes it.
    pub unsafe fn launch(
        &self,
        launch: &Launch<'_>,
        rules: &Rules,
        index: &Index,
        may_capture: bool,
        issue: impl Fn(*mut *mut c_void, *mut *mut c_void, bool) -> Status,
    ) -> Option<Status> {
        // SAFETY: the caller's promise.
        let values = unsafe { Values::of(launch.layout, launch.params, launch.extra) }?;
        let weight = index.find(values.address(*launch.rule.weights.first()?)?)?;
        if rules.way(launch.layout.rules, weight.rules) != Way::Experts {
            return None;
        }
        let cache = self.cache(weight.device)?;
        if cache.is_stopped() {
            return None;
        }
        let asked = match asked(cache, launch, &values, index) {
            Ok(asked) => asked,
            Err(Left::Other) => return None,
            Err(Left::Unfit) => {
                cache.record.expert_unfit.fetch_add(1, Relaxed);
                return None;
            }
        };
        let _relaxed = may_capture.then(|| RelaxedCapture::enter(self.memory.driver));
        let is_captured = may_capture && captures::is_capturing(self.memory.driver, launch.stream)?;
        let lane = cache.lane(launch.stream)?;
        let place = Pointer { param: launch.rule.ids, offset: 0 };
        let mut replace = |at, _| (at == place).then_some(lane.out);
        // SAFETY: the caller's promise.
        let mut replaced = unsafe { params::replace(launch.layout, launch.params, launch.extra, &mut replace) }?;
        replaced.seal();
        let _turn = if is_captured {
            cache.lanes.captured(launch.stream);
            None
        } else {
            lane.begins();
            cache.lanes.keep_apart(self.memory.driver, launch.stream, false)
        };
        let rewritten = rewrite(self.memory.driver, &lane, launch.stream, &asked);
        let status = match rewritten {
            // The kernel may keep its leave to start early: it waits for what is before it ere it reads ids.
            Ok(()) => issue(replaced.params(), replaced.extra(), false),
            Err(status) => {
                log::warn!("ids of experts could not be rewritten: {status}");
                issue(launch.params, launch.extra, false)
            }
        };
        if !is_captured {
            lane.submitted(self.memory.driver);
        }
        cache.launches.fetch_add(1, Relaxed);
        Some(status)
    }

    /// Issues the launch of a graph, which may have launches over experts in it, of any device.
    pub fn launch_graph(&self, stream: CUstream, issue: impl Fn() -> Status) -> Status {
        let has_graphs = |cache: &&Arc<Cache>| cache.lanes.are_in_graphs() && !self.checked(cache).is_stopped();
        let caches: SmallVec<[&Arc<Cache>; 2]> =
            self.caches.iter().filter_map(OnceLock::get).filter(has_graphs).collect();
        if caches.is_empty() {
            return issue();
        }
        // One name for a stream of each thread: no event is after all of them.
        if !has_name(stream) {
            caches.iter().for_each(|cache| cache.stop("graphs are launched on a stream without a name"));
            return issue();
        }
        // The graph becomes a part of another one, with the ids of the stream that it was captured on.
        let may_capture = self.memory.captures.may_be_any_soon();
        if may_capture && captures::is_capturing(self.memory.driver, stream) != Some(false) {
            caches.iter().for_each(|cache| cache.lanes.captured(stream));
            return issue();
        }
        let mut submitted: SmallVec<[_; 2]> = SmallVec::new();
        for cache in caches {
            match cache.lane(stream) {
                Some(lane) => {
                    lane.begins();
                    let turn = cache.lanes.keep_apart(self.memory.driver, stream, true);
                    submitted.push((cache, lane, turn));
                }
                None => cache.stop("there are more streams than places for ids"),
            }
        }
        let status = issue();
        for (cache, lane, turn) in submitted {
            lane.submitted(self.memory.driver);
            drop(turn);
            cache.launches.fetch_add(1, Relaxed);
        }
        status
    }
}

fn asked(cache: &Arc<Cache>, launch: &Launch<'_>, values: &Values<'_>, index: &Index) -> Result<Asked, Left> {
    let rule = launch.rule;
    let (number, address) =
        (|at| values.number(at).ok_or(Left::Unfit), |at: Pointer| values.address(at).ok_or(Left::Unfit));
    let ids = address(Pointer { param: rule.ids, offset: 0 })?;
    // The same kernels multiply with whole tensors, and have no ids then.
    if ids == 0 {
        return Err(Left::Other);
    }
    let (row, elements) = (number(rule.row)?, number(rule.stride)?);
    let first = address(*rule.weights.first().ok_or(Left::Unfit)?)?;
    // What lies beside the weights has no expert slots. Looked at first: tensors that are never read in them should have none either.
    if rule.beside.iter().any(|at| values.address(*at).is_some_and(|it| it != 0)) {
        return Err(Left::Unfit);
    }
    // Those that the launch has beside the first; writes are heard of what is in the index alone.
    let others = rule.weights[1..].iter().map(|at| address(*at)).filter(|it| !matches!(it, Ok(0)));
    let others = others.collect::<Result<SmallVec<[CUdeviceptr; 2]>, Left>>()?;
    if others.iter().any(|other| index.find(*other).is_none_or(|weight| weight.at != *other)) {
        return Err(Left::Unfit);
    }
    let window = cache.window(first, row, elements).ok_or(Left::Unfit)?;
    if window.elements != elements {
        return Err(Left::Unfit);
    }
    for other in others {
        let other = cache.window(other, row, elements).ok_or(Left::Unfit)?;
        // One id serves both.
        if (other.distance, other.stride, other.layer) != (window.distance, window.stride, window.layer) {
            return Err(Left::Unfit);
        }
    }
    let tokens = match rule.tokens {
        Tokens::One => 1,
        Tokens::GridZ => launch.shape.grid[2],
        Tokens::BlockY => launch.shape.block[1],
    };
    let (used, step) = (launch.shape.grid[1], if tokens > 1 { number(rule.step)? } else { 0 });
    let span = u64::from(tokens).saturating_sub(1) * u64::from(step) + u64::from(used);
    let fits = tokens > 0 && used > 0 && span <= MOST_IDS;
    if fits { Ok(Asked { window, ids, used, tokens, step }) } else { Err(Left::Unfit) }
}

/// Threads of the id kernel's one block.
const THREADS: u32 = 128;

fn rewrite(driver: &Driver, lane: &Lane, stream: CUstream, asked: &Asked) -> Result<(), Status> {
    let Asked { window, ids, used, tokens, step } = asked;
    let (notes, head) = window.notes.unwrap_or((0, 0));
    let (mut table, mut ids, mut out) = (window.table, *ids, lane.out);
    let (mut used, mut tokens, mut step) = (*used, *tokens, *step);
    let (mut distance, mut experts) = (window.distance, window.experts);
    if failpoint::is(Fault::WrongExpert) {
        distance += 1;
    }
    let (mut notes, mut mask, mut head, mut layer) = (notes, NOTES - 1, head, window.layer as u32);
    let mut params: [*mut c_void; 12] = [
        (&raw mut table).cast(),
        (&raw mut ids).cast(),
        (&raw mut out).cast(),
        (&raw mut used).cast(),
        (&raw mut tokens).cast(),
        (&raw mut step).cast(),
        (&raw mut distance).cast(),
        (&raw mut experts).cast(),
        (&raw mut notes).cast(),
        (&raw mut mask).cast(),
        (&raw mut head).cast(),
        (&raw mut layer).cast(),
    ];
    // SAFETY: the kernel's parameters, in order and size; ids as the program's own kernel reads them.
    unsafe {
        driver.cuLaunchKernel(lane.function.0, 1, 1, 1, THREADS, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())
    }
}
