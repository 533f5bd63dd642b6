//! Text of others (names in model files, command lines, records of other processes) before it is shown: whatever a
//! terminal would obey, or would show as if it were not there, is written out instead.

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Characters that are not controls (ESC and the like, C1 included) and are not seen either: they turn the direction of
/// what follows, end a line, or hide in a name.
const UNSEEN: &[RangeInclusive<char>] = &[
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Whether a character would not be shown as one.
pub fn is_hostile(character: char) -> bool {
    character.is_control() || UNSEEN.iter().any(|range| range.contains(&character))
}

/// The text with such characters as `\u{1b}` (line ends as `\n`), so that it stays on its line and says what it holds.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, is_hostile)
}

/// The same for text of several lines, which stay lines. Tabs stay too: they do no harm there.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| !matches!(character, '\n' | '\t') && is_hostile(character))
}

fn escape(text: &str, is_written_out: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_written_out) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_written_out(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_written_out_and_the_rest_stays() {
        for (text, shown) in [
            ("llama-server -m größe.gguf", "llama-server -m größe.gguf"),
            (r"blk\.[0-9]+=ram", r"blk\.[0-9]+=ram"),
            ("\x1b]0;x\x07", "\\u{1b}]0;x\\u{7}"),
            ("\u{9b}2J\x7f", "\\u{9b}2J\\u{7f}"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{202e}fugg\u{2066}\u{200b}\u{feff}", "\\u{202e}fugg\\u{2066}\\u{200b}\\u{feff}"),
            ("\u{2028}x\u{e0041}", "\\u{2028}x\\u{e0041}"),
        ] {
            assert_eq!(escaped(text), shown);
        }
        assert_eq!(escaped_lines("a\n\t\x1bb\n"), "a\n\t\\u{1b}b\n");
    }
}
