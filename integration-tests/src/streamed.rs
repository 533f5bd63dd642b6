//! Worlds in which weights are streamed, and what the engine says of itself at the program's end.

use crate::{Outcome, World};
use greenboost_contract::settings;

/// All weights in RAM.
pub const IN_RAM: &str = "ffn\tram\t50\t\t0";

/// Weights of 7 to 12 MiB, most of which are outside VRAM, streamed through a ring of `ring`.
pub fn world(ring: &str) -> World {
    World::new()
        .vram("128MiB")
        .env(settings::VRAM, "9MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, ring)
        .env(settings::THRESHOLD, "2MiB")
        .hooked()
}

/// Runs a program whose kernels must have read the right bytes, and with which the driver must have found nothing wrong: read
/// in place, everything would be right as well.
#[track_caller]
pub fn right(world: &World, program: &str, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with(program, arguments).ok();
    let ended = ["streaming ends", "internal failure"].iter().any(|line| outcome.log.contains(line));
    assert!(outcome.stdout.starts_with("right ") && !ended, "{arguments:?}\n{}", outcome.report());
    outcome
}

impl Outcome {
    /// The number after a word of the output.
    #[track_caller]
    pub fn number(&self, word: &str) -> u64 {
        let mut words = self.stdout.split_whitespace().skip_while(|found| *found != word);
        let number = words.nth(1).and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no number behind '{word}'\n{}", self.report()))
    }
}

/// The last line of a log.
#[derive(Debug)]
pub struct Counts {
    /// Launches that found their weight's copy.
    pub hits: u64,
    /// Those that had to ask for it.
    pub misses: u64,
    /// Those that read it where it is.
    pub in_place: u64,
    /// MiB copied outside of graphs.
    pub streamed: f64,
    /// Whether graphs copy any.
    pub captured: bool,
}

impl Counts {
    /// What the only process of a run counted.
    #[track_caller]
    pub fn of(outcome: &Outcome) -> Self {
        let line = outcome.log.lines().rfind(|line| line.contains(": streamed "));
        let line = line.unwrap_or_else(|| panic!("nothing was streamed\n{}", outcome.report()));
        let words: Vec<_> = line.split([' ', ',', ';', '(']).filter(|word| !word.is_empty()).collect();
        let at = |word: &str| words.iter().position(|found| *found == word).expect("a word of the line");
        let number = |at: usize| words[at].parse().unwrap_or_else(|_| panic!("'{}' in {line}", words[at]));
        let size = at("streamed") + 1;
        let unit = match words[size + 1] {
            "B" => 0.0,
            "KiB" => 1.0 / 1024.0,
            "MiB" => 1.0,
            _ => 1024.0,
        };
        Self {
            hits: number(at("found") - 2),
            misses: number(at("ask") - 3),
            in_place: number(at("read") - 1),
            streamed: words[size].parse::<f64>().expect("a size") * unit,
            captured: words[at("more") - 2] != "0",
        }
    }
}
