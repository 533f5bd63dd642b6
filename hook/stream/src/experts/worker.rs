//! The thread that brings experts into expert slots: it reads what was asked for, and does what the policy says of each layer.
//!
//! ```text
//!   notes ─▶ policy ─▶ tables stop naming what goes ─▶ launches until then are over ─▶ copies ─▶ tables name what came
//! ```
//!
//! It waits between the steps, holding nothing.

use super::cache::Cache;
use super::ground::NOTES;
use super::layers::{Layer, State, bury};
use super::policy::Promotion;
use super::warm;
use crate::linear;
use greenboost_contract::format_size;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_intercept::guard;
use greenboost_intercept::process::without_signals;
use greenboost_memory::quiet::Patience;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often it looks while launches come, and while none do.
const BUSY: Duration = Duration::from_micros(500);
const IDLE: Duration = Duration::from_millis(20);
/// Without launches for so long, none come.
const QUIET: Duration = Duration::from_millis(200);
/// Bytes that a round copies at the most, while expert slots are filled for the first time and after that: a round is about as long as
/// a token, and reads that miss use the same link.
const FIRST: u64 = 256 << 20;
const LATER: u64 = 48 << 20;
/// How often counts are written to their file.
const KEEP: Duration = Duration::from_secs(30);
/// How long it waits for launches that may read what goes.
const PATIENCE: Duration = Duration::from_secs(2);
/// VRAM that expert slots leave in the budget: one in this many.
const LEFT_SHARE: u64 = 64;
const LEFT_LEAST: u64 = 4 << 20;
/// After expert slots gave VRAM back, they do not grow for this long.
const RESPITE: Duration = Duration::from_secs(3);

/// Starts the thread of a device, for the life of the process.
pub fn start(cache: Arc<Cache>) {
    let named = std::thread::Builder::new().name("gb-experts".to_owned()).stack_size(256 << 10);
    let started = without_signals(|| {
        let cache = cache.clone();
        named.spawn(move || work(&cache))
    });
    if let Err(error) = started {
        cache.memory.record.experts.set(&format!("off: no thread: {error}"));
        log::warn!("experts stay in RAM: no thread: {error}");
    }
}

fn work(cache: &Cache) {
    let (mut seen, mut last, mut kept, mut worker) = (0, Instant::now(), Instant::now(), Worker::default());
    loop {
        let launches = cache.launches.load(Relaxed);
        if launches != seen {
            (seen, last) = (launches, Instant::now());
        }
        std::thread::sleep(if last.elapsed() < QUIET { BUSY } else { IDLE });
        if cache.is_stopped() || cache.is_over() {
            return;
        }
        // Now and then, since a program may be killed; and not while nothing is counted.
        if kept.elapsed() > KEEP && last.elapsed() < KEEP {
            kept = Instant::now();
            let counted = warm::counted(&cache.state());
            warm::keep(counted);
        }
        // As a handler does it: no panic gets out, and the driver's calls to itself are not caught.
        let went_on = guard::enter(|| {
            let _working = cache.working.lock().unwrap_or_else(PoisonError::into_inner);
            worker.round(cache);
            Ok(SUCCESS)
        });
        if went_on.is_none() {
            cache.stop("an internal failure");
            return;
        }
    }
}

/// An expert on its way.
struct Move {
    layer: usize,
    promotion: Promotion,
    generation: u64,
}

impl Move {
    /// Its layer, if what is in its expert slots has not become worthless meanwhile.
    fn layer<'a>(&self, layers: &'a mut [Layer]) -> Option<&'a mut Layer> {
        layers.get_mut(self.layer).filter(|layer| layer.generation == self.generation)
    }
}

#[derive(Default)]
struct Worker {
    /// How many tensors had joined when it looked last.
    joined: u64,
    /// Whether launches may still read expert slots that no table names: a round was given up.
    is_unsure: bool,
    /// Of one layer, as notes come.
    asked: Vec<i32>,
    /// Whether notes were written over before they were read.
    is_behind: bool,
    /// How long it goes on waiting for a device at rest.
    patience: Option<Patience>,
}

impl Worker {
    fn round(&mut self, cache: &Cache) {
        let Some(context) = cache.state().ground.as_ref().map(|ground| ground.context) else { return };
        let Ok(_current) = Current::push(cache.memory.driver, context) else { return };
        let _relaxed = RelaxedCapture::enter(cache.memory.driver);
        if !self.prepare(cache) {
            return;
        }
        if let Err(status) = self.promote(cache) {
            cache.stop(&format!("the driver refused with {status}"));
        }
    }

    /// Whether there are layers with expert slots whose tensors are whole.
    fn prepare(&mut self, cache: &Cache) -> bool {
        let mut state = cache.state();
        self.listen(cache, &mut state);
        // While a model is run for the first time, tensor after tensor joins.
        if std::mem::replace(&mut self.joined, state.joined) != state.joined {
            return false;
        }
        let is_done = state.layers.iter().all(|layer| layer.is_ready || layer.parts.is_empty());
        if is_done && state.graveyard.is_empty() && !self.is_behind {
            self.grow(cache, &mut state);
            return true;
        }
        drop(state);
        self.settle(cache)
    }

    /// Sees to it that all tensors of experts are whole: nothing is running, so that what was uploaded or written before is there.
    /// False where something is; then it was waited for with nothing held.
    fn settle(&mut self, cache: &Cache) -> bool {
        let memory = cache.memory;
        let Ok(device) = memory.device(cache.device) else { return false };
        let patience = self.patience.get_or_insert_with(|| Patience::of(PATIENCE));
        let busy = {
            let _placing = memory.placing();
            match memory.quiet(device, patience) {
                Ok(_quiet) => {
                    let mut state = cache.state();
                    bury(memory, device, &mut state.graveyard);
                    if std::mem::take(&mut self.is_behind)
                        && let Some(ground) = &mut state.ground
                        && let Err(status) = ground.catch_up(memory)
                    {
                        log::warn!("notes of experts are not read any more: {status}");
                    }
                    state.layers.iter_mut().for_each(|layer| layer.is_ready = !layer.parts.is_empty());
                    cache.lanes.forget_gone();
                    self.patience = None;
                    return true;
                }
                Err(busy) => busy,
            }
        };
        if !patience.wait(&busy) {
            self.patience = None;
        }
        false
    }

    /// Tells the policy what was asked for.
    fn listen(&mut self, cache: &Cache, state: &mut State) {
        let State { ground: Some(ground), layers, .. } = state else { return };
        let mut tell = |layer: usize, asked: &mut Vec<i32>| {
            if let Some(layer) = layers.get_mut(layer) {
                let hits = layer.cache.asked(asked);
                cache.record.expert_reads.fetch_add(asked.len() as u64, Relaxed);
                cache.record.expert_hits.fetch_add(hits, Relaxed);
            }
            asked.clear();
        };
        let (mut last, mut count) = (None, 0);
        while let Some((layer, expert, _)) = ground.next_note() {
            count += 1;
            if last.is_some_and(|last| last != layer) {
                tell(last.unwrap_or(0), &mut self.asked);
            }
            last = Some(layer);
            self.asked.push(expert as i32);
        }
        if let Some(last) = last {
            tell(last, &mut self.asked);
        }
        self.is_behind |= count >= NOTES;
    }

    /// Gives layers as many expert slots as the budget has VRAM for, each the same number.
    fn grow(&self, cache: &Cache, state: &mut State) {
        let Ok(device) = cache.memory.device(cache.device) else { return };
        if state.grow_after.is_some_and(|since| since.elapsed() < RESPITE) {
            return;
        }
        let kept = (device.budget.limit() / LEFT_SHARE).max(LEFT_LEAST);
        let free = device.budget.left().saturating_sub(kept);
        let layers = || state.layers.iter().filter(|layer| !layer.parts.is_empty());
        let used = |slots: u32| layers().map(|layer| layer.cost(slots.min(layer.most()))).sum::<u64>();
        let most = layers().map(Layer::most).max().unwrap_or(0);
        let now: u64 = layers().flat_map(|layer| &layer.parts).map(|(_, slots)| slots.bytes()).sum();
        // The most expert slots for which there is room: costs only rise.
        let (mut fits, mut too_many) = (0, most + 1);
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            if used(middle) <= now + free { fits = middle } else { too_many = middle }
        }
        if layers().all(|layer| layer.cache.slots() as u32 >= fits.min(layer.most())) {
            return;
        }
        let mut fresh = Vec::new();
        for (at, layer) in state.layers.iter_mut().enumerate().filter(|(_, layer)| !layer.parts.is_empty()) {
            let wanted = fits.min(layer.most());
            let mut refusal = None;
            for (window, slots) in &mut layer.parts {
                refusal = slots.grow(cache.memory, device, window, wanted).err().or(refusal);
            }
            let count = layer.parts.iter().map(|(window, slots)| slots.count(window)).min().unwrap_or(0);
            if count as usize > layer.cache.slots() {
                let is_first = layer.cache.slots() == 0 && layer.cache.reads().promoted == 0;
                layer.cache.resize(count.min(wanted) as usize);
                if is_first {
                    fresh.push(at);
                }
            }
            if let Some(status) = refusal {
                log::info!("no more VRAM for experts: {status}");
                state.grow_after = Some(Instant::now());
                break;
            }
        }
        warm::warm(cache, state, &fresh);
        let layers = state.layers.iter().filter(|layer| !layer.parts.is_empty());
        let bytes: u64 = layers.clone().flat_map(|layer| &layer.parts).map(|(_, slots)| slots.bytes()).sum();
        log::info!(
            "device {}: {} of experts a layer have a place in VRAM, {} layers, {} in all, {} more",
            cache.device,
            fits,
            layers.count(),
            format_size(bytes),
            format_size(bytes.saturating_sub(now))
        );
    }

    /// One round of what the policy says.
    fn promote(&mut self, cache: &Cache) -> Result<(), Status> {
        let moves = self.demote(cache)?;
        if moves.is_empty() {
            cache.publish();
            return Ok(());
        }
        let replaces = moves.iter().any(|it| it.promotion.replaces.is_some());
        if (replaces || self.is_unsure) && !failpoint::is(Fault::SlotTooEarly) && !wait_for_launches(cache) {
            self.is_unsure = true;
            let mut state = cache.state();
            for it in &moves {
                if let Some(layer) = it.layer(&mut state.layers) {
                    layer.cache.abandoned(it.promotion.slot);
                }
            }
            return Ok(());
        }
        self.is_unsure = false;
        let early = failpoint::is(Fault::TableBeforeCopy);
        if early {
            name(cache, &moves)?;
        }
        copy(cache, &moves)?;
        if !early {
            name(cache, &moves)?;
        }
        cache.publish();
        Ok(())
    }

    /// Chooses, and empties the table's entries of what goes.
    fn demote(&self, cache: &Cache) -> Result<Vec<Move>, Status> {
        let mut moves = Vec::new();
        let _inside = cache.memory.enter(None);
        let mut state = cache.state();
        // Told before it empties the tables, which are not to be filled again.
        if cache.is_stopped() || cache.is_over() {
            return Ok(moves);
        }
        let State { ground: Some(ground), layers, .. } = &mut *state else { return Ok(moves) };
        let bytes = match layers.iter().any(|layer| layer.cache.reads().promoted < layer.cache.slots() as u64) {
            true => FIRST,
            false => LATER,
        };
        // Each a few, so that all layers get better at the same pace.
        let (ready, mut changed) = (layers.iter().filter(|layer| layer.is_ready).count().max(1) as u64, false);
        for (at, layer) in layers.iter_mut().enumerate().filter(|(_, layer)| layer.is_ready) {
            let each = layer.expert_bytes().max(1);
            let limit = (bytes / ready / each).max(1) as usize;
            let mut replaces = false;
            for promotion in layer.cache.promotions(limit) {
                layer.cache.began(promotion.slot);
                if let Some(gone) = promotion.replaces {
                    ground.set(layer.table, gone, None);
                    replaces = true;
                }
                moves.push(Move { layer: at, promotion, generation: layer.generation });
            }
            if replaces && !failpoint::is(Fault::SlotTooEarly) {
                ground.send(cache.memory, layer.table)?;
                changed = true;
            }
        }
        let stream = ground.stream;
        drop(state);
        if changed {
            // SAFETY: a stream of ours, which waits for nobody.
            unsafe { cache.memory.driver.cuStreamSynchronize(stream) }?;
        }
        Ok(moves)
    }
}

/// Waits for everything that was submitted until now and may read expert slots. False when that takes too long.
fn wait_for_launches(cache: &Cache) -> bool {
    let (mut marks, began) = (cache.lanes.marks(), Instant::now());
    loop {
        if marks.are_over(cache.memory.driver) {
            return true;
        }
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Copies experts into their expert slots, and waits for that.
fn copy(cache: &Cache, moves: &[Move]) -> Result<(), Status> {
    let memory = cache.memory;
    let (stream, bytes, count) = {
        let _inside = memory.enter(None);
        let mut state = cache.state();
        let State { ground: Some(ground), layers, .. } = &mut *state else { return Ok(()) };
        let (mut copied, mut count) = (0, 0);
        for it in moves {
            let Some(layer) = it.layer(layers) else { continue };
            for (window, _) in &layer.parts {
                let (from, to) = (window.home(it.promotion.expert), window.slot(it.promotion.slot));
                linear::copy(memory, ground.stream, from, to, window.stride)?;
                copied += window.stride;
            }
            count += 1;
        }
        (ground.stream, copied, count)
    };
    // SAFETY: a stream of ours, which waits for nobody.
    unsafe { memory.driver.cuStreamSynchronize(stream) }?;
    cache.record.expert_moves.fetch_add(count, Relaxed);
    cache.record.expert_bytes.fetch_add(bytes, Relaxed);
    Ok(())
}

/// Has the tables name what is in expert slots now.
fn name(cache: &Cache, moves: &[Move]) -> Result<(), Status> {
    let _inside = cache.memory.enter(None);
    let mut state = cache.state();
    let State { ground: Some(ground), layers, .. } = &mut *state else { return Ok(()) };
    for it in moves {
        let Some(layer) = it.layer(layers) else { continue };
        layer.cache.placed(it.promotion.expert, it.promotion.slot);
        ground.set(layer.table, it.promotion.expert, Some(it.promotion.slot));
    }
    let mut last = None;
    for it in moves {
        if let Some(layer) = it.layer(layers)
            && last.replace(it.layer) != Some(it.layer)
        {
            ground.send(cache.memory, layer.table)?;
        }
    }
    let stream = ground.stream;
    drop(state);
    // SAFETY: a stream of ours, which waits for nobody.
    unsafe { cache.memory.driver.cuStreamSynchronize(stream) }
}
