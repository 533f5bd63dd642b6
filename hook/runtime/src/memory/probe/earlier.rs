//! That an earlier process has tried a backing, and a kernel could use it: then no other has to on the same machine.
//!
//! A context of its own is what a probe spends its time on, as long as a tenth of what loading a model takes. Its answer
//! is the same until something changes, so it is kept with everything that could change it, and holds where all of that
//! is still so to the letter. Only a success is kept: what failed may work the next time, and who is refused memory is
//! owed a reason of today.

use super::machine::{self, Fact};
use super::notebook::Notebook;
use super::{Found, Verdict, with_note};
use crate::memory::backing::HostBacking;
use crate::memory::device::Device;
use greenboost_cuda::Driver;

/// How a page ends: one without it was cut off.
const END: &str = "end";
const WORKS: &str = "a kernel reads and writes it";
const FILES: &str = "a kernel reads pages of a file";
const NOTE: &str = "note ";
/// What is taken over of a note: it becomes part of a line.
const MOST_OF_A_NOTE: usize = 160;

/// The page of the notebook for a device and a backing.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    name: String,
    facts: Vec<Fact>,
}

impl Page {
    /// For things as they are now. `None`: they cannot be described well enough to know them again.
    pub fn of(driver: &Driver, device: &Device, backing: &dyn HostBacking) -> Option<Self> {
        let mut facts = machine::machine()?;
        facts.extend(machine::software(driver)?);
        facts.extend(machine::device(driver, device));
        facts.push(("backing", format!("{} {}", backing.name(), backing.variant())));
        Some(Self { name: name(&device.uuid, backing.name()), facts })
    }

    /// What a probe has found, if one has, and it tried files where those are `wanted`.
    pub fn recall(&self, notebook: &Notebook, wanted: bool) -> Option<Found> {
        let text = notebook.read(&self.name)?;
        let mut lines = text.strip_prefix(&self.head())?.lines();
        let (mut reads_files, mut note) = (false, None);
        loop {
            match lines.next()? {
                FILES => reads_files = true,
                END => break,
                line => note = Some(line.strip_prefix(NOTE)?.chars().take(MOST_OF_A_NOTE).collect::<String>()),
            }
        }
        if lines.next().is_some() || note.as_ref().is_some_and(|note| note.contains(char::is_control)) {
            return None;
        }
        let file_pages = wanted.then(|| Ok("a kernel read them earlier".to_owned()));
        let how = "a kernel read and wrote it earlier since the machine was started".to_owned();
        let how = with_note(how, note.as_deref());
        (reads_files || !wanted).then_some(Found { backing: Verdict::Works(how), file_pages, note })
    }

    /// Keeps a success. What was kept before a failure was wrong.
    pub fn note(&self, notebook: &Notebook, found: &Found) {
        match found.backing {
            Verdict::Works(_) => {
                let reads_files = matches!(found.file_pages, Some(Ok(_)));
                if let Err(error) = notebook.write(&self.name, &self.text(reads_files, found.note.as_deref())) {
                    log::debug!("the answer is not kept: {error}");
                }
            }
            Verdict::Fails(_) => notebook.remove(&self.name),
            Verdict::NoRoom(_) => {}
        }
    }

    fn head(&self) -> String {
        // Quoted, so that a line in a name is not a line here.
        let facts = self.facts.iter().map(|(name, value)| format!("{name}: {value:?}\n"));
        facts.chain([format!("{WORKS}\n")]).collect()
    }

    fn text(&self, reads_files: bool, note: Option<&str>) -> String {
        let files = if reads_files { format!("{FILES}\n") } else { String::new() };
        let note = note.map(|note| format!("{NOTE}{}\n", note.replace(char::is_control, " "))).unwrap_or_default();
        format!("{}{files}{note}{END}\n", self.head())
    }
}

/// Whatever was found of a backing was wrong: the next process has to try it.
pub fn forget(uuid: &str, backing: &str) {
    if let Some(notebook) = Notebook::open(false) {
        notebook.remove(&name(uuid, backing));
    }
}

fn name(uuid: &str, backing: &str) -> String {
    format!("probe-{uuid}-{backing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: [(&str, &str); 3] = [("boot", "6e1c"), ("driver", "/lib/libcuda.so.1\n 5"), ("backing", "memfd")];

    fn page(change: Option<usize>) -> Page {
        let value = |at, value: &str| if change == Some(at) { format!("{value}x") } else { value.to_owned() };
        let facts = FACTS.iter().enumerate().map(|(at, (name, text))| (*name, value(at, text))).collect();
        Page { name: name("GPU-1", "memfd"), facts }
    }

    fn found(backing: Verdict, file_pages: Option<Result<String, String>>) -> Found {
        Found { backing, file_pages, note: Some("it has\na note".to_owned()) }
    }

    fn works() -> Verdict {
        Verdict::Works(String::new())
    }

    #[test]
    fn a_success_is_known_again_until_any_fact_changes() {
        let (_folder, notebook) = Notebook::for_tests();
        page(None).note(&notebook, &found(works(), None));
        let again = page(None).recall(&notebook, false).expect("known");
        assert!(matches!(again.backing, Verdict::Works(how) if how.contains("earlier")));
        assert_eq!(again.note.as_deref(), Some("it has a note"));
        for (at, fact) in FACTS.iter().enumerate() {
            assert!(page(Some(at)).recall(&notebook, false).is_none(), "{fact:?}");
        }
        // One fact more, or less, as another version has it.
        let mut other = page(None);
        other.facts.pop();
        assert!(other.recall(&notebook, false).is_none());
        page(Some(0)).note(&notebook, &found(works(), None));
        assert!(page(None).recall(&notebook, false).is_none(), "one page for each GPU and backing");
    }

    #[test]
    fn files_are_known_only_where_a_kernel_read_one() {
        let (_folder, notebook) = Notebook::for_tests();
        for (tried, known) in [(None, false), (Some(Err("no".to_owned())), false), (Some(Ok(String::new())), true)] {
            page(None).note(&notebook, &found(works(), tried));
            assert!(page(None).recall(&notebook, false).is_some_and(|found| found.file_pages.is_none()));
            assert_eq!(page(None).recall(&notebook, true).is_some(), known);
        }
    }

    #[test]
    fn a_failure_is_never_kept_and_takes_away_what_was() {
        let (_folder, notebook) = Notebook::for_tests();
        for (verdict, left) in
            [(Verdict::NoRoom(String::new()), true), (Verdict::Fails(String::new()), false), (works(), true)]
        {
            page(None).note(&notebook, &found(works(), None));
            page(None).note(&notebook, &found(verdict, None));
            assert_eq!(page(None).recall(&notebook, false).is_some(), left);
        }
    }

    #[test]
    fn a_page_that_was_cut_off_or_changed_says_nothing() {
        let (_folder, notebook) = Notebook::for_tests();
        let page = page(None);
        page.note(&notebook, &found(works(), Some(Ok(String::new()))));
        let text = notebook.read(&page.name).expect("a page");
        let is_known = |text: &str| {
            notebook.write(&page.name, text).expect("written");
            page.recall(&notebook, false).is_some()
        };
        assert!(is_known(&text));
        // The line's end at the very end is all that may be missing.
        assert!((0..text.len() - 1).all(|end| !is_known(&text[..end])));
        assert!(!is_known(&format!("{text}more\n")) && !is_known(&text.replace(END, "another line\nend")));
    }
}
