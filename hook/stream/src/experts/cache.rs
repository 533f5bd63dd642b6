//! The layers of a device that have experts: their tensors, tables and expert slots.

use super::ground::{self, Ground};
use super::lanes::{Lane, Lanes};
use super::layers::{Class, Layer, State, bury, layer_name};
use super::policy::LayerCache;
use super::slots::Slots;
use super::window::{self, Shape, Window};
use greenboost_contract::format_size;
use greenboost_contract::record::DeviceRecord;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::{self, Reservation};
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_memory::Memory;
use greenboost_memory::device::Device;
use greenboost_weights::registry::Registry;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// Addresses between an allocation and its expert slots: what a program allocates next is to have those right after it. Kernels reach
/// 36 GB where blocks are smallest.
const APART: u64 = 4 << 30;

/// The experts of one device.
pub struct Cache {
    pub(super) memory: &'static Memory,
    tensors: &'static Registry,
    pub(super) device: CUdevice,
    pub(super) record: &'static DeviceRecord,
    /// By the tensor's address; `None`: it cannot have one.
    windows: RwLock<HashMap<CUdeviceptr, Option<Arc<Window>>>>,
    /// Which launches may be running.
    pub lanes: Lanes,
    state: Mutex<State>,
    /// Starts what brings experts in.
    begin: fn(Arc<Self>),
    /// Counts launches of ours, so that the worker knows whether there is anything to look for.
    pub(super) launches: AtomicU64,
    /// For good.
    is_stopped: AtomicBool,
    is_over: AtomicBool,
    /// Held by the worker while it uses the context, so that the context cannot go meanwhile.
    pub(super) working: Mutex<()>,
    /// Counts what makes expert slots worth nothing.
    generations: AtomicU64,
}

impl Cache {
    /// Of a device.
    pub fn new(
        memory: &'static Memory,
        tensors: &'static Registry,
        device: CUdevice,
        record: &'static DeviceRecord,
        begin: fn(Arc<Self>),
    ) -> Self {
        Self {
            memory,
            tensors,
            device,
            record,
            windows: RwLock::default(),
            lanes: Lanes::default(),
            state: Mutex::default(),
            begin,
            launches: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            working: Mutex::new(()),
            generations: AtomicU64::new(0),
        }
    }

    /// What changes, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that a tensor's bytes came from, as far as that was seen.
    pub fn file_of(&self, at: CUdeviceptr) -> Option<PathBuf> {
        self.tensors.at(at)?.source.map(|source| source.file)
    }

    /// Whether it does nothing any more.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Relaxed)
    }

    /// The program ends: nothing is brought in any more, since the driver is about to go.
    pub fn halt(&self) {
        self.is_over.store(true, SeqCst);
    }

    /// Whether the program has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Ends it for good: tables are emptied, and experts read where they are.
    pub fn stop(&self, why: &str) {
        if !self.is_stopped.swap(true, SeqCst) {
            log::warn!("experts are read in place from now on: {why}");
            self.memory.record.experts.set(&format!("off: {why}"));
            let mut state = self.state();
            let layers: Vec<_> = (0..state.layers.len()).collect();
            self.empty(&mut state, &layers);
        }
    }

    /// What changes, locked, if nobody has it: at the program's end another thread might never let go.
    pub fn state_now(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock().ok()
    }

    /// The window of a tensor, if it is known already: `Some(None)` of one that cannot have any.
    pub fn known(&self, at: CUdeviceptr) -> Option<Option<Arc<Window>>> {
        self.windows.read().unwrap_or_else(PoisonError::into_inner).get(&at).cloned()
    }

    /// The window of a tensor at an address whose launches say that it has this many elements from row to row and from expert to
    /// expert.
    pub fn window(self: &Arc<Self>, at: CUdeviceptr, row: u32, expert: u32) -> Option<Arc<Window>> {
        if let Some(known) = self.known(at) {
            return known;
        }
        let mut state = self.state();
        // Another thread may have been faster.
        if let Some(known) = self.known(at) {
            return known;
        }
        let made = self.join(&mut state, at, row, expert);
        if let Err(why) = &made {
            log::info!("experts at {at:#x} are read in place: {why}");
            self.memory.record.experts.set(&format!("not all: {why}"));
        }
        let made = made.ok();
        self.windows.write().unwrap_or_else(PoisonError::into_inner).insert(at, made.clone());
        made
    }

    fn join(
        self: &Arc<Self>,
        state: &mut State,
        at: CUdeviceptr,
        row: u32,
        expert: u32,
    ) -> Result<Arc<Window>, String> {
        let device = self.memory.device(self.device).map_err(|_| "the device is not known".to_owned())?;
        let tensor = self.tensors.at(at).ok_or("their tensor is not known")?;
        let shape = Shape::of(tensor.bytes, tensor.rows, row, expert)
            .ok_or_else(|| format!("{} bytes in {} rows are no whole experts", tensor.bytes, tensor.rows))?;
        let name = layer_name(&tensor.name).ok_or("they are of no layer")?;
        let (base, span) = {
            let table = self.memory.table();
            table.find(at).map(|it| (it.base, it.span)).ok_or("their memory is not ours")?
        };
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        if state.ground.is_none() {
            let made = Ground::make(self.memory, device);
            state.ground = Some(made.map_err(|status| format!("no memory for tables: {status}"))?);
        }
        let distance = self.distance(state, base, span, shape.stride)?;
        let Some(ground) = &mut state.ground else { return Err("no memory for tables".to_owned()) };
        let notes = ground.notes();
        let known = state
            .layers
            .iter()
            .position(|layer| (layer.base, &*layer.name) == (base, name) && layer.table.is_for(shape.experts));
        let layer = match known {
            Some(layer) => layer,
            None => {
                let table = ground.table(shape.experts).ok_or("there are too many for the tables")?;
                let (name, cache) = (name.to_owned(), LayerCache::new(shape.experts as usize, 0));
                let (parts, generation, is_ready) = (Vec::new(), self.next_generation(), false);
                state.layers.push(Layer { base, name, table, parts, cache, generation, is_ready });
                state.layers.len() - 1
            }
        };
        // What the other tensors have in expert slots, this one has not.
        self.empty(state, &[layer]);
        let Shape { stride, row, experts } = shape;
        let member = &mut state.layers[layer];
        let (table, notes) = (member.table.at, member.parts.is_empty().then_some(notes));
        let window = Window { at, stride, row, experts, elements: expert, distance: 0, layer, table, notes };
        let most = window.experts;
        let far = |distance: &i64| window::reaches(*distance, most, expert) && i32::try_from(*distance).is_ok();
        let distance = Some(distance).filter(far).ok_or("slots would be too far away for the kernel")?;
        let window = Arc::new(Window { distance: distance as i32, ..window });
        if window.most() == 0 {
            return Err("they are too small".to_owned());
        }
        let mut slots = Slots::default();
        let wanted = member.cache.slots() as u32;
        if slots.grow(self.memory, device, &window, wanted).is_err() {
            // They all get what there is room for, when the worker looks next.
            log::debug!("no room for the slots of one tensor more");
        }
        let fewest = slots.count(&window).min(wanted);
        member.parts.push((window.clone(), slots));
        member.cache.resize(fewest as usize);
        self.record.experts.store(experts.into(), Relaxed);
        state.joined += 1;
        if !std::mem::replace(&mut state.has_worker, true) {
            (self.begin)(self.clone());
        }
        Ok(window)
    }

    /// The distance from a tensor of an allocation to its expert slots, in strides.
    fn distance(&self, state: &mut State, base: CUdeviceptr, span: u64, stride: u64) -> Result<i64, String> {
        // As long as the allocation, with room to begin at any stride; after all that was reserved before.
        let bytes = (span + stride).next_multiple_of(GRANULE) + 2 * GRANULE;
        let fits = |class: &&Class| (class.base, class.stride) == (base, stride) && class.bytes >= bytes;
        if let Some(class) = state.classes.iter().find(fits) {
            return Ok(class.distance);
        }
        let after = state.classes.iter().map(|class| class.reserved + class.bytes).max().unwrap_or(0);
        let hint = (base + span).max(after).next_multiple_of(GRANULE) + APART;
        let reserve = |hint| Reservation::new(self.memory.driver, bytes, GRANULE, hint);
        let reserved =
            reserve(hint).or_else(|_| reserve(0)).map_err(|status| format!("no addresses: {status}"))?.keep();
        let distance = window::distance(base, reserved + GRANULE, stride);
        state.classes.push(Class { base, stride, distance, reserved, bytes });
        Ok(distance)
    }

    /// Empties the tables of layers: what is submitted from now on reads tensors in RAM.
    fn empty(&self, state: &mut State, layers: &[usize]) {
        let State { ground: Some(ground), layers: all, .. } = state else { return };
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        let Ok(_current) = Current::push(self.memory.driver, ground.context) else { return };
        for at in layers {
            let Some(layer) = all.get_mut(*at) else { continue };
            let table = layer.table;
            layer.empty(self.next_generation());
            ground.clear(table);
            if let Err(status) = ground.send(self.memory, table) {
                log::error!("a table of experts could not be emptied: {status}");
            }
        }
        // SAFETY: a stream of ours, which waits for nobody.
        let _ = unsafe { self.memory.driver.cuStreamSynchronize(ground.stream) };
    }

    /// The queue of launches of a stream, made at its first launch. `None`: its launches have to read in place.
    pub fn lane(&self, stream: CUstream) -> Option<Arc<Lane>> {
        self.lanes.of(stream).or_else(|| {
            let mut state = self.state();
            let _relaxed = RelaxedCapture::enter(self.memory.driver);
            let lane = state.ground.as_mut()?.lane(self.memory, stream)?;
            Some(self.lanes.add(lane))
        })
    }

    /// Whether there is anything to give back.
    pub fn has_slots(&self) -> bool {
        self.record.vram_experts.load(Relaxed) > ground::VRAM
    }

    /// See [`super::Experts::shrink`].
    pub fn shrink(&self, device: &Device, needed: u64) -> u64 {
        let mut state = self.state();
        let State { ground: Some(ground), layers, graveyard, .. } = &mut *state else { return 0 };
        let memory = self.memory;
        let Ok(_current) = Current::push(memory.driver, ground.context) else { return 0 };
        let mut given_back = bury(memory, device, graveyard);
        let slots = |layers: &[Layer]| layers.iter().map(|layer| layer.cache.slots() as u32).max().unwrap_or(0);
        while given_back < needed && slots(layers) > 0 {
            let (most, left) = (slots(layers), needed - given_back);
            let each: u64 = layers.iter().map(Layer::expert_bytes).sum();
            let fewer = u32::try_from(left.div_ceil(each.max(1))).unwrap_or(most).clamp(1, most);
            for layer in layers.iter_mut() {
                for lost in layer.cache.resize((layer.cache.slots()).min((most - fewer) as usize)) {
                    ground.set(layer.table, lost, None);
                }
                layer.generation = self.next_generation();
                // What was on its way does not come.
                (0..layer.cache.slots() as u32).for_each(|slot| layer.cache.abandoned(slot));
                let _ = ground.send(memory, layer.table);
            }
            // SAFETY: a stream of ours, which waits for nobody.
            let _ = unsafe { memory.driver.cuStreamSynchronize(ground.stream) };
            for layer in layers.iter_mut() {
                let kept = layer.cache.slots() as u32;
                for (window, slots) in &mut layer.parts {
                    given_back += slots.shrink(memory, device, window, kept);
                }
            }
        }
        state.grow_after = Some(Instant::now());
        drop(state);
        if given_back > 0 {
            log::info!("device {}: experts gave back {} of VRAM", device.ordinal, format_size(given_back));
            self.publish();
        }
        given_back
    }

    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Relaxed) + 1
    }

    /// Whether there is anything of ours in a context.
    pub fn is_of(&self, context: CUcontext) -> bool {
        self.state().ground.as_ref().is_some_and(|ground| ground.is_of(context))
    }

    /// Shows what there is in the status record.
    pub fn publish(&self) {
        let state = self.state();
        let with_slots = || state.layers.iter().filter(|layer| layer.cache.slots() > 0);
        let (fewest, count) = (with_slots().map(|layer| layer.cache.slots()).min(), with_slots().count());
        self.record.expert_slots.store(fewest.unwrap_or(0) as u64, Relaxed);
        self.record.expert_layers.store(count as u64, Relaxed);
        if self.is_stopped() {
            return;
        }
        let inert = state.layers.iter().find_map(|layer| layer.cache.inert());
        match inert {
            Some(why) => self.memory.record.experts.set(&format!("inert: {why}")),
            None => self.memory.record.experts.set("on"),
        }
    }

    /// See [`super::Experts::written`].
    pub fn written(&self, keys: &[(CUdevice, CUdeviceptr)]) {
        if failpoint::is(Fault::StaleSlot) {
            return;
        }
        let layers: Vec<_> = {
            let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
            let ours = keys.iter().filter(|(device, _)| *device == self.device);
            ours.filter_map(|(_, at)| windows.get(at)?.as_ref().map(|window| window.layer)).collect()
        };
        if !layers.is_empty() {
            self.empty(&mut self.state(), &layers);
        }
    }

    /// See [`super::Experts::forget`].
    pub fn forget(&self, from: CUdeviceptr, bytes: u64) {
        let gone = |at: CUdeviceptr| at >= from && at - from < bytes;
        let mut state = self.state();
        self.windows.write().unwrap_or_else(PoisonError::into_inner).retain(|at, _| !gone(*at));
        let of_it: Vec<_> = (0..state.layers.len())
            .filter(|at| state.layers[*at].parts.iter().any(|(window, _)| gone(window.at)))
            .collect();
        if of_it.is_empty() {
            return;
        }
        // Waits for copies of ours, which read what goes.
        self.empty(&mut state, &of_it);
        for layer in of_it {
            let layer = &mut state.layers[layer];
            // Another model's habits are of no use to the next.
            let experts = layer.cache.counts().len();
            layer.cache = LayerCache::new(experts, 0);
            for (window, slots) in std::mem::take(&mut layer.parts) {
                let window = Window { ..*window };
                state.graveyard.push((window, slots));
            }
        }
        state.kept.retain(|base, _| !gone(*base));
        drop(state);
        self.publish();
    }

    /// See [`super::Experts::context_gone`].
    pub fn context_gone(&self, context: CUcontext) {
        let mut state = self.state();
        self.lanes.context_gone(context);
        if let Some(ground) = &mut state.ground {
            ground.forget_context(context);
        }
        if state.ground.as_ref().is_none_or(|ground| ground.context != context) {
            return;
        }
        // While it is alive; else nobody reads tables any more.
        let all: Vec<_> = (0..state.layers.len()).collect();
        self.empty(&mut state, &all);
        self.windows.write().unwrap_or_else(PoisonError::into_inner).clear();
        let Ok(device) = self.memory.device(self.device) else { return };
        if device.contexts().iter().any(|other| *other != context) {
            // Launches of theirs, in graphs too, may read tables and expert slots, and nobody can tell until when: they stay.
            log::info!("experts' memory stays until the program ends: other contexts of the device may use it");
            let has_worker = state.has_worker;
            std::mem::forget(std::mem::replace(&mut *state, State { has_worker, ..State::default() }));
            return;
        }
        for layer in std::mem::take(&mut state.layers) {
            for (window, slots) in layer.parts {
                state.graveyard.push((Window { ..*window }, slots));
            }
        }
        let State { ground, graveyard, classes, .. } = &mut *state;
        bury(self.memory, device, graveyard);
        classes.drain(..).for_each(|class| vmm::free(self.memory.driver, class.reserved, class.bytes));
        if let Some(ground) = ground.take() {
            ground.release(self.memory, device);
        }
    }
}
