//! The variables the target gets, each with the reason it has, and those it loses.

use super::hook_file;
use super::settings::{Environment, LAUNCHED, marks};
use greenboost_contract::{Settings, settings};
use greenboost_profiles::Profile;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const PRELOAD: &str = "LD_PRELOAD";

/// The change to the environment.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    /// Set, with where it comes from.
    pub set: Vec<(String, OsString)>,
    /// Taken away: left after by an outer launcher.
    pub removed: Vec<OsString>,
    /// Variables of the profile that are not set, and why.
    pub skipped: Vec<(String, String)>,
}

impl Variables {
    /// The change that `settings`, `profile` and the plan ask for, on top of what the user has.
    pub fn new(
        hook: &Path,
        settings: &Settings,
        profile: &Profile,
        user: &Environment,
        arguments: &[String],
        planned: Vec<(String, String)>,
    ) -> Self {
        let mut own: Vec<(String, String)> =
            settings.to_env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut skipped = Vec::new();
        for (name, variable) in &profile.environment {
            let option = variable.replaced_by(arguments);
            if let Some(value) = user.own.get(OsStr::new(name)) {
                skipped.push((name.clone(), format!("you have set it to {:?}", value.to_string_lossy())));
            } else if let Some(option) = option {
                skipped.push((name.clone(), format!("the command has {option}")));
            } else if variable.unless_planned && planned.iter().any(|(planned, _)| planned == name) {
                skipped.push((name.clone(), format!("the profile's {}, the plan sets it", variable.value)));
            } else {
                own.push((name.clone(), variable.value.clone()));
            }
        }
        own.extend(planned);
        // What the user set by hand stays the user's for a launcher further inside.
        let is_ours = |name: &str| user.get(name).is_none();
        let marks = marks(own.iter().filter(|(name, _)| is_ours(name)).map(|(name, value)| (&**name, &**value)));
        own.push((LAUNCHED.to_owned(), marks));
        // The entry point of a container becomes the command, and stays process 1.
        if std::process::id() == 1 {
            own.push((settings::AS_INIT.to_owned(), "1".to_owned()));
        }

        let mut set: Vec<_> = own.into_iter().map(|(name, value)| (name, OsString::from(value))).collect();
        let existing = user.own.get(OsStr::new(PRELOAD)).map(OsString::as_os_str);
        set.push((PRELOAD.to_owned(), preload(hook, musl_loader().exists(), existing)));

        let is_set = |name: &OsStr| set.iter().any(|(other, _)| OsStr::new(other) == name);
        let known = settings::Settings::VARIABLES.iter().filter(|name| **name != settings::DISABLE).map(OsString::from);
        let present = |name: &OsString| user.own.contains_key(name) || user.outer.contains(name);
        let mut removed: Vec<_> = known.filter(present).chain(user.outer.iter().cloned()).collect();
        removed.retain(|name| !is_set(name));
        removed.sort();
        removed.dedup();
        Self { set, removed, skipped }
    }
}

/// The loader of programs for musl, whose path is a part of every one of them.
fn musl_loader() -> PathBuf {
    format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH).into()
}

/// How many folders a program may lie below the root, so that [`for_glibc_alone`] finds the root from there.
const DEEPEST: usize = 64;

/// The path of the hook in words that only glibc's loader understands. musl's would load the library into every program for musl that
/// a shell in the command starts, and such a program then ends for want of glibc. It knows no `$ORIGIN` here, finds no file of
/// that name and says nothing; glibc's puts the program's folder in, from which the root is as many steps up as one likes.
fn for_glibc_alone(hook: &Path) -> Vec<u8> {
    let steps = "/..".repeat(DEEPEST);
    [b"$ORIGIN", steps.as_bytes(), hook.as_os_str().as_bytes()].concat()
}

/// LD_PRELOAD with the hook in front, and once. Where there are programs for musl (`has_musl`), these are left alone by it.
fn preload(hook: &Path, has_musl: bool, existing: Option<&OsStr>) -> OsString {
    let own = if has_musl && hook.is_absolute() { for_glibc_alone(hook) } else { hook.as_os_str().as_bytes().to_vec() };
    let mut entries = vec![own];
    for entry in existing.unwrap_or_default().as_bytes().split(|byte| matches!(byte, b':' | b' ')) {
        let path = Path::new(OsStr::from_bytes(entry));
        let is_hook = path == hook || path.file_name() == Some(OsStr::new(hook_file::FILE));
        if !entry.is_empty() && !is_hook {
            entries.push(entry.to_vec());
        }
    }
    OsString::from_vec(entries.join(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_comes_first_and_once_and_others_stay() {
        let hook = Path::new("/opt/gb/libgreenboost_hook.so");
        for (existing, expected) in [
            (None, "/opt/gb/libgreenboost_hook.so"),
            (Some(""), "/opt/gb/libgreenboost_hook.so"),
            (Some("/a.so b.so:c.so"), "/opt/gb/libgreenboost_hook.so:/a.so:b.so:c.so"),
            (Some("/opt/gb/libgreenboost_hook.so:/a.so"), "/opt/gb/libgreenboost_hook.so:/a.so"),
            (Some("/a.so:/old/libgreenboost_hook.so"), "/opt/gb/libgreenboost_hook.so:/a.so"),
        ] {
            assert_eq!(preload(hook, false, existing.map(OsStr::new)), expected, "{existing:?}");
        }
    }

    #[test]
    fn beside_musl_the_hooks_path_is_one_that_only_glibc_finds() {
        let hook = Path::new("/opt/gb/libgreenboost_hook.so");
        let first = preload(hook, true, None).into_string().expect("text");
        assert!(first.starts_with("$ORIGIN/../..") && first.ends_with("/../opt/gb/libgreenboost_hook.so"), "{first}");
        // Once more, by a launcher further inside.
        assert_eq!(preload(hook, true, Some(OsStr::new(&format!("{first}:/a.so")))), &*format!("{first}:/a.so"));
        assert_eq!(preload(Path::new("gb.so"), true, None), "gb.so");
    }
}
