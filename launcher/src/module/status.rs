//! What there is of the module on a machine.

use super::manifest::Manifest;
use super::plan::MODPROBE;
use super::{SecureBoot, System, secure_boot};
use crate::output;
use serde::Serialize;

/// The module, as JSON shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The kernel that runs.
    pub kernel: String,
    /// It is loaded.
    pub loaded: bool,
    /// The version that is loaded.
    pub loaded_version: String,
    /// `greenboost module install` has installed this version.
    pub installed_version: Option<String>,
    /// What DKMS says, a line for each kernel.
    pub dkms: Vec<String>,
    /// Files of ours that were changed since.
    pub changed_files: Vec<String>,
    /// Options that are set when it is loaded.
    pub options: Vec<String>,
    /// Whether signatures are asked for.
    pub secure_boot: SecureBoot,
    /// What to do next, if anything.
    pub advice: String,
}

impl Status {
    /// Reads it; nothing that cannot be read is an error.
    pub fn read(system: &System) -> Self {
        let manifest = Manifest::load(system).ok().flatten();
        let said = system.run(&["dkms", "status", "-m", "greenboost"]).unwrap_or_default();
        let dkms: Vec<_> = said.lines().filter(|line| line.starts_with("greenboost")).map(str::to_owned).collect();
        let kernel = system.kernel();
        let loaded = system.is_loaded();
        let secure_boot = SecureBoot::of(system);
        let advice = if loaded {
            String::new()
        } else if dkms.iter().any(|line| line.contains(&kernel) && line.contains("installed")) {
            let load = "Load it: sudo modprobe greenboost";
            match secure_boot {
                SecureBoot::On => format!("{load}\nIf that is refused: {}", secure_boot::enrolment(system)),
                _ => load.to_owned(),
            }
        } else if dkms.is_empty() {
            "It is optional. To install it: sudo greenboost module install".to_owned()
        } else {
            format!("It is not built for the kernel that runs: sudo dkms autoinstall -k {kernel}")
        };
        let changed = manifest.iter().flat_map(|manifest| &manifest.files);
        let changed = changed.filter(|file| file.is_unchanged(system) == Some(false));
        Self {
            loaded,
            loaded_version: system.text("/sys/module/greenboost/version").trim().to_owned(),
            installed_version: manifest.as_ref().map(|manifest| manifest.version.clone()),
            dkms,
            changed_files: changed.map(|file| file.path.clone()).collect(),
            options: system
                .text(MODPROBE)
                .lines()
                .filter(|line| line.starts_with("options"))
                .map(str::to_owned)
                .collect(),
            secure_boot,
            advice,
            kernel,
        }
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            output::json(self, false);
        } else {
            output::print(&self.table());
        }
    }

    /// For people.
    fn table(&self) -> String {
        let installed = self.installed_version.as_deref();
        let mut rows = vec![
            ("loaded", if self.loaded { format!("yes, version {}", self.loaded_version) } else { "no".to_owned() }),
            ("installed", installed.map_or("not by this command".to_owned(), |version| format!("version {version}"))),
            ("kernel", self.kernel.clone()),
        ];
        rows.extend(self.dkms.iter().map(|line| ("DKMS", line.clone())));
        rows.extend(self.options.iter().map(|line| ("options", line.clone())));
        rows.extend(self.changed_files.iter().map(|path| ("changed", format!("{path} (`remove` keeps it)"))));
        rows.push(("Secure Boot", format!("{:?}", self.secure_boot).to_lowercase()));
        let rows: String = rows.iter().map(|(name, words)| format!("{name:<12} {words}\n")).collect();
        if self.advice.is_empty() { rows } else { format!("{rows}{}\n", self.advice) }
    }
}
