//! What the commands print. A line that cannot be written is not lost in silence: the command ends with an error
//! ([`end`]), whatever else came of it. Text of others that came this far unescaped still cannot speak to the terminal.

use clap::Parser;
use greenboost_contract::escape::{escaped_lines, is_hostile};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;
use terminal_size::Width;

/// The exit code where the output could not be written.
const UNWRITTEN: u8 = 2;

/// Why something could not be written, the first time.
static FAILURE: OnceLock<String> = OnceLock::new();

/// Prints lines, those that a terminal is too narrow for on several; false where that failed.
pub fn print(text: &str) -> bool {
    let text = escaped_lines(text);
    match terminal_size::terminal_size_of(io::stdout()) {
        Some((Width(columns), _)) if io::stdout().is_terminal() => write(&wrapped(&text, columns.into())),
        _ => write(&text),
    }
}

/// Prints one line.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints JSON, on one line where `is_compact`; false where that failed.
pub fn json(value: &impl Serialize, is_compact: bool) -> bool {
    let text = if is_compact { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    match text {
        Ok(text) => write(&(json_escaped(&text) + "\n")),
        Err(error) => failed(&io::Error::from(error)),
    }
}

/// Clears the terminal and prints lines.
pub fn redraw(text: &str) -> bool {
    // Home and clear: the terminal shows one table, not a scroll of them.
    write(&format!("\x1b[H\x1b[2J{}", escaped_lines(text)))
}

/// Says on stderr what is wrong. Nobody can be told when that fails.
pub fn complain(program: &str, problem: &impl Display) {
    let _ = writeln!(io::stderr(), "{program}: {}", escaped_lines(&problem.to_string()));
}

/// Whether something could not be written.
pub fn has_failed() -> bool {
    FAILURE.get().is_some()
}

/// The exit code of a command that has ended with `code`.
pub fn end(program: &str, code: ExitCode) -> ExitCode {
    match FAILURE.get() {
        None => code,
        Some(why) => {
            complain(program, &format!("the output cannot be written: {why}: write it to another place"));
            ExitCode::from(UNWRITTEN)
        }
    }
}

/// The options of a command line, or the exit code where there are none: help was asked for, or they are wrong.
///
/// # Errors
/// The exit code.
pub fn options<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        let printed = error.print().and_then(|()| io::stdout().flush());
        if let Err(error) = printed {
            failed(&error);
        }
        end(program, ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(UNWRITTEN)))
    })
}

/// The lines, broken between words. What goes on stands below the words that it goes on from, after a label. Lines that are
/// set in by two are commands, to be copied as they are.
fn wrapped(text: &str, columns: usize) -> String {
    let mut all = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let is_command = line.starts_with("  ") && !line.starts_with("   ");
        if is_command || line.trim_end().chars().count() <= columns {
            all.push_str(line);
            continue;
        }
        let indent = " ".repeat(indent(line).min(columns / 2));
        let mut length = 0;
        for (at, word) in line.trim_end().split(' ').enumerate() {
            let wide = word.chars().count();
            if at > 0 && length + 1 + wide > columns && length > indent.len() {
                all.push('\n');
                all.push_str(&indent);
                length = indent.len();
            } else if at > 0 {
                all.push(' ');
                length += 1;
            }
            all.push_str(word);
            length += wide;
        }
        all.push('\n');
    }
    all
}

/// Where the words of a line begin, after a label and the spaces after it.
fn indent(line: &str) -> usize {
    let own = line.len() - line.trim_start().len();
    let label = line[own..].find("  ").filter(|label| own == 0 && *label < 24);
    label.map_or(own, |label| label + line[label..].len() - line[label..].trim_start().len())
}

fn write(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => true,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> bool {
    let _ = FAILURE.set(error.to_string());
    false
}

/// JSON with what a terminal would obey as `\u` escapes, which mean the same. Outside of its strings there is none.
fn json_escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\n' || !is_hostile(character) {
            shown.push(character);
        } else {
            let mut units = [0; 2];
            shown.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words_below_the_words_they_go_on_from() {
        let text =
            "Model    a name that is long\nshort\n  gb-launch a command that is copied\n   set in by three and long\n";
        let expected = "Model    a name that\n         is long\nshort\n  gb-launch a command that is copied\n   set in by three\n   and long\n";
        assert_eq!(wrapped(text, 20), expected);
        assert_eq!(wrapped(text, 80), text);
        assert_eq!(wrapped("averyveryverylongword\n", 5), "averyveryverylongword\n");
    }

    #[test]
    fn json_says_the_same_and_speaks_to_no_terminal() {
        let value = serde_json::json!({ "name": "\x1b]0;x\u{9b}2J\u{202e}\u{e0041}ü\n" });
        let text = json_escaped(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(!text.chars().any(|character| character != '\n' && is_hostile(character)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
    }
}
