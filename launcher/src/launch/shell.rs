//! Just enough of a shell's language to see the one command in `bash -c '...'`. Anything that makes it more than one, or
//! that only a shell can tell, is none.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What comes after a word in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// The command it starts.
    pub words: Vec<OsString>,
    /// Variables that it sets for it.
    pub variables: Vec<(OsString, OsString)>,
    /// It takes LD_PRELOAD away, or sets one of its own.
    pub drops_preload: bool,
}

/// Words of a shell before a command, which change nothing about which it is.
const BEFORE: &[&str] = &["exec", "command", "time", "builtin"];

/// A word, and whether a shell would have put something else in its place.
#[derive(Debug, Default)]
struct Word {
    bytes: Vec<u8>,
    is_begun: bool,
    expands: bool,
}

/// The command that is all of `text`; `arguments` are what follows it in the shell's own: `$0`, `$1` and so on.
pub fn simple_command(text: &[u8], arguments: &[OsString]) -> Option<Behind> {
    let mut words = words(text)?.into_iter().peekable();
    let mut behind = Behind::default();
    while let Some(word) = words.peek() {
        let text = OsString::from_vec(word.bytes.clone());
        match assignment(&text) {
            Some(_) if word.expands => drop(words.next()),
            Some(pair) if is_name(pair.0.as_bytes()) => {
                behind.variables.push(pair);
                words.next();
            }
            _ if !word.expands && BEFORE.iter().any(|before| text == *before) => drop(words.next()),
            _ => break,
        }
    }
    for word in words {
        match word.bytes.as_slice() {
            b"$@" | b"$*" => behind.words.extend(arguments.iter().skip(1).cloned()),
            _ if word.expands && behind.words.is_empty() => return None,
            _ => behind.words.push(OsString::from_vec(word.bytes)),
        }
    }
    (!behind.words.is_empty()).then_some(behind)
}

/// The words of a text that a shell would leave as they are.
pub fn split(text: &[u8]) -> Option<Vec<OsString>> {
    Some(words(text)?.into_iter().map(|word| OsString::from_vec(word.bytes)).collect())
}

/// `NAME=VALUE`.
pub fn assignment(word: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
}

fn is_name(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') && !bytes[0].is_ascii_digit()
}

/// The words of one command, without its redirections.
fn words(text: &[u8]) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut word = Word::default();
    // The word that comes next is a file.
    let mut is_target = false;
    let mut bytes = text.trim_ascii().iter().copied().peekable();
    let mut end = |word: &mut Word, is_target: &mut bool| {
        let word = std::mem::take(word);
        if word.is_begun && !std::mem::take(is_target) {
            words.push(word);
        }
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => end(&mut word, &mut is_target),
            b'\\' => {
                let next = bytes.next()?;
                // A line that goes on.
                if next != b'\n' {
                    word.push(next);
                }
            }
            b'\'' => {
                word.is_begun = true;
                loop {
                    match bytes.next()? {
                        b'\'' => break,
                        byte => word.push(byte),
                    }
                }
            }
            b'"' => {
                word.is_begun = true;
                loop {
                    match bytes.next()? {
                        b'"' => break,
                        b'`' => return None,
                        b'\\' => match bytes.next()? {
                            byte @ (b'"' | b'\\' | b'$' | b'`') => word.push(byte),
                            b'\n' => {}
                            byte => {
                                word.push(b'\\');
                                word.push(byte);
                            }
                        },
                        byte => word.expanded(byte),
                    }
                }
            }
            b'>' | b'<' => {
                // `2>`: the number is no word.
                if !word.bytes.iter().all(u8::is_ascii_digit) {
                    end(&mut word, &mut is_target);
                }
                word = Word::default();
                while bytes.next_if(|next| matches!(next, b'>' | b'<' | b'&' | b'|')).is_some() {}
                is_target = true;
            }
            b'&' if bytes.peek() == Some(&b'>') => {}
            b';' | b'&' | b'|' | b'(' | b')' | b'`' | b'\n' => return None,
            b'#' if !word.is_begun => return None,
            byte => word.expanded(byte),
        }
    }
    end(&mut word, &mut is_target);
    Some(words)
}

impl Word {
    fn push(&mut self, byte: u8) {
        self.is_begun = true;
        self.bytes.push(byte);
    }

    fn expanded(&mut self, byte: u8) {
        self.expands |= matches!(byte, b'$' | b'*' | b'?' | b'[' | b'{' | b'~');
        self.push(byte);
    }
}
