//! A property on every input that its fuzzer has kept: the body of the crates' `tests/corpus.rs`.

use std::fs;
use std::path::Path;

/// Checks all of `fuzz/corpus/TARGET`.
///
/// # Panics
/// When the property does not hold, or fewer inputs are found than the folder has.
pub fn holds(target: &str, check: fn(&[u8])) {
    let mut above =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("fuzz/corpus").join(target));
    let folder =
        above.find(|folder| folder.is_dir()).unwrap_or_else(|| panic!("no fuzz/corpus/{target} above this crate"));
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        // A failure's own message does not know the file.
        eprintln!("{}", path.display());
        check(&fs::read(&path).expect("a file"));
        files += 1;
    }
    assert!(files > 10, "{} holds {files} files", folder.display());
}
