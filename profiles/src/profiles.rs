//! The set of all profiles: overriding, inheritance, matching.

use crate::error::ProfileError;
use crate::file::{Draft, read};
use crate::profile::{Matcher, Profile, Source};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Result<T> = std::result::Result<T, ProfileError>;

/// The files beside this crate.
const BUILT_IN: &[(&str, &str)] = &[
    ("llama-server.toml", include_str!("../llama-server.toml")),
    ("llama-tools.toml", include_str!("../llama-tools.toml")),
    ("ollama.toml", include_str!("../ollama.toml")),
    ("rpc-server.toml", include_str!("../rpc-server.toml")),
    ("generic.toml", include_str!("../generic.toml")),
];

/// Folder of the system's profiles.
const SYSTEM_FOLDER: &str = "/etc/greenboost/profiles";

/// Every profile there is, the first to be tried first.
#[derive(Debug, Clone)]
pub struct Profiles(Vec<Profile>);

/// A profile that was found for a command.
#[derive(Debug, Clone)]
pub struct Match<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// What matched, for `--dry-run`.
    pub reason: String,
}

impl Profiles {
    /// The system's folder and the user's (`$XDG_CONFIG_HOME` or `~/.config`), the stronger one last.
    pub fn folders(environment: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
        let set = |name| environment(name).filter(|value| value.starts_with('/'));
        let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
        let user = config.map(|config| config.join("greenboost/profiles"));
        [PathBuf::from(SYSTEM_FOLDER)].into_iter().chain(user).collect()
    }

    /// The built-in profiles and those in `folders`; a later folder beats an earlier one, and any folder beats what is
    /// built in. A folder that does not exist is an empty one.
    ///
    /// # Errors
    /// [`ProfileError`] for the first file that cannot be read or used.
    pub fn load(folders: &[PathBuf]) -> Result<Self> {
        let mut layers = vec![built_in()?];
        for folder in folders {
            layers.push(read_folder(folder)?);
        }
        Self::resolve(&layers)
    }

    /// The built-in profiles and one more, as if `text` were a file of that name in a folder.
    ///
    /// # Errors
    /// [`ProfileError`] if it cannot be used.
    pub fn with(file: &Path, text: &str) -> Result<Self> {
        Self::resolve(&[built_in()?, vec![read(Source::File(file.to_owned()), text)?]])
    }

    fn resolve(layers: &[Vec<Draft>]) -> Result<Self> {
        for layer in layers {
            reject_duplicates(layer)?;
        }
        let mut profiles: Vec<(usize, Profile)> = Vec::new();
        for (at, draft) in layers.iter().enumerate().rev().flat_map(|(at, layer)| layer.iter().map(move |d| (at, d))) {
            if profiles.iter().all(|(_, known)| known.name != draft.name()) {
                profiles.push((at, complete(layers, at, draft, &mut Vec::new())?));
            }
        }
        profiles
            .sort_by(|(a_layer, a), (b_layer, b)| (b.priority, b_layer, &a.name).cmp(&(a.priority, a_layer, &b.name)));
        Ok(Self(profiles.into_iter().map(|(_, profile)| profile).collect()))
    }

    /// All profiles, the first to be tried first.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.0.iter()
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// [`ProfileError::NoSuch`], which lists the names there are.
    pub fn find_by_name(&self, name: &str) -> Result<&Profile> {
        self.0.iter().find(|profile| profile.name == name).ok_or_else(|| ProfileError::NoSuch {
            name: name.to_owned(),
            known: self.0.iter().map(|profile| profile.name.clone()).collect(),
        })
    }

    /// The first profile that is for this command. A program may have several names (a link and what it leads to).
    pub fn match_command(&self, names: &[&str], arguments: &[String]) -> Option<Match<'_>> {
        let joined = arguments.join(" ");
        self.0.iter().find_map(|profile| {
            let reason = profile.matchers.iter().find_map(|matcher| reason(matcher, names, &joined))?;
            Some(Match { profile, reason })
        })
    }
}

/// Read once in a process: they do not change.
fn built_in() -> Result<Vec<Draft>> {
    static READ: OnceLock<Vec<Draft>> = OnceLock::new();
    if let Some(known) = READ.get() {
        return Ok(known.clone());
    }
    let drafts: Result<Vec<_>> = BUILT_IN.iter().map(|(file, text)| read(Source::BuiltIn(file), text)).collect();
    let drafts = drafts?;
    Ok(READ.get_or_init(|| drafts).clone())
}

/// Why `matcher` is for a command, if it is.
fn reason(matcher: &Matcher, names: &[&str], arguments: &str) -> Option<String> {
    let mut reasons = Vec::new();
    if let Some(executable) = &matcher.executable {
        let name = names.iter().find(|name| executable.is_match(name.as_bytes()))?;
        reasons.push(format!("executable {name:?} matches {executable}"));
    }
    if let Some(pattern) = &matcher.arguments {
        if !pattern.is_match(arguments.as_bytes()) {
            return None;
        }
        reasons.push(format!("its arguments match {pattern}"));
    }
    Some(reasons.join(" and "))
}

fn read_folder(folder: &Path) -> Result<Vec<Draft>> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ProfileError::Unreadable { path, source }
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(unreadable(folder))?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(unreadable(folder))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            read(Source::File(path), &text)
        })
        .collect()
}

fn refuse(draft: &Draft, line: usize, problem: String) -> ProfileError {
    ProfileError::Refused { file: draft.source.file(), line, problem }
}

fn reject_duplicates(layer: &[Draft]) -> Result<()> {
    for (at, draft) in layer.iter().enumerate() {
        if let Some(first) = layer[..at].iter().find(|first| first.name() == draft.name()) {
            let problem = format!("name = {:?}: already the name of {}; rename one", draft.name(), first.source);
            return Err(refuse(draft, draft.name_line, problem));
        }
    }
    Ok(())
}

/// Completes a draft with what it inherits. `above` are the drafts on the way here, to find circles.
fn complete<'a>(
    layers: &'a [Vec<Draft>],
    at: usize,
    draft: &'a Draft,
    above: &mut Vec<(usize, &'a str)>,
) -> Result<Profile> {
    let Some(inherits) = draft.inherits() else { return Ok(draft.complete(None)) };
    let here = (at, draft.name());
    if above.contains(&here) {
        let problem = format!("inherits = {:?}: leads back to {:?} itself", inherits, draft.name());
        return Err(refuse(draft, draft.inherits_line, problem));
    }
    above.push(here);
    // A file that replaces a profile and inherits from that name means the one it replaces.
    let below = if inherits == draft.name() { at } else { layers.len() };
    let parent = layers[..below]
        .iter()
        .enumerate()
        .rev()
        .flat_map(|(at, layer)| layer.iter().map(move |draft| (at, draft)))
        .find(|(_, parent)| parent.name() == inherits);
    let Some((parent_at, parent)) = parent else {
        let mut known: Vec<_> = layers[..below].iter().flatten().map(|draft| draft.name()).collect();
        known.sort_unstable();
        known.dedup();
        let problem = format!("inherits = {:?}: no such profile; known are {}", inherits, known.join(", "));
        return Err(refuse(draft, draft.inherits_line, problem));
    };
    let parent = complete(layers, parent_at, parent, above)?;
    Ok(draft.complete(Some(&parent)))
}
