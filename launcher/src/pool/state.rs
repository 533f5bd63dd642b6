//! What the pool is like now, from the module's files; and why the level is what it is, where the device may be asked.

use super::{Paths, Problem};
use crate::output;
use greenboost_contract::format_size;
use greenboost_kmod::{Causes, Device};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The pool, as JSON shows it. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the table in docs/kernel-module.md explains the files of the same names")]
pub struct State {
    pub loaded: bool,
    pub ram_level: String,
    pub spill_level: String,
    pub causes: Vec<&'static str>,
    /// `ok`, or why this user cannot allocate.
    pub device: String,
    pub pool_used_bytes: u64,
    pub pool_limit_bytes: u64,
    pub user_limit_bytes: u64,
    pub file_limit_bytes: u64,
    pub reserve_bytes: u64,
    pub reserve_ready_bytes: u64,
    pub reserve_held_bytes: u64,
    pub available_bytes: u64,
    pub decline_bytes_per_s: u64,
    pub low_mark_bytes: u64,
    pub critical_mark_bytes: u64,
    pub spill_path: String,
    pub spill_free_bytes: u64,
    pub spill_low_mark_bytes: u64,
    pub spill_critical_mark_bytes: u64,
    pub allocations: u64,
    pub frees: u64,
    pub refused: u64,
    pub reserve_hits: u64,
    pub became_ok: u64,
    pub became_low: u64,
    pub became_critical: u64,
}

impl State {
    /// Reads it.
    ///
    /// # Errors
    /// [`Problem::NotLoaded`] without the folder, [`Problem::Unreadable`] without one of its files. It is not an error
    /// when this user may not open the device: the files are for everybody.
    pub fn read(paths: &Paths) -> Result<Self, Problem> {
        if !paths.sysfs.is_dir() {
            return Err(Problem::NotLoaded { path: paths.sysfs.clone() });
        }
        let number = |name| number(&paths.sysfs, name);
        let (device, causes) = match Device::open_path(&paths.device).and_then(|device| device.info()) {
            Ok(info) => ("ok".to_owned(), Causes(info.causes).words()),
            Err(error) => (error.to_string(), Vec::new()),
        };
        Ok(Self {
            loaded: true,
            ram_level: text(&paths.sysfs, "ram_level")?,
            spill_level: text(&paths.sysfs, "spill_level")?,
            causes,
            device,
            pool_used_bytes: number("pool_used_bytes")?,
            pool_limit_bytes: number("pool_limit_bytes")?,
            user_limit_bytes: number("user_limit_bytes")?,
            file_limit_bytes: number("file_limit_bytes")?,
            reserve_bytes: number("reserve_bytes")?,
            reserve_ready_bytes: number("reserve_ready_bytes")?,
            reserve_held_bytes: number("reserve_held_bytes")?,
            available_bytes: number("available_bytes")?,
            decline_bytes_per_s: number("decline_bytes_per_s")?,
            low_mark_bytes: number("low_mark_bytes")?,
            critical_mark_bytes: number("critical_mark_bytes")?,
            spill_path: text(&paths.sysfs, "spill_path")?,
            spill_free_bytes: number("spill_free_bytes")?,
            spill_low_mark_bytes: number("spill_low_mark_bytes")?,
            spill_critical_mark_bytes: number("spill_critical_mark_bytes")?,
            allocations: number("allocations")?,
            frees: number("frees")?,
            refused: number("refused")?,
            reserve_hits: number("reserve_hits")?,
            became_ok: number("became_ok")?,
            became_low: number("became_low")?,
            became_critical: number("became_critical")?,
        })
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            output::json(self, false);
        } else {
            output::print(&self.table());
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, words: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<10} {words}");
        };
        let why = if self.causes.is_empty() { String::new() } else { format!(": {}", self.causes.join(", ")) };
        row("level", format!("{}{why}", self.ram_level));
        row("pool", format!("{} of {} in use", format_size(self.pool_used_bytes), format_size(self.pool_limit_bytes)));
        row(
            "limits",
            format!(
                "{} a user, {} an open file",
                format_size(self.user_limit_bytes),
                format_size(self.file_limit_bytes)
            ),
        );
        row(
            "reserve",
            format!("{} ready of {}", format_size(self.reserve_ready_bytes), format_size(self.reserve_bytes)),
        );
        let falling = match self.decline_bytes_per_s {
            0 => String::new(),
            rate => format!(", falling by {} a second", format_size(rate)),
        };
        row(
            "RAM",
            format!(
                "{} available{falling}; low below {}, critical below {}",
                format_size(self.available_bytes),
                format_size(self.low_mark_bytes),
                format_size(self.critical_mark_bytes)
            ),
        );
        if !self.spill_path.is_empty() {
            row(
                "spill path",
                format!(
                    "{}: {}, {} free; low below {}, critical below {}",
                    self.spill_path.escape_debug(),
                    self.spill_level,
                    format_size(self.spill_free_bytes),
                    format_size(self.spill_low_mark_bytes),
                    format_size(self.spill_critical_mark_bytes)
                ),
            );
        }
        row(
            "so far",
            format!(
                "{} allocations, {} freed, {} refused; {} chunks of 2 MiB came from the reserve",
                self.allocations, self.frees, self.refused, self.reserve_hits
            ),
        );
        row(
            "",
            format!(
                "the level became low {} times, critical {}, ok again {}",
                self.became_low, self.became_critical, self.became_ok
            ),
        );
        if self.device != "ok" {
            row("device", self.device.clone());
        }
        text
    }
}

fn text(sysfs: &Path, name: &str) -> Result<String, Problem> {
    let path = sysfs.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(Problem::Unreadable { path, reason: error.to_string() }),
    }
}

fn number(sysfs: &Path, name: &str) -> Result<u64, Problem> {
    let text = text(sysfs, name)?;
    text.parse().map_err(|_| Problem::Unreadable { path: sysfs.join(name), reason: format!("'{text}' is no number") })
}
