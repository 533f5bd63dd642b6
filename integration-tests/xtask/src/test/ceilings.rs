//! What is not yet as it should be is counted, and there may be no more of it than there was.
//!
//! A check finds places. `integration-tests/xtask/ceilings.toml` says how many there may be in a folder or a file;
//! elsewhere there may be none. A place counts for the longest name in the file that is its own path or a folder
//! above it, so that code which moves within `hook` needs no new line. Who finds fewer writes that down with
//! `cargo xtask test lower`, which never writes a higher number than the file has.

use super::outcome::Outcome;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use toml_edit::{DocumentMut, value};

/// The file, from the root of the workspace.
const FILE: &str = "integration-tests/xtask/ceilings.toml";

/// A place that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, from the root of the workspace, with `/` between folders.
    pub path: String,
    /// What a person is told of it. Findings that are told of together have the same text.
    pub text: String,
}

/// A check whose findings are counted.
pub struct Check {
    /// Its table in the file, and its stage.
    pub name: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// Finds the places below a root.
    pub find: fn(&Path) -> Result<Vec<Finding>>,
}

/// The findings that one ceiling is for.
#[derive(Debug)]
struct Group<'a> {
    key: String,
    ceiling: usize,
    findings: Vec<&'a Finding>,
}

/// The stage: fails where there are more findings than there may be.
///
/// # Errors
/// Names what is over its ceiling; its findings have been printed.
pub fn hold(check: &Check) -> Result<Outcome> {
    let root = workspace::root();
    let findings = (check.find)(&root)?;
    judge(check, &findings, &table(&read(&root)?, check.name)?)?;
    Ok(Outcome::Passed)
}

/// Prints the findings below these paths; without a path, all of them.
///
/// # Errors
/// When the check cannot be made.
pub fn show(check: &Check, paths: &[String]) -> Result<()> {
    let findings = (check.find)(&workspace::root())?;
    let meant: Vec<_> = findings
        .iter()
        .filter(|finding| {
            paths.is_empty() || paths.iter().any(|path| covers(path.trim_end_matches('/'), &finding.path))
        })
        .collect();
    print(&meant);
    println!("{} {}", meant.len(), check.unit);
    Ok(())
}

/// Writes every ceiling that is too high down to what is found.
///
/// # Errors
/// When a check cannot be made or the file cannot be written.
pub fn lower(checks: &[&Check]) -> Result<()> {
    let root = workspace::root();
    let mut document = read(&root)?;
    for check in checks {
        let findings = (check.find)(&root)?;
        for (key, from, to) in sink(&mut document, check.name, &findings)? {
            println!("{} {key}: {from} to {to}", check.name);
        }
    }
    fs::write(root.join(FILE), document.to_string()).with_context(|| format!("cannot write {FILE}"))
}

fn read(root: &Path) -> Result<DocumentMut> {
    let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    text.parse().with_context(|| format!("{FILE} is not TOML"))
}

/// The ceilings of a check.
fn table(document: &DocumentMut, name: &str) -> Result<BTreeMap<String, usize>> {
    let Some(table) = document.get(name) else { return Ok(BTreeMap::new()) };
    let table = table.as_table().with_context(|| format!("{FILE}: {name} is not a table"))?;
    table
        .iter()
        .map(|(key, item)| {
            let ceiling = item.as_integer().and_then(|ceiling| usize::try_from(ceiling).ok());
            let ceiling = ceiling.with_context(|| format!("{FILE}: [{name}] {key} is not a number from 0 on"))?;
            ensure!(!key.ends_with('/'), "{FILE}: [{name}] {key}: a folder is written without '/' at its end");
            Ok((key.to_owned(), ceiling))
        })
        .collect()
}

fn judge(check: &Check, findings: &[Finding], ceilings: &BTreeMap<String, usize>) -> Result<()> {
    let mut over = Vec::new();
    let mut slack = false;
    for Group { key, ceiling, findings } in groups(findings, ceilings) {
        let (count, unit) = (findings.len(), check.unit);
        eprintln!("{key}: {count} {unit}, at most {ceiling}");
        if count > ceiling {
            print(&findings);
            over.push(format!("{key} has {count} {unit} where {ceiling} are the most"));
        }
        slack |= count < ceiling;
    }
    if slack {
        eprintln!("fewer than there may be: write that down with `cargo xtask test lower`");
    }
    if !over.is_empty() {
        bail!("{}; `cargo xtask test show {} PATH` lists them, {FILE} has the numbers", over.join("; "), check.name);
    }
    Ok(())
}

/// Every ceiling with its findings, and findings without a ceiling by their file.
fn groups<'a>(findings: &'a [Finding], ceilings: &BTreeMap<String, usize>) -> Vec<Group<'a>> {
    let mut found: BTreeMap<&str, Vec<&Finding>> = ceilings.keys().map(|key| (key.as_str(), Vec::new())).collect();
    for finding in findings {
        let key = ceilings.keys().filter(|key| covers(key, &finding.path)).max_by_key(|key| key.len());
        found.entry(key.map_or(&finding.path, |key| key)).or_default().push(finding);
    }
    found
        .into_iter()
        .map(|(key, findings)| Group {
            ceiling: ceilings.get(key).copied().unwrap_or(0),
            key: key.to_owned(),
            findings,
        })
        .collect()
}

/// Whether a file is this one or lies in this folder.
fn covers(key: &str, path: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is told of together is told once.
fn print(findings: &[&Finding]) {
    let mut told = Vec::new();
    for finding in findings {
        if !told.contains(&&finding.text) {
            println!("{}", finding.text);
            told.push(&finding.text);
        }
    }
}

/// Lowers the ceilings of a check; what it did, as (name, before, after). A ceiling of none is left out.
fn sink(document: &mut DocumentMut, name: &str, findings: &[Finding]) -> Result<Vec<(String, usize, usize)>> {
    let ceilings = table(document, name)?;
    let mut sunk = Vec::new();
    for Group { key, ceiling, findings } in groups(findings, &ceilings) {
        let count = findings.len();
        let Some(table) = document.get_mut(name).and_then(|item| item.as_table_mut()) else { continue };
        if count >= ceiling || !table.contains_key(&key) {
            continue;
        }
        if count == 0 {
            table.remove(&key);
        } else if let Some(item) = table.get_mut(&key) {
            *item = value(i64::try_from(count).context("a count")?);
        }
        sunk.push((key, ceiling, count));
    }
    Ok(sunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Check = Check { name: "faults", unit: "faults", find: |_| Ok(Vec::new()) };

    fn findings(paths: &[&str]) -> Vec<Finding> {
        let found = |path: &&str| Finding { path: (*path).to_owned(), text: format!("{path}: fault") };
        paths.iter().map(found).collect()
    }

    fn document(text: &str) -> DocumentMut {
        text.parse().expect("TOML")
    }

    fn judged(file: &str, paths: &[&str]) -> Result<()> {
        judge(&CHECK, &findings(paths), &table(&document(file), "faults")?)
    }

    #[test]
    fn as_many_as_there_may_be_pass_and_one_more_fails() {
        let file = "[faults]\nhook = 2\n";
        judged(file, &["hook/a.rs", "hook/src/b.rs"]).expect("as many as there may be");
        judged(file, &["hook/a.rs"]).expect("fewer");
        let error = judged(file, &["hook/a.rs", "hook/a.rs", "hook/b.rs"]).expect_err("one more").to_string();
        assert!(error.contains("hook has 3 faults where 2 are the most"), "{error}");
    }

    #[test]
    fn where_no_ceiling_is_there_may_be_none() {
        for path in ["launcher/src/a.rs", "hooks/a.rs", "hook.rs"] {
            let error = judged("[faults]\nhook = 2\n", &[path]).expect_err(path).to_string();
            assert!(error.contains(&format!("{path} has 1 faults where 0")), "{error}");
        }
        judged("", &["hook/a.rs"]).expect_err("no table at all");
    }

    #[test]
    fn the_longest_name_above_a_file_counts_it() {
        let file = "[faults]\nhook = 1\n\"hook/memory\" = 1\n\"hook/memory/src/a.rs\" = 1\n";
        judged(file, &["hook/memory/src/a.rs", "hook/memory/src/b.rs", "hook/src/c.rs"]).expect("one each");
        judged(file, &["hook/memory/src/a.rs", "hook/memory/src/a.rs"]).expect_err("two of one file");
        judged(file, &["hook/src/a.rs", "hook/src/b.rs"]).expect_err("two of hook itself");
    }

    #[test]
    fn lowering_keeps_comments_and_never_raises() {
        let mut file = document("# Why.\n[faults]\na = 3 # being split\nb = 1\nc = 2\n");
        let sunk = sink(&mut file, "faults", &findings(&["a/1", "b/1", "b/2", "d/1"])).expect("sunk");
        assert_eq!(sunk, [("a".to_owned(), 3, 1), ("c".to_owned(), 2, 0)]);
        let text = file.to_string();
        assert!(
            text.starts_with("# Why.\n[faults]\na = 1") && text.contains("b = 1\n") && !text.contains('c'),
            "{text}"
        );
    }

    #[test]
    fn a_file_of_ceilings_that_says_nonsense_is_refused() {
        for file in ["[faults]\nhook = -1\n", "[faults]\nhook = \"2\"\n", "[faults]\n\"hook/\" = 1\n", "faults = 1\n"] {
            judged(file, &[]).expect_err(file);
        }
    }

    #[test]
    fn the_committed_file_names_only_what_is_there() {
        let root = workspace::root();
        for (check, _) in read(&root).expect("read").iter() {
            for key in table(&read(&root).expect("read"), check).expect("numbers").keys() {
                assert!(root.join(key).exists(), "[{check}] {key} is not there");
            }
        }
    }
}
