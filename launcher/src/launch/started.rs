//! What a command starts in the end, after the words in front of it.

use super::program::Program;
use super::refusal::Refusal;
use super::{client, wrapper};
use std::ffi::{OsStr, OsString};

/// More words in front than anybody writes.
const MAX_WORDS_IN_FRONT: usize = 8;

/// A command and what it starts.
#[derive(Debug)]
pub struct Started {
    /// The programs on the way: the command's own first, what it starts in the end last.
    programs: Vec<Program>,
    /// The words of what it starts in the end: its name and its arguments.
    pub words: Vec<OsString>,
    /// Variables that are set for it on the way.
    pub variables: Vec<(OsString, OsString)>,
    /// Why GreenBoost would have no effect on it, where the way says so.
    objection: Option<Refusal>,
}

impl Started {
    /// Follows a command to what it starts.
    ///
    /// # Errors
    /// When the command itself cannot be started. What is after a word in front and cannot be found is left to that word.
    pub fn find(command: &[OsString], search: Option<&OsStr>) -> Result<Self, Refusal> {
        let first = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let programs = vec![Program::find(first, search)?];
        let mut started = Self { programs, words: command.to_vec(), variables: Vec::new(), objection: None };
        while started.programs.len() <= MAX_WORDS_IN_FRONT && started.step(search) {}
        Ok(started)
    }

    /// Goes after one word; false where there is nothing more.
    fn step(&mut self, search: Option<&OsStr>) -> bool {
        let names = self.last().names();
        if let Some(objection) = client::objection(&names) {
            self.objection.get_or_insert(Refusal::usage(objection).unless_forced());
            return false;
        }
        let Some(behind) = wrapper::behind(&names, &self.words) else { return false };
        let Ok(next) = Program::find(&behind.words[0], search) else { return false };
        if behind.drops_preload {
            let word = self.words[0].to_string_lossy();
            let why = format!(
                "`{word}` takes LD_PRELOAD away from what it starts.\nInstead, put gb-launch behind it: `{word} ... gb-launch COMMAND`."
            );
            self.objection.get_or_insert(Refusal::usage(why).unless_forced());
        }
        self.programs.push(next);
        self.words = behind.words;
        self.variables.extend(behind.variables);
        true
    }

    /// The program that the command names.
    pub fn first(&self) -> &Program {
        &self.programs[0]
    }

    /// The program that it starts in the end.
    pub fn last(&self) -> &Program {
        // There is one from the beginning.
        &self.programs[self.programs.len() - 1]
    }

    /// The arguments of what it starts in the end, as far as they are text.
    pub fn arguments(&self) -> Vec<String> {
        self.words[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// Every file that runs on the way.
    pub fn runs(&self) -> impl Iterator<Item = &std::path::PathBuf> {
        self.programs.iter().flat_map(|program| &program.runs)
    }

    /// The base names of everything that runs on the way, each once.
    pub fn all_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.programs.iter().flat_map(Program::all_names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Why GreenBoost would have no effect on it, if that is so.
    pub fn obstacle(&self) -> Option<Refusal> {
        self.objection.clone().or_else(|| self.programs.iter().find_map(Program::obstacle))
    }
}
