//! What holds for any bytes that are read as a loaded object: whatever is found lies inside. Run by the fuzzer on new
//! inputs and by `cargo test` on those it has kept.

use greenboost_intercept::inject::entries;
use greenboost_intercept::inject::image::Image;

/// # Panics
/// When it does not hold.
pub fn check(data: &[u8]) {
    // Objects are loaded at whole pages; words are what matters of that here.
    let words: Vec<u64> = data
        .chunks(8)
        .map(|part| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            u64::from_ne_bytes(word)
        })
        .collect();
    let Some(image) = Image::of_copy(&words) else { return };
    let copy = words.as_ptr_range();
    let copy = copy.start as usize..copy.end as usize;
    let inside = |bytes: &[u8]| bytes.is_empty() || copy.contains(&(bytes.as_ptr() as usize));
    assert!(image.soname().is_none_or(inside));
    let _ = (image.extent(), image.relro());
    for entry in entries::of(&image).take(64) {
        assert!(copy.contains(&entry.address) && copy.contains(&(entry.address + 7)), "{entry:?}");
        assert!(entry.address.is_multiple_of(8) && inside(entry.name), "{entry:?}");
        let _ = (image.executes(entry.address), image.find(entry.name));
    }
    let mut defined = 0;
    image.each_defined(&mut |name, address| {
        defined += 1;
        assert!(inside(name), "{address:#x}");
    });
    assert!(defined <= data.len() / 24, "more functions than there is room for");
    for name in [&b"cuMemAlloc_v2"[..], b"dlsym", b""] {
        let _ = image.find(name);
    }
}
