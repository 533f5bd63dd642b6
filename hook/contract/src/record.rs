//! The status record: what a hooked process publishes about itself.
//!
//! The record is a memfd named [`NAME`] that the process keeps open and mapped, sealed against a change of its size. A
//! reader finds it through `/proc/PID/fd` (`find` is that, and trusts nobody). Nothing has a name in a filesystem, so
//! nothing remains however the process dies.
//!
//! Values are written with relaxed atomics and read the same way: each is right, a set of them is a snapshot
//! that may be a microsecond apart.

mod find;
mod layout;

pub use find::{Snapshot, all, of_process};
pub use layout::*;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_record_is_found_while_its_process_holds_it_and_gone_after() {
        let pid = std::process::id();
        assert!(of_process(pid).is_none());
        let record = Mapped::create().expect("memfd");
        record.profile.set("llama-server");
        record.devices[0].vram_chunks.store(7, Relaxed);
        let seen = of_process(pid).expect("own record");
        assert_eq!(seen.profile.get(), "llama-server");
        assert_eq!(seen.devices[0].vram_chunks.load(Relaxed), 7);
        let all = all();
        let (_, copy) = all.iter().find(|(owner, _)| *owner == pid).expect("own record among all");
        assert_eq!((copy.profile.get().as_str(), copy.devices[0].vram_chunks.load(Relaxed)), ("llama-server", 7));
        drop((seen, record));
        assert!(of_process(pid).is_none());
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = Text::<32>(std::array::from_fn(|_| 0.into()));
        text.set(&"ü".repeat(40));
        assert_eq!(text.get(), "ü".repeat(16));
    }
}
