//! Where Ollama keeps a model: a manifest by name, and in it the digest of the file with the weights.

use greenboost_contract::escaped;
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MODEL: &str = "application/vnd.ollama.image.model";
/// No manifest is larger.
const LONGEST_MANIFEST: u64 = 4 << 20;

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// The folders Ollama may keep models in: the one the user names, else the user's and the service's.
pub fn folders(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    // Ollama takes spaces and quotes away from what its variables hold.
    let named = variable("OLLAMA_MODELS").map(|folder| folder.trim().trim_matches(['"', '\'']).to_owned());
    if let Some(folder) = named.filter(|folder| !folder.is_empty()) {
        return vec![folder.into()];
    }
    let own = variable("HOME").map(|home| Path::new(&home).join(".ollama/models"));
    own.into_iter().chain([PathBuf::from("/usr/share/ollama/.ollama/models")]).collect()
}

/// The model file of `NAME[:TAG]`.
///
/// # Errors
/// What was looked for and where, and what to do.
pub fn find(name: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    let manifest = manifest_path(name)?;
    let mut tried = Vec::new();
    for folder in folders {
        let path = existing(&folder.join("manifests"), &manifest);
        match read(&path) {
            Ok(text) => return blob(&text, &path, folder),
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    Err(format!(
        "Ollama has no model {name:?} here.\n{}\nPull it with `ollama pull {name}`, or set OLLAMA_MODELS to the folder Ollama keeps its models in.",
        tried.join("\n")
    ))
}

/// The models in these folders, as `ollama list` names them.
pub fn names(folders: &[PathBuf]) -> Vec<String> {
    let below = |folder: &PathBuf| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut level: Vec<_> = folders.iter().map(|folder| folder.join("manifests")).collect();
    for _ in ["host", "namespace", "model", "tag"] {
        level = level.iter().flat_map(below).collect();
    }
    let mut names: Vec<_> = level.iter().filter(|path| path.is_file()).filter_map(|path| name(path)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The name of a manifest's model, without what goes without saying.
fn name(manifest: &Path) -> Option<String> {
    let mut parts = manifest.iter().rev().map(|part| part.to_str());
    let (tag, model, space, host) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
    let tag = if tag == "latest" { String::new() } else { format!(":{tag}") };
    let name = match (host, space) {
        ("registry.ollama.ai", "library") => model.to_owned(),
        ("registry.ollama.ai", space) => format!("{space}/{model}"),
        (host, space) => format!("{host}/{space}/{model}"),
    };
    Some(escaped(&(name + &tag)).into_owned())
}

/// The path below `folder` as it is written there: Ollama folds the case of names.
fn existing(folder: &Path, name: &Path) -> PathBuf {
    name.iter().fold(folder.to_owned(), |folder, part| {
        let exact = folder.join(part);
        if exact.exists() {
            return exact;
        }
        let same = |other: &std::ffi::OsStr| {
            other.to_str().zip(part.to_str()).is_some_and(|(one, other)| one.to_lowercase() == other.to_lowercase())
        };
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        // The first by name, so that the answer is the same each time.
        entries.filter(|other| same(other)).min().map_or(exact, |other| folder.join(other))
    })
}

/// Name and tag as a path: what is not said is Ollama's own registry, its library, and `latest`.
fn manifest_path(name: &str) -> Result<PathBuf, String> {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    match parts.len() {
        1 => parts.splice(0..0, ["registry.ollama.ai", "library"]).for_each(drop),
        2 => parts.insert(0, "registry.ollama.ai"),
        _ => {}
    }
    parts.push(tag);
    // Each part becomes a file name.
    let fine = |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
    if parts.len() == 4 && parts.iter().all(fine) {
        return Ok(parts.iter().collect());
    }
    Err(format!(
        "{name:?} is no name of an Ollama model: write ollama:NAME or ollama:NAME:TAG, as `ollama list` shows it."
    ))
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LONGEST_MANIFEST {
        return Err(io::Error::other("too long to be a manifest"));
    }
    fs::read_to_string(path)
}

fn blob(manifest: &str, path: &Path, folder: &Path) -> Result<PathBuf, String> {
    let wrong = |what: String| {
        format!(
            "{}: {what}.\nThe model's download is incomplete or damaged: pull it again with `ollama pull`.",
            path.display()
        )
    };
    let manifest: Manifest =
        serde_json::from_str(manifest).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let layer = manifest.layers.iter().find(|layer| layer.media_type == MODEL);
    let digest =
        &layer.ok_or_else(|| wrong("it lists no model file (a model of the cloud has none)".to_owned()))?.digest;
    let hex = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-"));
    let Some(hex) = hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())) else {
        return Err(wrong(format!("its digest {digest:?} is none")));
    };
    let file = folder.join("blobs").join(format!("sha256-{hex}"));
    if file.is_file() { Ok(file) } else { Err(wrong(format!("{} is missing", file.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_ollama_does() {
        for (name, path) in [
            ("llama3", "registry.ollama.ai/library/llama3/latest"),
            ("llama3:70b", "registry.ollama.ai/library/llama3/70b"),
            ("me/mine:q4", "registry.ollama.ai/me/mine/q4"),
            ("hf.co/some/Repo-GGUF:Q4_K_M", "hf.co/some/Repo-GGUF/Q4_K_M"),
            ("host:5000/some/thing", "host:5000/some/thing/latest"),
            ("https://registry.ollama.ai/library/llama3", "registry.ollama.ai/library/llama3/latest"),
            ("http://localhost:5000/me/mine:v1", "localhost:5000/me/mine/v1"),
        ] {
            assert_eq!(manifest_path(name), Ok(PathBuf::from(path)), "{name}");
        }
        for name in ["", "../x", "a/../b", "a:..", "a/b/c/d", "/etc/passwd", "a:", ":b"] {
            assert!(manifest_path(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_manifest_leads_to_its_blob_and_every_gap_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let store = folder.path().to_owned();
        let manifest = store.join("manifests/registry.ollama.ai/library/llama3/70b");
        let find = || find("llama3:70b", std::slice::from_ref(&store));
        let missing = find().expect_err("no manifest");
        assert!(
            missing.contains("ollama pull llama3:70b") && missing.contains("library/llama3/70b: No such"),
            "{missing}"
        );

        fs::create_dir_all(manifest.parent().expect("parent")).expect("folder");
        fs::create_dir_all(store.join("blobs")).expect("folder");
        let digest = "a".repeat(64);
        let text = |digest: &str| {
            format!(
                r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.ollama.image.template","digest":"x","size":1}},
                {{"mediaType":"{MODEL}","digest":"{digest}","size":5}}]}}"#
            )
        };
        for (content, words) in [
            ("{".to_owned(), "cannot be read"),
            (r#"{"layers":[]}"#.to_owned(), "lists no model file"),
            (text("sha256:../../etc/passwd"), "is none"),
            (text(&format!("sha256:{digest}")), "is missing"),
        ] {
            fs::write(&manifest, content).expect("written");
            let error = find().expect_err(words);
            assert!(error.contains(words), "{words:?} is not in: {error}");
        }
        let blob = store.join(format!("blobs/sha256-{digest}"));
        fs::write(&blob, "GGUF").expect("written");
        assert_eq!(find(), Ok(blob.clone()));
        // In any case of letters, and with a digest in its other spelling.
        let other = super::find("Llama3:70B", std::slice::from_ref(&store));
        assert_eq!(other, Ok(blob.clone()));
        fs::write(&manifest, text(&format!("sha256-{digest}"))).expect("written");
        assert_eq!(find(), Ok(blob));
    }

    #[test]
    fn the_models_of_a_store_are_listed_as_ollama_names_them() {
        let folder = tempfile::tempdir().expect("folder");
        for path in ["registry.ollama.ai/library/llama3/latest", "registry.ollama.ai/me/mine/v1", "hf.co/a/b/Q4_K_M"] {
            let path = folder.path().join("manifests").join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, "{}").expect("written");
        }
        let found = names(&[folder.path().to_owned(), folder.path().join("nowhere")]);
        assert_eq!(found, ["hf.co/a/b:Q4_K_M", "llama3", "me/mine:v1"]);
    }

    #[test]
    fn the_named_folder_is_the_only_one() {
        let variable = |name: &str| (name == "OLLAMA_MODELS").then(|| "/x".to_owned());
        assert_eq!(folders(variable), [PathBuf::from("/x")]);
        for quoted in ["\"/x\"", " '/x' ", " /x "] {
            assert_eq!(folders(|name| (name == "OLLAMA_MODELS").then(|| quoted.to_owned())), [PathBuf::from("/x")]);
        }
        let home = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        assert_eq!(folders(home)[0], PathBuf::from("/home/me/.ollama/models"));
        assert_eq!(folders(home).len(), 2);
    }
}
