//! Whether a `dlopen` means the same whoever calls it.

use super::still::still;
use crate::inject::image::Image;

/// What a caller's place can change about a search.
#[derive(Debug, Clone, Copy, Default)]
struct Caller {
    /// It has search paths for the names it opens.
    paths: bool,
    /// It, or an object that may have loaded it, has a DT_RPATH, which dependencies of what it loads inherit.
    inherits: bool,
    known: bool,
}

/// Whether `dlopen(name)` by the code at `caller` finds what it would find when called from this library.
pub fn is_plain(name: &[u8], caller: usize) -> bool {
    // `$ORIGIN` and the like are the caller's.
    if name.contains(&b'$') {
        return false;
    }
    let mut seen = Caller::default();
    let looked = still(|world| {
        let mut executable = true;
        world.each(&mut |image: &Image<'_>| {
            if image.contains(caller) {
                seen.known = true;
                seen.paths = image.rpath || image.runpath;
            }
            // The executable's DT_RPATH serves everybody, us too.
            seen.inherits |= image.rpath && !executable;
            executable = false;
            true
        });
    });
    // Code outside every object of our namespace (another namespace, generated code) is left alone.
    looked.is_some() && seen.known && !seen.inherits && (!seen.paths || name.contains(&b'/'))
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
