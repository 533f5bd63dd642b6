//! Where figures are kept: one JSON file for the machine, with an entry for each GPU, driver and CPU it has had.

use super::conditions::Conditions;
use super::figures::{Cpu, Gpu, Rates};
use super::together::Together;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Raised when figures are measured in another way.
const VERSION: u32 = 1;

/// What figures are good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    gpu: String,
    driver: String,
    cpu: String,
}

impl Key {
    /// This GPU with its driver, or none, and this CPU.
    pub fn new(gpu: Option<&Gpu>, cpu: &str) -> Self {
        let (uuid, driver) = gpu.map(|gpu| (gpu.uuid.clone(), gpu.driver.clone())).unwrap_or_default();
        Self { gpu: uuid, driver, cpu: cpu.to_owned() }
    }
}

/// The figures of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The GPU's, when all of them were measured.
    pub rates: Option<Rates>,
    /// The CPU's.
    pub cpu: Option<Cpu>,
    /// CPU and link at once; figures kept by an older version have none, and are completed.
    pub together: Option<Together>,
    /// What the measurement is worth.
    #[serde(default)]
    pub conditions: Option<Conditions>,
    /// Each disk's, by device number.
    disks: BTreeMap<String, f64>,
}

impl Entry {
    /// One more figure's spread.
    pub fn note_spread(&mut self, spread: f64) {
        if let Some(conditions) = &mut self.conditions {
            conditions.add_spread(spread);
        }
    }

    /// The figure of the disk a model is on, measured if it is not known.
    pub fn disk(&mut self, model: &Path, measure: impl FnOnce(&Path) -> Result<f64, String>) -> Result<f64, String> {
        if let Some(rate) = self.known_disk(model) {
            return Ok(rate);
        }
        let device = device(model).map_err(|error| error.to_string())?;
        let rate = measure(model)?;
        self.disks.insert(device, rate);
        Ok(rate)
    }

    /// The figure of the disk a model is on, if it is known.
    pub fn known_disk(&self, model: &Path) -> Option<f64> {
        self.disks.get(&device(model).ok()?).copied()
    }
}

fn device(model: &Path) -> io::Result<String> {
    Ok(fs::metadata(model)?.dev().to_string())
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    key: Key,
    figures: Entry,
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Store {
    version: u32,
    machines: Vec<Row>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl Store {
    /// Reads it; a missing, old or broken one is empty.
    pub fn load() -> Self {
        match greenboost_contract::cache::folder() {
            Some(folder) => Self::at(&folder.join("machine.json")),
            None => Self::default(),
        }
    }

    fn at(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let read: Option<Self> = serde_json::from_str(&text).ok();
        let known = read.filter(|store| store.version == VERSION).unwrap_or_default();
        Self { path: Some(path.to_owned()), ..known }
    }

    /// What is known for a key.
    pub fn entry(&self, key: &Key) -> Entry {
        self.machines.iter().find(|row| row.key == *key).map(|row| row.figures.clone()).unwrap_or_default()
    }

    /// Keeps the figures of a key, when they are new.
    pub fn save(&mut self, key: Key, figures: Entry) -> io::Result<()> {
        let Some(path) = &self.path else { return Err(io::Error::other("neither XDG_CACHE_HOME nor HOME is set")) };
        if self.entry(&key) == figures {
            return Ok(());
        }
        self.machines.retain(|row| row.key != key);
        self.machines.push(Row { key, figures });
        self.version = VERSION;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Nobody else's to write: the hook keeps answers in it as well, and believes none in a folder that others can.
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Whole or not at all: another plan may read it meanwhile.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, serde_json::to_string_pretty(self)?)?;
        fs::rename(part, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_by_gpu_driver_and_cpu() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a/b/machine.json");
        let gpu = |driver: &str| Gpu { uuid: "GPU-1".to_owned(), driver: driver.to_owned(), ..Gpu::default() };
        let (one, two) = (Key::new(Some(&gpu("580")), "EPYC"), Key::new(Some(&gpu("590")), "EPYC"));
        let mut entry = Entry { rates: Some(Rates { vram: Some(4500.0), ..Rates::default() }), ..Entry::default() };
        assert_eq!(entry.disk(folder.path(), |_| Ok(7.0)), Ok(7.0));
        Store::at(&path).save(one.clone(), entry.clone()).expect("saved");
        let mut again = Store::at(&path);
        assert_eq!((again.entry(&one), again.entry(&two)), (entry.clone(), Entry::default()));
        assert_eq!(again.entry(&one).disk(folder.path(), |_| Err("measured again".to_owned())), Ok(7.0));
        again.save(two.clone(), Entry::default()).expect("saved");
        assert_eq!(Store::at(&path).entry(&one), entry, "the other machine's stay");

        // Kept before this was measured.
        let mut old: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).expect("kept")).expect("JSON");
        let figures = old["machines"][0]["figures"].as_object_mut().expect("figures");
        assert!(figures.remove("together").is_some());
        fs::write(&path, old.to_string()).expect("written");
        assert_eq!(Store::at(&path).entry(&one), entry);

        for broken in ["", "{", "[]", r#"{"version":99,"machines":[]}"#] {
            fs::write(&path, broken).expect("written");
            assert_eq!(Store::at(&path).entry(&one), Entry::default(), "{broken:?}");
        }
    }
}
