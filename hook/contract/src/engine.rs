//! Which inline engine a hook library is built with: words inside it, which are found without loading it.

use std::path::Path;

/// What stands before the engine's name in the library.
pub const MARK: &str = "greenboost inline engine: ";
/// What ends it.
pub const END: char = ';';

/// The engine of a library; `None` where it cannot be read, or is not one of ours.
pub fn of_library(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    // SAFETY: both are slices; the answer is inside the first one, or null.
    let found = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), MARK.as_ptr().cast(), MARK.len()) };
    let at = (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)?;
    let name = bytes[at + MARK.len()..].split(|byte| *byte == END as u8).next()?;
    let is_name = name.len() < 32 && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_after_the_mark_is_an_engine() {
        let path = std::env::temp_dir().join(format!("gb-engine-{}", std::process::id()));
        let found = |text: &str| {
            std::fs::write(&path, format!("\u{7f}ELF{text}rest")).expect("a file");
            of_library(&path)
        };
        let found = [format!("{MARK}frida-gum{END}"), format!("{MARK}\u{1b}[2J{END}"), MARK.to_owned(), String::new()]
            .map(|text| found(&text));
        std::fs::remove_file(&path).expect("our own");
        assert_eq!(found, [Some("frida-gum".to_owned()), None, Some("rest".to_owned()), None]);
        assert_eq!(of_library(&path), None);
    }
}
