//! Whether a `dlopen` means the same whoever calls it.

use super::still::still;
use crate::libraries::has_rpath;

/// Whether `dlopen(name)` by the code at `caller` finds what it would find when called from this library.
pub fn is_plain(name: &[u8], caller: usize) -> bool {
    // `$ORIGIN` and the like are the caller's.
    if name.contains(&b'$') {
        return false;
    }
    // Code outside every object of our namespace (another namespace, generated code) is left alone, too.
    let mut plain = false;
    still(|world| {
        world.at(caller, &mut |image| {
            // Search paths are for names; a DT_RPATH of an object that may have loaded the caller is inherited.
            let paths = image.rpath || image.runpath;
            plain = (!paths || name.contains(&b'/')) && !has_rpath(world);
        });
    });
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_depends_on_its_caller_is_left_to_the_caller() {
        let here = is_plain as *const () as usize;
        assert!(!is_plain(b"$ORIGIN/libplugin.so", here));
        assert!(is_plain(b"/lib/libplugin.so", here));
        assert!(!is_plain(b"libplugin.so", 8), "code of no object");
    }
}
