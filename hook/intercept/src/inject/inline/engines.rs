//! What an inline engine does.

use greenboost_contract::engine;

/// A body to patch.
// Without an engine nobody looks at all of it.
#[cfg_attr(not(any(feature = "detour", feature = "frida")), allow(dead_code))]
pub struct Patch<'a> {
    /// What it is called in the log.
    pub name: &'a str,
    /// The function.
    pub target: usize,
    /// Where calls of it shall go.
    pub detour: usize,
    /// Receives the way to the function's old behaviour, before any call goes to the detour; 0 takes it back.
    pub publish: &'a dyn Fn(usize),
}

/// Patches bodies of functions while the program may be running.
pub trait InlineEngine: Sync {
    /// Its name between [`engine::MARK`] and [`engine::END`], so that it is found in the library as well.
    fn tag(&self) -> &'static str;

    /// For log, status and doctor.
    fn name(&self) -> &'static str {
        let tag = self.tag();
        tag.get(engine::MARK.len()..tag.len() - engine::END.len_utf8()).unwrap_or_default()
    }

    /// Whether it keeps other threads out of what it writes.
    fn stops_threads(&self) -> bool;

    /// Patches what can be patched; answers for each patch what went wrong with it. `alone`: no other thread runs.
    ///
    /// # Safety
    /// Targets are functions, and detours functions of the same ABI.
    unsafe fn replace(&self, patches: &[Patch<'_>], alone: bool) -> Vec<Result<(), String>>;
}

/// A library that is built without one.
#[cfg(not(any(feature = "detour", feature = "frida")))]
pub struct None;

#[cfg(not(any(feature = "detour", feature = "frida")))]
impl InlineEngine for None {
    fn tag(&self) -> &'static str {
        "greenboost inline engine: none;"
    }

    fn stops_threads(&self) -> bool {
        false
    }

    unsafe fn replace(&self, patches: &[Patch<'_>], _alone: bool) -> Vec<Result<(), String>> {
        patches.iter().map(|_| Err("this library is built without an inline engine".to_owned())).collect()
    }
}
