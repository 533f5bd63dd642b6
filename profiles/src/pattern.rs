//! Patterns on names, read exactly as the hook reads them in the target: on bytes, without Unicode tables. What is
//! accepted here is accepted there.

use regex::bytes::{Regex, RegexBuilder};

/// Compiles a pattern.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).unicode(false).build().map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// One pattern that matches what any of several matches.
///
/// Patterns of whole names stay one flat list, `^(?:a|b|c)$`, because the hook answers such a list without compiling
/// anything, and every process that a target starts asks it.
pub fn any_of(patterns: &[&str]) -> String {
    match patterns {
        [only] => (*only).to_owned(),
        _ => match patterns.iter().map(|pattern| alternatives(pattern)).collect::<Option<Vec<_>>>() {
            Some(lists) => format!("^(?:{})$", lists.join("|")),
            None => patterns.iter().map(|pattern| format!("(?:{pattern})")).collect::<Vec<_>>().join("|"),
        },
    }
}

/// The list inside `^(a|b)$`, `^(?:a|b)$` or `^a$`; `None` for anything more complicated.
fn alternatives(pattern: &str) -> Option<&str> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let group = inner.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
    let list = group.map(|group| group.strip_prefix("?:").unwrap_or(group));
    let is_flat = |text: &str| !text.ends_with('\\') && !text.contains(['(', ')', '[', ']', '^', '$', '?']);
    match list {
        Some(list) => Some(list).filter(|list| is_flat(list)),
        None => Some(inner).filter(|inner| is_flat(inner) && !inner.contains('|')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_stay_lists_and_the_rest_keeps_its_meaning() {
        for (patterns, expected) in [
            (&["^a$"][..], "^a$"),
            (&["^(a|b)$", "^c$"], "^(?:a|b|c)$"),
            (&["^(?:a|b\\.c)$", r"^g\+\+$"], r"^(?:a|b\.c|g\+\+)$"),
            (&["^a$", "b"], "(?:^a$)|(?:b)"),
            (&["^a|b$", "^c$"], "(?:^a|b$)|(?:^c$)"),
            (&["^(a)(b)$", "^c$"], "(?:^(a)(b)$)|(?:^c$)"),
            (&["^a\\$", "^c$"], "(?:^a\\$)|(?:^c$)"),
        ] {
            assert_eq!(any_of(patterns), expected);
            let joined = compile(expected).expect("pattern");
            for name in ["a", "b", "c", "ab", "b.c", "bxc", "g++", "gg", "a$", "ac", "xb", ""] {
                let separately =
                    patterns.iter().any(|pattern| compile(pattern).expect("part").is_match(name.as_bytes()));
                assert_eq!(joined.is_match(name.as_bytes()), separately, "{expected} on {name}");
            }
        }
    }

    #[test]
    fn ascii_classes_work_and_unicode_ones_are_explained() {
        assert!(compile(r"^python3\.\d+$").expect("pattern").is_match(b"python3.11"));
        assert!(compile(r"\pL").expect_err("no tables").contains("Unicode"));
        assert_eq!(compile("(").expect_err("unclosed"), "unclosed group");
    }
}
