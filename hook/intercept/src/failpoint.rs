//! Failpoints: faults that tests inject, to see that they would be noticed. Not in release builds.

use std::sync::OnceLock;

/// The faults that can be injected, by their names in `GREENBOOST_PLANT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A copy does not wait for the readers of what it overwrites.
    MissingReaders,
    /// A launch does not wait for the copy that it reads.
    MissingCopy,
    /// A write leaves the copies of what it changes.
    StaleSlot,
    /// What handles a write panics.
    WritePanics,
    /// A free does not wait for the copies of what it frees.
    MissingJoin,
    /// A graph launch does not take the staging slots over.
    NoHandOver,
    /// The kernel cannot be asked what lies at an address, as before Linux 6.11.
    OldKernel,
    /// The same, and the program's own calls are not followed either.
    Blind,
    /// Pinned memory that goes is not noticed.
    PinnedStays,
    /// A table names an expert slot before the copy into it is made.
    TableBeforeCopy,
    /// An expert slot is filled anew while a table names it and launches may read it.
    SlotTooEarly,
    /// Ids are rewritten to the neighbour of the expert slot that is meant.
    WrongExpert,
}

const NAMES: &[(Fault, &str)] = &[
    (Fault::MissingReaders, "missing-readers"),
    (Fault::MissingCopy, "missing-copy"),
    (Fault::StaleSlot, "stale-slot"),
    (Fault::WritePanics, "write-panics"),
    (Fault::MissingJoin, "missing-join"),
    (Fault::NoHandOver, "no-hand-over"),
    (Fault::OldKernel, "old-kernel"),
    (Fault::Blind, "blind"),
    (Fault::PinnedStays, "pinned-stays"),
    (Fault::TableBeforeCopy, "table-before-copy"),
    (Fault::SlotTooEarly, "slot-too-early"),
    (Fault::WrongExpert, "wrong-expert"),
];

/// Whether a fault's failpoint is set.
#[inline]
pub fn is(fault: Fault) -> bool {
    static PLANTED: OnceLock<Option<Fault>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return false;
    }
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("GREENBOOST_PLANT").ok()?;
        NAMES.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault)
    });
    *planted == Some(fault)
}
