//! Figures in README.md come from measurements in docs/benchmarks, or they do not stand there.
//!
//! A figure is written between two markers, which name the file, the row and the field it comes from:
//!
//! ```text
//! <!-- figure: gpu-2026-12-01.json model=8b-q4_0 test=tg64 config=extend field=value -->131.5<!-- /figure -->
//! ```
//!
//! The file is an array of rows; exactly one row must have all the named values; its field, rounded to as many
//! digits as are shown, must be what is shown. A number with a unit of speed or time outside such markers has
//! no source and fails as well.

use super::outcome::Outcome;
use crate::workspace;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

const OPEN: &str = "<!-- figure:";
const CLOSE: &str = "<!-- /figure -->";
const UNITS: &[&str] = &["t/s", "tok/s", "tokens/s", "tokens per second", "GB/s", "GiB/s", "ns", "ms"];

/// Checks README.md.
///
/// # Errors
/// Names the line, and what it says where the measurement says otherwise.
pub fn run() -> Result<Outcome> {
    let text = fs::read_to_string(workspace::root().join("README.md")).context("cannot read README.md")?;
    let count = check(&text, &workspace::root().join("docs/benchmarks"))?;
    eprintln!("{count} figures, all as measured");
    Ok(Outcome::Passed)
}

/// Checks a text against the measurements of a folder; answers how many figures it has.
fn check(text: &str, benchmarks: &Path) -> Result<usize> {
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        let place = || format!("README.md:{}", number + 1);
        let mut rest = line;
        let mut outside = String::new();
        while let Some((before, from)) = rest.split_once(OPEN) {
            let (source, from) = from.split_once("-->").with_context(|| format!("{}: '-->' is missing", place()))?;
            let (shown, after) =
                from.split_once(CLOSE).with_context(|| format!("{}: '{CLOSE}' is missing", place()))?;
            compare(source, shown.trim(), benchmarks).with_context(place)?;
            outside += before;
            rest = after;
            count += 1;
        }
        outside += rest;
        if let Some(claim) = unsourced(&outside) {
            bail!("{}: '{claim}' has no source; write it as {OPEN} FILE KEY=VALUE ... field=NAME -->", place());
        }
    }
    Ok(count)
}

fn compare(source: &str, shown: &str, benchmarks: &Path) -> Result<()> {
    let mut words = source.split_whitespace();
    let name = words.next().context("the marker names no file")?;
    ensure!(!name.contains('/'), "{name} must lie in docs/benchmarks itself");
    let text =
        fs::read_to_string(benchmarks.join(name)).with_context(|| format!("cannot read docs/benchmarks/{name}"))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("{name} is not an array of rows"))?;
    let pairs: Vec<(&str, &str)> = words
        .map(|word| word.split_once('=').ok_or_else(|| anyhow!("'{word}' is not KEY=VALUE")))
        .collect::<Result<_>>()?;
    let field = pairs.iter().find(|(key, _)| *key == "field").context("the marker names no field=")?.1;
    let is_meant = |row: &&Value| {
        pairs.iter().filter(|(key, _)| *key != "field").all(|(key, wanted)| plain(&row[*key]) == *wanted)
    };
    let found: Vec<_> = rows.iter().filter(is_meant).collect();
    ensure!(found.len() == 1, "{} rows of {name} are meant by '{}'", found.len(), source.trim());
    let measured = found[0][field].as_f64().with_context(|| format!("field {field} of that row is no number"))?;
    let digits = shown.split_once('.').map_or(0, |(_, digits)| digits.len());
    let rounded = format!("{measured:.digits$}");
    ensure!(shown.replace(',', "") == rounded, "shown is {shown}, measured was {measured}, which is {rounded}");
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number followed by a unit of speed or time.
fn unsourced(text: &str) -> Option<String> {
    for (at, unit) in UNITS.iter().flat_map(|unit| text.match_indices(unit)) {
        let ends = !text[at + unit.len()..].starts_with(|c: char| c.is_alphanumeric());
        let before = text[..at].trim_end();
        if ends && before.ends_with(|c: char| c.is_ascii_digit()) {
            let from = before.rfind(|c: char| !c.is_ascii_digit() && !".,".contains(c)).map_or(0, |at| at + 1);
            return before.get(from..).map(|number| format!("{number} {unit}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> Result<usize> {
        let folder = tempfile::tempdir()?;
        let rows = r#"[{"test": "tg64", "ubatch": 512, "value": 131.46}, {"test": "pp512", "value": 2678.4}]"#;
        fs::write(folder.path().join("gpu.json"), rows)?;
        check(line, folder.path())
    }

    #[test]
    fn a_figure_that_is_as_measured_passes() {
        let line = "Runs at <!-- figure: gpu.json test=tg64 ubatch=512 field=value -->131.5<!-- /figure --> t/s.";
        assert_eq!(checked(line).expect("as measured"), 1);
        let line = "<!-- figure: gpu.json test=pp512 field=value -->2,678<!-- /figure --> and no more";
        assert_eq!(checked(line).expect("as measured"), 1);
    }

    #[test]
    fn a_figure_that_is_not_as_measured_fails() {
        for (line, problem) in [
            ("<!-- figure: gpu.json test=tg64 field=value -->132<!-- /figure -->", "which is 131"),
            ("<!-- figure: gpu.json test=tg128 field=value -->131<!-- /figure -->", "0 rows"),
            ("<!-- figure: gpu.json field=value -->131<!-- /figure -->", "2 rows"),
            ("<!-- figure: gpu.json test=tg64 -->131<!-- /figure -->", "field="),
            ("<!-- figure: none.json field=value -->131<!-- /figure -->", "none.json"),
            ("<!-- figure: gpu.json test=tg64 field=value -->131", "/figure"),
            ("It decodes at 131.5 t/s.", "131.5 t/s"),
            ("A launch costs 80ns more.", "80 ns"),
        ] {
            let error = format!("{:#}", checked(line).expect_err(line));
            assert!(error.contains(problem) && error.contains("README.md:1"), "{error}");
        }
    }

    #[test]
    fn words_that_only_look_like_units_pass() {
        assert_eq!(checked("It returns 3 nstimes, in CUDA 13 msgs.").expect("no claim"), 0);
    }
}
