//! Kernel rules: whether a kernel reads a weight that is outside VRAM from a copy or where it is.
//!
//! Rules are tried in order and the first whose conditions all hold decides; what no rule names is streamed. They
//! travel to the hook as one environment variable, a line for each rule, fields separated by tabs.

use crate::choices::written;
use crate::value;
use serde::Deserializer;
use thiserror::Error;

/// How a kernel reads a weight outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// From a copy in VRAM, made ahead of the launch where the order is known.
    Stream,
    /// Where it is, over the link: right for a kernel that touches a small part of a tensor.
    InPlace,
    /// Where it is, and its launches are not looked into at all.
    Never,
}

written!(AccessMode { Stream = "stream", InPlace = "in-place", Never = "never" });

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRule {
    /// Regular expression found anywhere in the kernel's (mangled) name.
    pub name: String,
    /// Regular expression found anywhere in the tensor's name; empty: any.
    pub tensor: String,
    /// What its launches do.
    pub read: AccessMode,
}

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{rule}' is not a kernel rule: {problem}")]
pub struct KernelError {
    rule: String,
    problem: &'static str,
}

impl KernelRule {
    fn from_line(line: &str) -> Result<Self, KernelError> {
        let fail = |problem| KernelError { rule: line.to_owned(), problem };
        let fields: Vec<_> = line.split('\t').collect();
        let [name, tensor, read] = fields[..] else { return Err(fail("it needs three fields")) };
        let read = AccessMode::from_name(read).ok_or_else(|| fail("its access mode is unknown"))?;
        Ok(Self { name: name.to_owned(), tensor: tensor.to_owned(), read })
    }
}

/// Rules as the environment carries them.
pub fn to_text(rules: &[KernelRule]) -> String {
    let line = |rule: &KernelRule| format!("{}\t{}\t{}", rule.name, rule.tensor, rule.read.name());
    rules.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The rules of a text.
///
/// # Errors
/// The first that cannot be read.
pub fn from_text(text: &str) -> Result<Vec<KernelRule>, KernelError> {
    text.lines().filter(|line| !line.is_empty()).map(KernelRule::from_line).collect()
}

/// Reads such a text by serde.
///
/// # Errors
/// As [`from_text`].
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<KernelRule>, D::Error> {
    value::text(from, |text| from_text(text).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let rules = vec![
            KernelRule { name: "mul_mat_vec|mmvq".into(), tensor: "_exps".into(), read: AccessMode::InPlace },
            KernelRule { name: "^x$".into(), tensor: String::new(), read: AccessMode::Never },
            KernelRule { name: "gemm".into(), tensor: String::new(), read: AccessMode::Stream },
        ];
        assert_eq!(from_text(&to_text(&rules)), Ok(rules));
        assert_eq!(from_text(""), Ok(vec![]));
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in ["x", "x\t\tsometimes", "x\t\tstream\t"] {
            assert!(from_text(line).is_err(), "{line}");
        }
    }
}
