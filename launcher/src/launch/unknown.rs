//! Variables that look like ours and are none: a slip of the hand there would otherwise change nothing, in silence.

use super::hook_file;
use super::settings::{Environment, LAUNCHED};
use greenboost_contract::escaped;
use greenboost_contract::settings::{self, PREFIX, Settings};

/// Names the unknown ones on stderr, on one line, before the command starts.
pub fn name(user: &Environment) {
    let unknown = unknown(user.own.keys().filter_map(|name| name.to_str()));
    if !unknown.is_empty() {
        let shown: Vec<_> = unknown.iter().map(|name| shown(name)).collect();
        crate::output::complain(
            "gb-launch",
            &format!("not a variable of GreenBoost, and without effect: {}", shown.join(", ")),
        );
    }
}

/// Every variable that has a meaning.
fn known() -> impl Iterator<Item = &'static str> {
    let ours = [hook_file::VARIABLE, LAUNCHED].into_iter().chain(settings::FOR_TESTS);
    Settings::VARIABLES.iter().copied().chain(ours)
}

fn unknown<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| name.starts_with(PREFIX) && !known().any(|known| known == *name)).collect()
}

/// The name, with the one that was probably meant.
fn shown(name: &str) -> String {
    let meant = known().map(|known| (distance(name, known), known)).min().filter(|(distance, _)| *distance <= 2);
    meant.map_or_else(|| escaped(name).into_owned(), |(_, known)| format!("{} (is {known} meant?)", escaped(name)))
}

/// How many letters have to be put in, taken out or changed to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, byte) in one.bytes().enumerate() {
        let mut left_above = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in other.bytes().enumerate() {
            let changed = left_above + usize::from(byte != other);
            left_above = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(left_above + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_meaning_is_named_with_what_is_near() {
        let names =
            ["GREENBOOST_VRAM", "GREENBOOST_HOOK", "GREENBOOST_CALLS", "GREENBOOST_VRM", "GREENBOOST_X", "PATH"];
        assert_eq!(unknown(names.into_iter()), ["GREENBOOST_VRM", "GREENBOOST_X"]);
        assert_eq!(shown("GREENBOOST_VRM"), "GREENBOOST_VRM (is GREENBOOST_VRAM meant?)");
        assert_eq!(shown("GREENBOOST_SOMETHING"), "GREENBOOST_SOMETHING");
        assert_eq!(
            (distance("abc", "abc"), distance("abc", "abd"), distance("abc", "bc"), distance("", "ab")),
            (0, 1, 1, 2)
        );
    }
}
