//! What `install` is going to do, found out without changing anything.

use super::manifest::Manifest;
use super::source::Source;
use super::{Problem, SecureBoot, System, needs};
use clap::Args;
use greenboost_contract::{format_size, parse_size};
use std::path::PathBuf;

/// Options of `greenboost module install`.
#[derive(Debug, Clone, Default, Args)]
pub struct InstallOptions {
    /// The module's source: the folder kmod of GreenBoost's source.
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Keep this much memory ready whenever the module is loaded.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub reserve: Option<u64>,
    /// Hand out at most this much memory in all.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub limit: Option<u64>,
    /// Load the module at each start of the system.
    #[arg(long)]
    pub at_boot: bool,
    /// Build for another kernel than the one that runs, and load nothing.
    #[arg(long, value_name = "RELEASE")]
    pub kernel: Option<String>,
    /// Print the steps and do none.
    #[arg(long)]
    pub dry_run: bool,
}

/// One thing that is done.
#[derive(Debug, Clone)]
pub enum Step {
    /// A folder of files, none of which is there.
    Copy {
        /// In words.
        what: String,
        /// Paths on the machine, and contents.
        files: Vec<(String, Vec<u8>)>,
    },
    /// A command of DKMS.
    Dkms(Vec<String>),
    /// A command whose failure does no harm.
    Try(&'static [&'static str]),
    /// Loading the module.
    Load,
}

/// All of it, in order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The module's version.
    pub version: String,
    /// The kernel it is built for.
    pub kernel: String,
    /// What is done.
    pub steps: Vec<Step>,
    /// What the user should know: what is kept as it is, and why.
    pub notes: Vec<String>,
    /// Whether a module that cannot be loaded may only want its key to be known.
    pub secure_boot: SecureBoot,
}

const UDEV_RULE: &str = "/etc/udev/rules.d/60-greenboost.rules";
const PACKAGED_UDEV_RULES: &[&str] =
    &["/usr/lib/udev/rules.d/60-greenboost.rules", "/lib/udev/rules.d/60-greenboost.rules"];
/// The options of the module, which a person may edit.
pub const MODPROBE: &str = "/etc/modprobe.d/greenboost.conf";
const AT_BOOT: &str = "/etc/modules-load.d/greenboost.conf";

impl Plan {
    /// Reads the machine.
    ///
    /// # Errors
    /// Whatever would keep a step from being done, as far as that can be known before.
    pub fn make(system: &System, options: &InstallOptions) -> Result<Self, Problem> {
        if !system.is_root && !options.dry_run {
            return Err(Problem::NotRoot);
        }
        let source = Source::find(system, options.source.as_deref())?;
        let running = system.kernel();
        let kernel = options.kernel.clone().unwrap_or_else(|| running.clone());
        let missing = needs::missing(system, &kernel);
        if !missing.is_empty() {
            return Err(Problem::Missing { missing });
        }
        let folder = format!("/usr/src/greenboost-{}", source.version);
        nothing_in_the_way(system, &folder)?;
        let mut notes = Vec::new();
        let mut steps = vec![Step::Copy {
            what: format!("copy {} files from {} to {folder}", source.files.len(), source.folder.display()),
            files: source.files.iter().map(|(name, content)| (format!("{folder}/{name}"), content.clone())).collect(),
        }];
        for command in ["add", "build", "install"] {
            let mut words = vec!["dkms", command, "-m", "greenboost", "-v", &source.version];
            if command != "add" {
                words.extend(["-k", &kernel]);
            }
            steps.push(Step::Dkms(words.into_iter().map(str::to_owned).collect()));
        }
        let config = modprobe(&source.modprobe, options)?;
        if let Some(step) = unless_there(system, MODPROBE, config.text.as_bytes(), &mut notes) {
            steps.push(step);
        } else if let Some(wanted) = config.options {
            // Silently doing without what was asked for would be worse than doing nothing.
            if !system.text(MODPROBE).lines().any(|line| line.trim() == wanted) {
                return Err(Problem::InTheWay {
                    found: format!("{MODPROBE} is there, and is not overwritten"),
                    action: format!("Write this line into it, and leave --reserve and --limit away:\n    {wanted}"),
                });
            }
        }
        if !PACKAGED_UDEV_RULES.iter().any(|path| system.at(path).exists())
            && let Some(step) = unless_there(system, UDEV_RULE, &source.udev_rule, &mut notes)
        {
            steps.push(step);
            steps.push(Step::Try(&["udevadm", "control", "--reload"]));
        }
        if options.at_boot {
            steps.extend(unless_there(system, AT_BOOT, b"greenboost\n", &mut notes));
        } else {
            notes.push(
                "it is not loaded at the next start by itself; --at-boot or `modprobe greenboost` does that".to_owned(),
            );
        }
        if kernel != running {
            notes.push(format!("built for {kernel}, and not loaded: {running} runs"));
        } else if system.is_loaded() {
            notes.push(
                "the module that is loaded already stays; `modprobe -r greenboost` and `modprobe greenboost` change it"
                    .to_owned(),
            );
        } else {
            steps.push(Step::Load);
        }
        Ok(Self { version: source.version, kernel, steps, notes, secure_boot: SecureBoot::of(system) })
    }

    /// The plan for people to read.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        if self.secure_boot == SecureBoot::On {
            lines.push("(Secure Boot is on: loading may want DKMS's key to be made known first)".to_owned());
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copy { what, .. } => to.write_str(what),
            Self::Dkms(command) => to.write_str(&command.join(" ")),
            Self::Try(command) => to.write_str(&command.join(" ")),
            Self::Load => to.write_str("modprobe greenboost"),
        }
    }
}

fn nothing_in_the_way(system: &System, folder: &str) -> Result<(), Problem> {
    let in_the_way = |found: String, action: &str| Err(Problem::InTheWay { found, action: action.to_owned() });
    if let Some(manifest) = Manifest::load(system)? {
        let state =
            if manifest.complete { "is installed already" } else { "was begun to be installed and not finished" };
        return in_the_way(
            format!("version {} {state}", manifest.version),
            "`greenboost module status` shows it. To install again: `greenboost module remove` first.",
        );
    }
    let known = system.run(&["dkms", "status", "-m", "greenboost"])?;
    let known = known.lines().find(|line| line.starts_with("greenboost"));
    if known.is_none() && !system.at(folder).exists() {
        return Ok(());
    }
    let found = known.map_or_else(|| format!("{folder} is there"), |line| format!("DKMS has the module: {line}"));
    if system.at("/var/lib/dpkg/info/greenboost-dkms.list").exists() {
        return in_the_way(
            format!("{found}; the package greenboost-dkms brings it"),
            "Load it with `modprobe greenboost`; or, for this version, `apt remove greenboost-dkms` first.",
        );
    }
    in_the_way(
        found,
        "It was not made by this command. Remove it as it was installed; docs/kernel-module.md says how by hand.",
    )
}

/// A file is written where there is none. One that is there is a person's or a package's.
fn unless_there(system: &System, path: &str, content: &[u8], notes: &mut Vec<String>) -> Option<Step> {
    match std::fs::read(system.at(path)) {
        Ok(there) if there == content => None,
        Ok(_) => {
            notes.push(format!("{path} is there, with other content; it stays as it is"));
            None
        }
        Err(_) => Some(Step::Copy { what: format!("write {path}"), files: vec![(path.to_owned(), content.to_vec())] }),
    }
}

struct Config {
    text: String,
    /// The line that was asked for.
    options: Option<String>,
}

fn modprobe(shipped: &str, options: &InstallOptions) -> Result<Config, Problem> {
    let mut words = Vec::new();
    for (name, bytes) in [("reserve_mb", options.reserve), ("pool_mb", options.limit)] {
        if let Some(bytes) = bytes {
            if bytes < 1 << 20 {
                return Err(Problem::Size(format!(
                    "{} is too little for {name}: write at least 1 MiB, with a unit such as 16GiB",
                    format_size(bytes)
                )));
            }
            words.push(format!("{name}={}", bytes >> 20));
        }
    }
    if words.is_empty() {
        return Ok(Config { text: shipped.to_owned(), options: None });
    }
    let line = format!("options greenboost {}", words.join(" "));
    Ok(Config { text: format!("{shipped}\n{line}\n"), options: Some(line) })
}
