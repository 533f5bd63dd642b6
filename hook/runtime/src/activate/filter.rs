//! Which executables are ours.

use regex::bytes::RegexBuilder;

/// Whether a process is to be hooked: included and not excluded. An empty pattern includes all and excludes none.
/// A pattern that cannot be read admits nothing.
pub fn admits(include: &str, exclude: &str, name: &str) -> bool {
    let included = include.is_empty() || matches(include, name) == Some(true);
    included && (exclude.is_empty() || matches(exclude, name) == Some(false))
}

/// Whether a pattern names an executable; an empty one names none, and one that cannot be read every one.
pub fn names(pattern: &str, name: &str) -> bool {
    !pattern.is_empty() && matches(pattern, name) != Some(false)
}

fn matches(pattern: &str, name: &str) -> Option<bool> {
    if let Some(answer) = matches_plain(pattern, name) {
        return Some(answer);
    }
    let pattern = RegexBuilder::new(pattern).unicode(false).build().ok()?;
    Some(pattern.is_match(name.as_bytes()))
}

/// `^name$` and `^(name|name)$` are what profiles contain; every shell a target starts asks, and compiling a
/// regular expression takes longer than all other questions together.
fn matches_plain(pattern: &str, name: &str) -> Option<bool> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let group = inner.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
    let alternatives = match group {
        Some(group) => group.strip_prefix("?:").unwrap_or(group),
        None if inner.contains('|') => return None,
        None => inner,
    };
    let mut found = false;
    for alternative in alternatives.split('|') {
        found |= equals(alternative, name)?;
    }
    Some(found)
}

/// Compares a literal; `None` when the pattern is none.
fn equals(pattern: &str, name: &str) -> Option<bool> {
    let (mut letters, mut rest, mut same) = (pattern.bytes(), name.bytes(), true);
    while let Some(letter) = letters.next() {
        let letter = match letter {
            b'\\' => letters.next().filter(|letter| letter.is_ascii_punctuation())?,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b' ' => letter,
            _ => return None,
        };
        same &= rest.next() == Some(letter);
    }
    Some(same && rest.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_cut_agrees_with_the_regular_expression() {
        let patterns = [
            "^llama-server$",
            "^(llama-server|ollama)$",
            "^(?:a|b\\.c)$",
            "^a.c$",
            "llama",
            "^a|b$",
            "^(a)(b)$",
            "^a\\d$",
            "^$",
            "^()$",
            "^(a|)$",
            "sh$",
            "^a\\$",
            "^python3\\.\\d+$",
        ];
        let names =
            ["llama-server", "ollama", "a", "b.c", "bxc", "abc", "b", "ab", "", "bash", "a1", "python3.11", "a$"];
        for pattern in patterns {
            let regex = RegexBuilder::new(pattern).unicode(false).build();
            for name in names {
                let expected = regex.as_ref().ok().map(|regex| regex.is_match(name.as_bytes()));
                assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
            }
        }
    }

    #[test]
    fn exclusion_wins_and_nonsense_admits_nothing() {
        assert!(admits("", "", "anything"));
        assert!(admits("^a$", "^b$", "a") && !admits("^a$", "^a$", "a"));
        assert!(!admits("(", "", "a") && !admits("", "(", "a"));
    }
}
