//! Placement rules: where the weights of a model should be, by the name of the tensor.
//!
//! Rules are tried in order and the first whose conditions all hold decides. They travel to the hook as one
//! environment variable, a line for each rule, fields separated by tabs.

use crate::choices::written;
use crate::size::parse_size;
use crate::value;
use serde::Deserializer;
use thiserror::Error;

/// Where a tensor should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// VRAM before all others.
    Vram,
    /// VRAM while there is room, by priority.
    #[default]
    Auto,
    /// RAM, also when there is room in VRAM.
    Ram,
}

written!(Tier { Vram = "vram", Auto = "auto", Ram = "ram" });

/// The highest priority a rule can give.
pub const MAX_PRIORITY: u8 = 100;
/// The priority of a tensor that no rule names.
pub const DEFAULT_PRIORITY: u8 = 50;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRule {
    /// Regular expression found anywhere in the tensor's name (`blk.12.ffn_up_exps.weight`).
    pub tensor: String,
    /// First and last layer it is for, both included: the number after `blk.`.
    pub layers: Option<(u32, u32)>,
    /// Bytes the tensor must have at least.
    pub at_least: u64,
    /// Where it should be.
    pub tier: Tier,
    /// Who keeps VRAM longest: 0 gives way first, [`MAX_PRIORITY`] last.
    pub priority: u8,
}

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{rule}' is not a placement rule: {problem}")]
pub struct PlaceError {
    rule: String,
    problem: String,
}

impl PlaceRule {
    /// A rule of the command line: `REGEX=TIER`.
    ///
    /// # Errors
    /// [`PlaceError`] says what is allowed.
    pub fn from_argument(text: &str) -> Result<Self, PlaceError> {
        let fail = |problem: String| PlaceError { rule: text.to_owned(), problem };
        let (tensor, tier) = text.rsplit_once('=').ok_or_else(|| fail("write REGEX=TIER".to_owned()))?;
        let tier = Tier::from_name(tier)
            .ok_or_else(|| fail(format!("the tier is '{tier}', allowed are {}", Tier::NAMES.join(", "))))?;
        if tensor.is_empty() || tensor.contains(['\t', '\n']) {
            return Err(fail("the pattern must not be empty or hold tabs or line ends".to_owned()));
        }
        Ok(Self { tensor: tensor.to_owned(), layers: None, at_least: 0, tier, priority: DEFAULT_PRIORITY })
    }

    fn to_line(&self) -> String {
        let layers = self.layers.map_or_else(String::new, |(first, last)| format!("{first}-{last}"));
        format!("{}\t{}\t{}\t{layers}\t{}", self.tensor, self.tier.name(), self.priority, self.at_least)
    }

    fn from_line(line: &str) -> Result<Self, PlaceError> {
        let fail = |problem: &str| PlaceError { rule: line.to_owned(), problem: problem.to_owned() };
        let fields: Vec<_> = line.split('\t').collect();
        let [tensor, tier, priority, layers, at_least] = fields[..] else {
            return Err(fail("it needs five fields"));
        };
        Ok(Self {
            tensor: tensor.to_owned(),
            tier: Tier::from_name(tier).ok_or_else(|| fail("its tier is unknown"))?,
            priority: priority
                .parse()
                .ok()
                .filter(|priority| *priority <= MAX_PRIORITY)
                .ok_or_else(|| fail("its priority must be 0 to 100"))?,
            layers: match layers {
                "" => None,
                range => Some(parse_layers(range).ok_or_else(|| fail("its layers must be FIRST-LAST"))?),
            },
            at_least: parse_size(at_least).map_err(|error| fail(&error.to_string()))?,
        })
    }
}

/// `FIRST-LAST`, or one number.
pub fn parse_layers(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Rules as the environment carries them.
pub fn to_text(rules: &[PlaceRule]) -> String {
    rules.iter().map(PlaceRule::to_line).collect::<Vec<_>>().join("\n")
}

/// The rules of a text.
///
/// # Errors
/// The first that cannot be read.
pub fn from_text(text: &str) -> Result<Vec<PlaceRule>, PlaceError> {
    text.lines().filter(|line| !line.is_empty()).map(PlaceRule::from_line).collect()
}

/// Reads such a text by serde.
///
/// # Errors
/// As [`from_text`].
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PlaceRule>, D::Error> {
    value::text(from, |text| from_text(text).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let rules = vec![
            PlaceRule { tensor: "a=b|c".into(), layers: Some((0, 15)), at_least: 7, tier: Tier::Ram, priority: 3 },
            PlaceRule { tensor: "^x$".into(), layers: None, at_least: 0, tier: Tier::Vram, priority: 100 },
        ];
        assert_eq!(from_text(&to_text(&rules)), Ok(rules));
        assert_eq!(from_text(""), Ok(vec![]));
    }

    #[test]
    fn an_argument_is_a_pattern_and_a_tier() {
        let rule = PlaceRule::from_argument("ffn_(up|down)=ram").expect("a rule");
        assert_eq!((rule.tensor.as_str(), rule.tier), ("ffn_(up|down)", Tier::Ram));
        for (text, hint) in [("ffn", "REGEX=TIER"), ("ffn=disk", "vram, auto, ram"), ("=ram", "empty")] {
            let error = PlaceRule::from_argument(text).expect_err(text).to_string();
            assert!(error.contains(text) && error.contains(hint), "{error}");
        }
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in ["x", "x\tram\t101\t\t0", "x\tfloppy\t1\t\t0", "x\tram\t1\t9-3\t0", "x\tram\t1\t\tmuch"] {
            assert!(from_text(line).is_err(), "{line}");
        }
        assert_eq!(parse_layers("7"), Some((7, 7)));
    }
}
