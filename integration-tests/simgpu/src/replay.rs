//! A launch of a graph. Nodes that do not depend on each other run in a random order, so that a dependency someone
//! forgot shows.

use crate::clock::Clock;
use crate::env::options;
use crate::errors::Result;
use crate::gpu::Turn;
use crate::random::Random;
use std::cell::{Cell, RefCell};
use std::time::Instant;

/// A node of a graph that is launched.
pub trait Step {
    /// The nodes before it, by index.
    fn after(&self) -> &[usize];

    /// Those of them that need only have begun.
    fn early(&self) -> &[usize];

    /// Does what it does.
    fn run(&self, turn: &Turn, random: &mut Random) -> Result;
}

/// Runs a graph.
pub fn run<S: Step>(nodes: &[S], turn: &Turn, random: &mut Random) -> Result {
    let mut replay = Replay {
        nodes,
        turn,
        random: RefCell::new(random),
        missing: nodes.iter().map(|node| Cell::new(node.after().len())).collect(),
        dependents: vec![Vec::new(); nodes.len()],
        ended: vec![Cell::new(None); nodes.len()],
        ready: RefCell::default(),
    };
    for (index, node) in nodes.iter().enumerate() {
        for before in node.after() {
            replay.dependents[*before].push((index, node.early().contains(before)));
        }
    }
    (0..nodes.len()).filter(|index| nodes[*index].after().is_empty()).for_each(|index| replay.open(index));
    while let Some(index) = replay.choose() {
        replay.run(index)?;
    }
    replay.ended.iter().filter_map(Cell::get).for_each(|ended| turn.clock.not_before(ended));
    Ok(())
}

/// One launch of a graph. Nodes run one by one; a node that may begin before another has ended may run before it
/// altogether, up to where it waits.
struct Replay<'a, S> {
    nodes: &'a [S],
    turn: &'a Turn<'a>,
    random: RefCell<&'a mut Random>,
    /// By node: the nodes it still waits for.
    missing: Vec<Cell<usize>>,
    /// By node: the nodes that depend on it, and whether they may begin early.
    dependents: Vec<Vec<(usize, bool)>>,
    /// By node: when it was over, once it is.
    ended: Vec<Cell<Option<Instant>>>,
    ready: RefCell<Vec<usize>>,
}

impl<S: Step> Replay<'_, S> {
    /// A node may begin, and with it those that wait for no more than that.
    fn open(&self, index: usize) {
        self.ready.borrow_mut().push(index);
        self.release(index, true);
    }

    fn release(&self, index: usize, early: bool) {
        for (next, _) in self.dependents[index].iter().filter(|(_, may)| *may == early) {
            let missing = &self.missing[*next];
            missing.set(missing.get() - 1);
            if missing.get() == 0 {
                self.open(*next);
            }
        }
    }

    fn choose(&self) -> Option<usize> {
        let mut ready = self.ready.borrow_mut();
        if options().delay_us == 0 {
            let first = (0..ready.len()).min_by_key(|at| ready[*at])?;
            return Some(ready.swap_remove(first));
        }
        let most = ready.len() as u64;
        (most > 0).then(|| ready.swap_remove((self.random.borrow_mut().number() % most) as usize))
    }

    fn run(&self, index: usize) -> Result {
        let node = &self.nodes[index];
        let mut random = Random::new(self.random.borrow_mut().number());
        random.delay();
        let clock = Clock::start(self.turn.clock.now());
        let wait_for = |before: &usize| self.ended[*before].get().into_iter().for_each(|ended| clock.not_before(ended));
        node.after().iter().filter(|before| !node.early().contains(before)).for_each(wait_for);
        let dependencies = || {
            for before in node.early() {
                if self.ended[*before].get().is_none() {
                    self.ready.borrow_mut().retain(|other| other != before);
                    self.run(*before)?;
                }
                wait_for(before);
            }
            Ok(())
        };
        let turn = Turn { context: self.turn.context, clock: &clock, dependencies: &dependencies };
        node.run(&turn, &mut random)?;
        self.ended[index].set(Some(clock.now()));
        self.release(index, false);
        Ok(())
    }
}
