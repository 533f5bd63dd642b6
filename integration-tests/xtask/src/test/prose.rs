//! The words of the documentation and of doc comments: plain technical English, with one name for a thing.
//!
//! Read are README.md, CONTRIBUTING.md, docs/*.md and every `//!` and `///` of the workspace. Code in spans and blocks
//! is left out, and so is HTML. What is not written stands in [`words`].

mod words;

use super::ceilings::{Check, Finding};
use super::scripts::collect;
use crate::workspace;
use anyhow::{Context, Result};
use pulldown_cmark::{Event, Options, Parser, TagEnd};
use regex::{Regex, RegexBuilder};
use std::fs;
use std::path::Path;
use words::{WORDS, Word};

/// Words that are to be replaced.
pub const CHECK: Check = Check { name: "prose", unit: "words to replace", find };

/// Stands for code, so that the words around it do not become neighbours.
const CODE: char = '\u{fffc}';

fn find(root: &Path) -> Result<Vec<Finding>> {
    let rules = Rules::new()?;
    let mut findings = Vec::new();
    let mut unread = None;
    collect(root, &mut |path| {
        let place = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let is_page = match place.rsplit_once('/') {
            None => matches!(&*place, "README.md" | "CONTRIBUTING.md"),
            Some((folder, name)) => folder == "docs" && name.ends_with(".md"),
        };
        if !is_page && !place.ends_with(".rs") {
            return;
        }
        match fs::read_to_string(path).with_context(|| format!("cannot read {}", workspace::shown(path))) {
            Ok(text) if is_page => rules.page(&place, 1, &text, &mut findings),
            Ok(text) => doc_comments(&text).for_each(|(line, text)| rules.page(&place, line, &text, &mut findings)),
            Err(error) => unread = Some(error),
        }
    })?;
    match unread {
        Some(error) => Err(error),
        None => Ok(findings),
    }
}

struct Rule {
    word: &'static Word,
    pattern: Regex,
    except: Option<Regex>,
}

struct Rules(Vec<Rule>);

impl Rules {
    fn new() -> Result<Self> {
        let regex = |text: &str| {
            let made = RegexBuilder::new(text).case_insensitive(true).build();
            made.with_context(|| format!("the pattern '{text}'"))
        };
        let rule = |word: &'static Word| {
            let except = (!word.except.is_empty()).then(|| regex(word.except)).transpose()?;
            Ok(Rule { word, pattern: regex(word.pattern)?, except })
        };
        WORDS.iter().map(rule).collect::<Result<_>>().map(Self)
    }

    /// Checks a page of Markdown whose first line is this one of a file.
    fn page(&self, file: &str, first: usize, text: &str, findings: &mut Vec<Finding>) {
        let mut paragraph = Paragraph::default();
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
        let mut in_code = false;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            match event {
                Event::Start(pulldown_cmark::Tag::CodeBlock(_)) => in_code = true,
                Event::End(TagEnd::CodeBlock) => in_code = false,
                Event::Text(words) if !in_code => paragraph.push(&words, range.start),
                Event::Code(_) => paragraph.push(&CODE.to_string(), range.start),
                Event::SoftBreak | Event::HardBreak => paragraph.push(" ", range.start),
                // These change the looks of words in a paragraph.
                Event::Start(tag) if is_inline(&tag.to_end()) => {}
                Event::End(tag) if is_inline(&tag) => {}
                Event::InlineHtml(_) => {}
                _ => self.paragraph(&mut paragraph, file, first, text, findings),
            }
        }
        self.paragraph(&mut paragraph, file, first, text, findings);
    }

    fn paragraph(&self, paragraph: &mut Paragraph, file: &str, first: usize, text: &str, findings: &mut Vec<Finding>) {
        let paragraph = std::mem::take(paragraph);
        for Rule { word, pattern, except } in &self.0 {
            for found in pattern.find_iter(&paragraph.text) {
                let written = found.as_str();
                if except.as_ref().is_some_and(|except| except.is_match(written)) {
                    continue;
                }
                let line = first + text[..paragraph.source(found.start())].matches('\n').count();
                let text = format!("{file}:{line}: '{written}': say {} ({})", word.say, word.why);
                findings.push(Finding { path: file.to_owned(), text });
            }
        }
    }
}

fn is_inline(tag: &TagEnd) -> bool {
    matches!(tag, TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Link | TagEnd::Image)
}

/// The words of a paragraph, and where they are from.
#[derive(Default)]
struct Paragraph {
    text: String,
    /// From this place in the text on, words are from there in the source.
    places: Vec<(usize, usize)>,
}

impl Paragraph {
    fn push(&mut self, words: &str, source: usize) {
        self.places.push((self.text.len(), source));
        self.text += words;
    }

    fn source(&self, at: usize) -> usize {
        let place = self.places.iter().rev().find(|(begin, _)| *begin <= at);
        place.map_or(0, |(_, source)| *source)
    }
}

/// The doc comments of a file as pages of Markdown, each with its first line's number.
fn doc_comments(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut lines = text.lines().enumerate().peekable();
    std::iter::from_fn(move || {
        while let Some((number, line)) = lines.next() {
            let Some((kind, line)) = doc_line(line) else { continue };
            let mut page = line.to_owned();
            while let Some((_, (_, next))) =
                lines.peek().and_then(|(at, line)| Some((at, doc_line(line)?))).filter(|(_, (of, _))| *of == kind)
            {
                page.push('\n');
                page += next;
                lines.next();
            }
            return Some((number + 1, page));
        }
        None
    })
}

/// The text of a line of a doc comment, and which kind it is.
fn doc_line(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start();
    let (kind, rest) = ["///", "//!"].into_iter().find_map(|kind| Some((kind, line.strip_prefix(kind)?)))?;
    // Four slashes are a ruler.
    (!rest.starts_with('/')).then(|| (kind, rest.strip_prefix(' ').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a page: (line, word).
    fn found(text: &str) -> Vec<(usize, String)> {
        read("docs/a.md", text)
    }

    fn read(name: &str, text: &str) -> Vec<(usize, String)> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, text).expect("written");
        let of = |finding: Finding| {
            let rest = finding.text.strip_prefix(&format!("{name}:")).expect("the file first");
            let (line, rest) = rest.split_once(": '").expect("a line");
            (line.parse().expect("a number"), rest.split_once("':").expect("a word").0.to_owned())
        };
        find(folder.path()).expect("read").into_iter().map(of).collect()
    }

    #[test]
    fn every_pattern_finds_its_word() {
        for (text, word) in [
            ("Another way to run it.", "way to run"),
            ("Show all ways.", "all ways"),
            ("The homes of weights.", "homes"),
            ("A Home of weights.", "Home"),
            ("Late backing is made.", "Late backing"),
            ("It settles first.", "settles"),
            ("It makes room for more.", "makes room"),
            ("A wish of the rule.", "wish"),
            ("One stretch.", "stretch"),
            ("At a seam.", "seam"),
            ("It cuts copies.", "cuts"),
            ("Each lane waits.", "lane"),
            ("A slot of the ring.", "slot"),
            ("An empty slot.", "slot"),
            ("The learned order.", "learned order"),
            ("With assist.", "assist"),
            ("The notebook.", "notebook"),
            ("In the journal.", "journal"),
            ("A planted fault.", "planted"),
            ("The rig.", "rig"),
            ("What stands behind it.", "behind"),
            ("One in so many.", "so many"),
            ("An empty file is no JSON.", "is no"),
            ("They are no more.", "are no"),
        ] {
            assert_eq!(found(text), [(1, word.to_owned())], "{text}");
        }
    }

    #[test]
    fn honest_uses_and_longer_words_pass() {
        for text in [
            "In the same way, both ways, by the way; a way out.",
            "The home directory, and homely things.",
            "It came late. There is room for two.",
            "Executes, shortcuts, cutlass, islands, planet, implants, trigger, seamless, outstretched.",
            "A staging slot; an expert slot; four server slots of llama-server.",
            "In alphabetical order.",
            "There is no file. There are no more. It is no longer there. It is no more than that. It is none.",
            "So much that it fails; so often as needed.",
            "The systemd journal.",
            "This means that it works.",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn code_is_left_out_and_words_around_it_are_no_neighbours() {
        for text in [
            "Run `behind` it.",
            "```\nbehind\n```",
            "~~~text\nbehind\n~~~",
            "    behind, as code",
            "* a\n\n  ```sh\n  behind\n  ```",
            "<!-- behind -->\n",
            "Text <!-- behind --> text.",
            "[name](https://example.org/behind)",
            "It is `x` no.",
            "so `x` many",
            "# so\n\nmany",
            "| so | many |\n|---|---|\n| is | no |",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn a_finding_names_its_line_also_across_lines_and_marks() {
        assert_eq!(found("# A\n\nText and\nwhat is behind.\n"), [(4, "behind".to_owned())]);
        assert_eq!(found("One\n\nin so\nmany.\n"), [(3, "so many".to_owned())]);
        assert_eq!(found("In *so* **many**.\n"), [(1, "so many".to_owned())]);
        assert_eq!(found("| a | b |\n|---|---|\n| c | behind |\n"), [(3, "behind".to_owned())]);
        assert_eq!(found("1. a\n2. b\n   * behind\n"), [(3, "behind".to_owned())]);
        assert_eq!(found("behind\n\nbehind behind\n").len(), 3);
    }

    #[test]
    fn doc_comments_are_read_and_other_comments_are_not() {
        let text = "//! Behind.\n\n// behind\n//// behind\nfn behind() {} // behind\n    /// One of so\n    /// many.\n    ///\n    /// ```\n    /// behind();\n    /// ```\n    /// Behind `behind`.\nconst B: &str = \"behind\";\n";
        let expected = [(1, "Behind"), (6, "so many"), (12, "Behind")].map(|(line, word)| (line, word.to_owned()));
        assert_eq!(read("hook/src/a.rs", text), expected);
    }

    #[test]
    fn only_pages_for_readers_are_read() {
        assert_eq!(read("README.md", "behind").len(), 1);
        assert_eq!(read("CONTRIBUTING.md", "behind").len(), 1);
        for name in ["docs/benchmarks/a.md", "hook/README.md", "docs/a.txt", "LICENSE"] {
            assert!(read(name, "behind").is_empty(), "{name}");
        }
    }

    #[test]
    fn every_word_says_what_to_write_and_why() {
        assert!(WORDS.iter().all(|word| !word.say.is_empty() && !word.why.is_empty()));
        assert_eq!(Rules::new().expect("patterns").0.len(), WORDS.len());
    }
}
