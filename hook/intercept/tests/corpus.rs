//! What the fuzzer of `fuzz/properties/elf.rs` has kept, run as an ordinary test.

#[path = "../../../fuzz/properties/elf.rs"]
mod property;

use std::fs;
use std::path::Path;

#[test]
fn what_the_fuzzer_has_kept_still_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/elf");
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        // A failure's own message does not know the file.
        eprintln!("{}", path.display());
        property::check(&fs::read(&path).expect("a file"));
        files += 1;
    }
    assert!(files > 10, "{} holds {files} files", folder.display());
}
