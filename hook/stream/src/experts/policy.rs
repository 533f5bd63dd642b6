//! Which experts of one layer have copies in VRAM, in expert slots.
//!
//! Every use of an expert counts for one, and fades by half in [`HALF_LIFE`] tokens. An expert's *heat* is the sum, which is
//! recency and frequency in one number: among experts used as often the one used last is hotter, and one that is used at
//! every second token is never lost to one that was used just now. A candidate is an expert that was asked for and not found.
//! The hottest candidates go where nothing is yet; with every place taken, a candidate replaces the coldest expert, if it is
//! hotter by a margin: it was asked for again, or the other has not been used for a while. Without the margin, experts that
//! are used alike would change places for ever, and each change takes the link from reads that miss.
//!
//! Where most experts are replaced before anybody has read their copy, the margin is too small for this routing (a cycle through
//! more experts than there is room for is the worst), and widens; where copies are read it narrows again.
//!
//! This file decides and calls nobody. The caller does the copies, and says how they went: [`LayerCache::promotions`]
//! chooses, [`LayerCache::began`] says that the table no longer names the old expert's copy, [`LayerCache::placed`] that it
//! names the new one. Time is counted in calls of [`LayerCache::asked`].

#[cfg(test)]
mod replay;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod tests;

use std::fmt;

/// Tokens in which a use fades by half. Replayed traces of real models decide (docs/experts.md): with 64 what a session turns to
/// comes too late, with 8 twice as much is copied for the same hits.
pub const HALF_LIFE: f32 = 24.0;

/// How much hotter than the expert it replaces a candidate has to be.
const MARGIN: f32 = 1.25;
/// The most that routing which defeats the cache widens the margin by: what is not used any more is then replaced three
/// half-lives later.
const MOST_CAUTION: f32 = 8.0;
/// A copy that is replaced unread widens the margin by the first factor, one that is read for the first time narrows it by the
/// second: the margin grows where more than three of four go unread, and real routing stays well below.
const WIDEN: f32 = 1.1;
const NARROW: f32 = 0.7;

/// The heat that the most used expert of an earlier session begins with: as much as a dozen tokens of this one give, so that a
/// session with other habits soon has its own.
const WARM_HEAT: f32 = 8.0;

/// A use weighs more than one before it by a factor, so that old ones need no work to fade; when the weight has grown to
/// this, everything is scaled down.
const HEAVIEST: f32 = (1u64 << 40) as f32;

/// An expert that is to be copied into VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promotion {
    /// What is to be there.
    pub expert: u32,
    /// Its expert slot.
    pub slot: u32,
    /// What is there now, and is read there until [`LayerCache::began`].
    pub replaces: Option<u32>,
}

/// Why a cache promotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inert {
    /// Expert slots of the layer.
    pub slots: u32,
    /// Experts that one token asks for; 0 where none has been seen.
    pub used: u32,
}

impl fmt::Display for Inert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { slots: 0, .. } => write!(f, "there is no VRAM for slots of this layer"),
            Self { slots, used } => {
                write!(f, "a token asks for {used} experts of a layer, and there are {slots} slots")
            }
        }
    }
}

/// What a cache did so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// Experts that were asked for, an expert once for each time a launch names it.
    pub all: u64,
    /// Those of them that had a copy.
    pub hits: u64,
    /// Copies made.
    pub promoted: u64,
}

/// No expert, or nowhere.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Expert {
    /// Sum of the weights of its uses.
    heat: f32,
    /// Token that asked for it last, 0 for never.
    last: u64,
    /// The expert slot that holds its copy or is to hold it.
    slot: u32,
    is_candidate: bool,
    /// Uses, with half of those of earlier sessions.
    uses: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// What can be read in it.
    holds: u32,
    /// What is to be copied into it, or is being copied.
    coming: u32,
    /// Whether it was read since it was filled.
    is_read: bool,
}

const EMPTY: Slot = Slot { holds: NONE, coming: NONE, is_read: false };

/// The expert slots of one layer.
#[derive(Debug)]
pub struct LayerCache {
    experts: Vec<Expert>,
    slots: Vec<Slot>,
    /// Experts asked for and not found, each once. As long as `experts` at most, for which there is room from the start.
    candidates: Vec<u32>,
    /// Tokens so far.
    now: u64,
    /// What a use weighs now.
    weight: f32,
    /// What it weighs more from one token to the next.
    growth: f32,
    /// Factor of the margin, from 1 to `MOST_CAUTION`.
    caution: f32,
    /// The fewest experts that a launch has asked for: a token's, where tokens come one by one.
    used: u32,
    reads: Reads,
}

impl LayerCache {
    /// A layer of this many experts with this many expert slots, all empty. More than there are experts stay empty.
    #[must_use]
    pub fn new(experts: usize, slots: usize) -> Self {
        let fresh = Expert { heat: 0.0, last: 0, slot: NONE, is_candidate: false, uses: 0 };
        Self {
            experts: vec![fresh; experts],
            slots: vec![EMPTY; slots],
            candidates: Vec::with_capacity(experts),
            now: 0,
            weight: 1.0,
            growth: (1.0 / HALF_LIFE).exp2(),
            caution: 1.0,
            used: 0,
            reads: Reads::default(),
        }
    }

    /// The ids of one launch, one after the other as the program launched; a token and layer once, also where several kernels
    /// read its experts. Ids that name none are left out. Returns how many were found.
    pub fn asked(&mut self, ids: &[i32]) -> u64 {
        self.next_token();
        let (mut hits, mut all, mut distinct) = (0, 0, 0);
        for id in ids {
            let Some((at, expert)) = usize::try_from(*id).ok().and_then(|at| Some((at, self.experts.get_mut(at)?)))
            else {
                continue;
            };
            all += 1;
            distinct += u32::from(expert.last != self.now);
            expert.last = self.now;
            expert.heat += self.weight;
            expert.uses = expert.uses.saturating_add(1);
            match self.slots.get_mut(expert.slot as usize) {
                Some(slot) if slot.holds as usize == at => {
                    hits += 1;
                    if !slot.is_read {
                        slot.is_read = true;
                        self.caution = (self.caution * NARROW).max(1.0);
                    }
                }
                // On its way.
                Some(_) => {}
                None => self.candidate(at),
            }
        }
        if distinct > 0 {
            self.used = if self.used == 0 { distinct } else { self.used.min(distinct) };
        }
        self.reads.all += all;
        self.reads.hits += hits;
        hits
    }

    fn next_token(&mut self) {
        self.now += 1;
        self.weight *= self.growth;
        if self.weight > HEAVIEST {
            let weight = self.weight;
            self.experts.iter_mut().for_each(|expert| expert.heat /= weight);
            self.weight = 1.0;
        }
    }

    fn candidate(&mut self, at: usize) {
        if !std::mem::replace(&mut self.experts[at].is_candidate, true) {
            self.candidates.push(at as u32);
        }
    }

    /// Experts to copy now, hottest first, at most this many; a low limit costs hits while there are empty expert slots, which
    /// what misses is to fill. Each is to be followed by [`Self::began`] and [`Self::placed`], or by [`Self::abandoned`]; until
    /// then neither is chosen again.
    pub fn promotions(&mut self, limit: usize) -> Vec<Promotion> {
        let mut chosen = Vec::new();
        if self.inert().is_some() {
            return chosen;
        }
        while chosen.len() < limit
            && let Some(index) = self.hottest_candidate()
        {
            let expert = self.candidates[index];
            let Some(slot) = self.slot_for(self.experts[expert as usize].heat) else {
                // Nor for any that is colder. Whoever is asked for again is a candidate again.
                self.candidates.drain(..).for_each(|at| self.experts[at as usize].is_candidate = false);
                break;
            };
            self.candidates.swap_remove(index);
            self.experts[expert as usize].is_candidate = false;
            self.experts[expert as usize].slot = slot;
            self.slots[slot as usize].coming = expert;
            chosen.push(Promotion { expert, slot, replaces: named(self.slots[slot as usize].holds) });
        }
        chosen
    }

    fn hottest_candidate(&self) -> Option<usize> {
        let heat = |expert: u32| self.experts[expert as usize].heat;
        let hottest =
            self.candidates.iter().enumerate().max_by(|(_, a), (_, b)| heat(**a).total_cmp(&heat(**b)).then(b.cmp(a)));
        hottest.map(|(index, _)| index)
    }

    /// An empty expert slot, or else that of the coldest expert, among equals the one not used for longest. What the last token
    /// asked for stays: the next one probably asks for it.
    fn slot_for(&self, heat: f32) -> Option<u32> {
        let free = |(_, slot): &(usize, &Slot)| slot.coming == NONE;
        if let Some((at, _)) = self.slots.iter().enumerate().filter(free).find(|(_, slot)| slot.holds == NONE) {
            return Some(at as u32);
        }
        let held = self.slots.iter().enumerate().filter(free);
        let held = held.map(|(at, slot)| (at, self.experts[slot.holds as usize]));
        let (at, coldest) = held
            .filter(|(_, expert)| expert.last != self.now || self.now == 0)
            .min_by(|(_, a), (_, b)| a.heat.total_cmp(&b.heat).then(a.last.cmp(&b.last)))?;
        (heat > coldest.heat * MARGIN * self.caution).then_some(at as u32)
    }

    /// The copy into this expert slot is about to be made, and what was there cannot be read any more.
    pub fn began(&mut self, slot: u32) {
        let Some(slot) = self.slots.get_mut(slot as usize).filter(|slot| slot.coming != NONE) else { return };
        let lost = std::mem::replace(&mut slot.holds, NONE);
        if let Some(lost) = named(lost) {
            if !slot.is_read {
                self.caution = (self.caution * WIDEN).min(MOST_CAUTION);
            }
            self.experts[lost as usize].slot = NONE;
        }
    }

    /// The copy is made, and is read from now on. Nothing happens if its place has been taken away or given to another
    /// meanwhile.
    pub fn placed(&mut self, expert: u32, slot: u32) {
        let is_awaited = self.slots.get(slot as usize).is_some_and(|slot| slot.coming == expert && expert != NONE);
        if is_awaited {
            self.began(slot);
            self.slots[slot as usize] = Slot { holds: expert, ..EMPTY };
            self.reads.promoted += 1;
        }
    }

    /// The copy is not made: what was there stays, if the copy had not begun.
    pub fn abandoned(&mut self, slot: u32) {
        let Some(slot) = self.slots.get_mut(slot as usize) else { return };
        if let Some(expert) = named(std::mem::replace(&mut slot.coming, NONE)) {
            self.experts[expert as usize].slot = NONE;
        }
    }

    /// There are this many expert slots from now on: the last ones are gone, or there are more, which are empty. Returns the
    /// experts that lose their copy. The caller ends copies under way to those that are gone before there are more again.
    pub fn resize(&mut self, slots: usize) -> Vec<u32> {
        let mut lost = Vec::new();
        for gone in self.slots.drain(slots.min(self.slots.len())..) {
            for expert in [gone.holds, gone.coming].into_iter().filter_map(named) {
                self.experts[expert as usize].slot = NONE;
            }
            lost.extend(named(gone.holds));
        }
        if slots > self.slots.len() {
            self.slots.resize(slots, EMPTY);
            // What was hot without a slot need not be asked for again to get one.
            for at in 0..self.experts.len() {
                if self.experts[at].slot == NONE && self.experts[at].heat > 0.0 {
                    self.candidate(at);
                }
            }
        }
        lost
    }

    /// Begins with the counts of an earlier session: the most used experts come first. Without any, the first ones do.
    pub fn warm(&mut self, counts: &[u32]) {
        let most = counts.iter().copied().max().unwrap_or(0);
        for at in 0..self.experts.len() {
            let count = counts.get(at).copied().unwrap_or(0);
            let share = if most == 0 { f32::MIN_POSITIVE } else { WARM_HEAT * count as f32 / most as f32 };
            let expert = &mut self.experts[at];
            expert.heat += share * self.weight;
            expert.uses = expert.uses.saturating_add(count / 2);
            if share > 0.0 && expert.slot == NONE {
                self.candidate(at);
            }
        }
    }

    /// How often each expert was asked for, to be kept for [`Self::warm`]; of earlier sessions half.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.experts.iter().map(|expert| expert.uses)
    }

    /// Why it promotes nothing: too few expert slots for one token's experts would be filled anew with every token.
    #[must_use]
    pub fn inert(&self) -> Option<Inert> {
        let slots = self.slots.len() as u32;
        (slots == 0 || slots < self.used).then_some(Inert { slots, used: self.used })
    }

    /// The expert slot in which an expert can be read.
    #[must_use]
    pub fn slot_of(&self, expert: u32) -> Option<u32> {
        let at = self.experts.get(expert as usize)?.slot;
        self.slots.get(at as usize).filter(|slot| slot.holds == expert).map(|_| at)
    }

    /// The expert whose copy can be read in an expert slot.
    #[must_use]
    pub fn held(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot as usize).and_then(|slot| named(slot.holds))
    }

    /// How many expert slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What it did so far.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.reads
    }
}

fn named(expert: u32) -> Option<u32> {
    (expert != NONE).then_some(expert)
}
