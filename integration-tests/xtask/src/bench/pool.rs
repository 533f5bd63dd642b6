//! `cargo xtask bench pool`: memory of the kernel module against other kinds of memory that a GPU can use.
//!
//! All of it happens in one run of the virtual machine of `cargo xtask test kernel`, each way once a round. Its processor
//! is emulated, so a time says nothing about any machine; what is compared is how many times more work one way is than
//! another. The median of the rounds is the figure.

use super::median;
use crate::kernel::{self, Measured};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `cargo xtask bench pool`.
#[derive(Args)]
pub struct Options {
    /// Also write the figures to FILE, as an array of rows
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each way is timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=8))]
    rounds: u16,
    /// MiB that are taken and pinned
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=4096))]
    mib: u32,
    /// Boot this kernel, whose headers are installed, and not the distribution's own
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
}

/// What must hold of a ratio.
#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// For comparison only.
    None,
}

/// A comparison: its name, the module's sample, the other's, what must hold of the ratio. The larger a ratio of times to
/// take memory, the faster the module; the smaller one of pins, the cheaper.
struct Comparison {
    what: &'static str,
    ours: &'static str,
    against: &'static str,
    theirs: &'static str,
    target: Target,
}

#[rustfmt::skip] // a table
const COMPARISONS: &[Comparison] = &[
    Comparison { what: "take", ours: "pool.take", against: "memfd, prefault, mlock", theirs: "memfd.present_locked", target: Target::AtLeast(20.0) },
    Comparison { what: "take, map, prefault", ours: "pool.present", against: "memfd, prefault, mlock", theirs: "memfd.present_locked", target: Target::AtLeast(20.0) },
    Comparison { what: "take, map, prefault", ours: "pool.present", against: "memfd of 2 MiB pages, prefault, mlock", theirs: "memfd_thp.present_locked", target: Target::None },
    Comparison { what: "take, map, prefault", ours: "pool.present", against: "hugetlb, prefault", theirs: "hugetlb.present", target: Target::None },
    Comparison { what: "take, map, prefault", ours: "pool.present", against: "the pool without a reserve", theirs: "fresh.present", target: Target::None },
    Comparison { what: "take, map, pin_user_pages", ours: "pool.pinned", against: "memfd, pin_user_pages", theirs: "memfd.pinned", target: Target::None },
    Comparison { what: "take, map, pin_user_pages", ours: "pool.pinned", against: "hugetlb, pin_user_pages", theirs: "hugetlb.pinned", target: Target::None },
    Comparison { what: "pin_user_pages_fast", ours: "pool.pin_fast", against: "hugetlb", theirs: "hugetlb.pin_fast", target: Target::AtMost(1.2) },
    Comparison { what: "pin_user_pages", ours: "pool.pin", against: "hugetlb", theirs: "hugetlb.pin", target: Target::AtMost(1.2) },
];

/// A comparison with its figures.
struct Row {
    what: &'static str,
    against: &'static str,
    /// Milliseconds; or segments of 2 MiB, and all.
    ours: f64,
    theirs: f64,
    ratio: f64,
    target: Target,
}

/// Measures, prints, and writes the rows where that was asked for.
///
/// # Errors
/// When the machine cannot be built or run. A missed target is reported, not an error.
pub fn run(options: &Options) -> Result<ExitCode> {
    let measured = kernel::measure(options.kernel.as_deref(), options.mib, options.rounds)?;
    let rows = compare(&measured)?;
    println!(
        "\n{} MiB, medians of {} rounds, Linux {}, emulated processor",
        options.mib, options.rounds, measured.kernel
    );
    println!("{:32} {:38} {:>10} {:>10} {:>9}  target", "the pool", "against", "its", "the other", "ratio");
    for row in &rows {
        let (ours, theirs) = (row.ours, row.theirs);
        println!(
            "{:32} {:38} {ours:>10.3} {theirs:>10.3} {:>8.2}x  {}",
            row.what,
            row.against,
            row.ratio,
            row.verdict()
        );
    }
    println!("Times in ms; they belong to the emulation. The ratios are the result.");
    if let Some(path) = &options.json {
        let array: Vec<_> = rows.iter().map(|row| row.as_json(options, &measured)).collect();
        let text = serde_json::to_string_pretty(&array).context("rows as JSON")? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(measured: &Measured) -> Result<Vec<Row>> {
    let samples =
        |name: &str| measured.figures.get(name).with_context(|| format!("the machine did not measure {name}"));
    let mut rows = Vec::new();
    for Comparison { what, ours, against, theirs, target } in COMPARISONS {
        let (ours, theirs) = (samples(ours)?, samples(theirs)?);
        // Neighbours in time belong together.
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let ratio = median(&ratios);
        let ratio = if matches!(target, Target::AtMost(_)) { ratio } else { 1.0 / ratio };
        rows.push(Row { what, against, ours: median(ours), theirs: median(theirs), ratio, target: *target });
    }
    let (huge, all) = (median(samples("pool.segments_2mib")?), median(samples("pool.segments")?));
    rows.push(Row {
        what: "2 MiB segments at a device",
        against: "all segments",
        ours: huge,
        theirs: all,
        ratio: huge / all,
        target: Target::AtLeast(1.0),
    });
    Ok(rows)
}

impl Row {
    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.ratio >= least),
            Target::AtMost(most) => Some(self.ratio <= most),
            Target::None => None,
        }
    }

    fn wanted(&self) -> Option<String> {
        match self.target {
            Target::AtLeast(least) => Some(format!(">= {least}")),
            Target::AtMost(most) => Some(format!("<= {most}")),
            Target::None => None,
        }
    }

    fn verdict(&self) -> String {
        let met = self.met().unwrap_or(true);
        self.wanted().map_or(String::new(), |wanted| format!("{wanted}: {}", if met { "met" } else { "MISSED" }))
    }

    fn as_json(&self, options: &Options, measured: &Measured) -> Value {
        let digits = |value: f64| (value * 1e4).round() / 1e4;
        json!({
            "test": "pool",
            "machine": "emulated",
            "kernel": measured.kernel,
            "mib": options.mib,
            "rounds": options.rounds,
            "what": self.what,
            "against": self.against,
            "pool": digits(self.ours),
            "other": digits(self.theirs),
            "ratio": digits(self.ratio),
            "target": self.wanted(),
            "target_met": self.met(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn measured(pin: f64) -> Measured {
        let mut figures: BTreeMap<_, _> = COMPARISONS
            .iter()
            .flat_map(|row| [row.ours, row.theirs])
            .map(|name| (name.to_owned(), vec![10.0]))
            .collect();
        figures.insert("pool.take".to_owned(), vec![0.5, 0.4, 99.0]);
        figures.insert("memfd.present_locked".to_owned(), vec![10.0; 3]);
        figures.insert("pool.pin".to_owned(), vec![pin]);
        figures.insert("pool.segments".to_owned(), vec![512.0]);
        figures.insert("pool.segments_2mib".to_owned(), vec![512.0]);
        Measured { kernel: "6.1".to_owned(), figures }
    }

    #[test]
    fn faster_taking_and_cheaper_pins_are_what_meets_a_target() {
        let met = |pin| {
            let rows = compare(&measured(pin)).expect("all is measured");
            [&rows[0], &rows[8], &rows[9]].map(|row| (row.ratio, row.met()))
        };
        assert_eq!(met(11.0), [(20.0, Some(true)), (1.1, Some(true)), (1.0, Some(true))]);
        assert_eq!(met(13.0)[1], (1.3, Some(false)));
    }

    #[test]
    fn what_was_not_measured_is_no_figure() {
        let mut measured = measured(1.0);
        measured.figures.remove("hugetlb.pin");
        assert!(compare(&measured).is_err());
    }
}
