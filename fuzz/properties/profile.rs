//! What holds for any text that is read as a profile. Run by the fuzzer on new inputs and by `cargo test` on those it has
//! kept.

use greenboost_contract::Settings;
use greenboost_profiles::{ProfileError, Profiles, Source};
use std::collections::HashMap;
use std::path::Path;

/// # Panics
/// When it does not hold.
pub fn check(data: &[u8]) {
    // A file that is no text is refused before anything looks at it.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("mine.toml");
    match Profiles::with(file, text) {
        Ok(profiles) => {
            let mine = profiles.iter().find(|profile| profile.source == Source::File(file.to_owned()));
            let mine = mine.expect("what was accepted is there");
            let (arguments, names) = (["-m".to_owned(), "model.gguf".to_owned()], ["llama-server", "python3"]);
            let _ = profiles.match_command(&names, &arguments);
            // The target reads the settings as the launcher meant them.
            let settings = mine.settings.clone();
            let variables: HashMap<_, _> = settings.to_env().into_iter().collect();
            assert!(variables.values().all(|value| !value.contains('\0')), "{text}");
            let read = Settings::from_env(|name| variables.get(name).cloned());
            assert_eq!(read.as_ref(), Ok(&settings), "{text}");
        }
        Err(ProfileError::Refused { file: named, line, problem }) => {
            assert_eq!(named, "mine.toml", "{problem}");
            let lines = text.lines().count();
            assert!((1..=lines.max(1) + 1).contains(&line), "line {line} of {lines}: {problem}");
            assert!(!problem.is_empty());
        }
        Err(other) => panic!("{other}"),
    }
}
