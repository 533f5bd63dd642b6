//! Kernel rules: whether a kernel reads a weight that is outside VRAM from a copy or where it is.
//!
//! Rules are tried in order and the first whose conditions all hold decides; what no rule names is streamed. They
//! travel to the hook as one environment variable, a line for each rule, fields separated by tabs.

use crate::choices::written;
use crate::experts::ExpertLayout;
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
    /// Where it is, also from no copy that happens to be there, and the kernel may write to it: copies are given up.
    Never,
    /// By the numbers of chosen experts, of which those that are used most have copies in VRAM.
    Experts,
}

written!(AccessMode { Stream = "stream", InPlace = "in-place", Never = "never", Experts = "experts" });

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRule {
    /// Regular expression found anywhere in the kernel's (mangled) name.
    pub name: String,
    /// Regular expression found anywhere in the tensor's name; empty: any.
    pub tensor: String,
    /// What its launches do.
    pub read: AccessMode,
    /// Where its parameters are, of [`AccessMode::Experts`] alone.
    pub experts: Option<ExpertLayout>,
}

/// What is wrong with a rule that is not [`KernelRule::is_whole`].
pub const NOT_WHOLE: &str = "parameters are given with the access mode \"experts\", and with no other";

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{rule}' is not a kernel rule: {problem}")]
pub struct KernelError {
    rule: String,
    problem: String,
}

impl KernelRule {
    fn from_line(line: &str) -> Result<Self, KernelError> {
        let fail = |problem: &str| KernelError { rule: line.to_owned(), problem: problem.to_owned() };
        let fields: Vec<_> = line.split('\t').collect();
        let (name, tensor, read, experts) = match fields[..] {
            [name, tensor, read] => (name, tensor, read, ""),
            [name, tensor, read, experts] => (name, tensor, read, experts),
            _ => return Err(fail("it needs three fields, or four")),
        };
        let read = AccessMode::from_name(read).ok_or_else(|| fail("its access mode is unknown"))?;
        let experts = Some(experts).filter(|text| !text.is_empty()).map(str::parse).transpose();
        let experts = experts.map_err(|problem: String| fail(&problem))?;
        let rule = Self { name: name.to_owned(), tensor: tensor.to_owned(), read, experts };
        if rule.is_whole() { Ok(rule) } else { Err(fail(NOT_WHOLE)) }
    }

    /// Whether it says where a kernel's parameters are if it has to, and not if it has not.
    pub fn is_whole(&self) -> bool {
        (self.read == AccessMode::Experts) == self.experts.is_some()
    }
}

/// Rules as the environment carries them.
pub fn to_text(rules: &[KernelRule]) -> String {
    let line = |rule: &KernelRule| {
        let experts = rule.experts.as_ref().map(|experts| format!("\t{experts}")).unwrap_or_default();
        format!("{}\t{}\t{}{experts}", rule.name, rule.tensor, rule.read.name())
    };
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
            KernelRule {
                name: "mul_mat_vec|mmvq".into(),
                tensor: "_exps".into(),
                read: AccessMode::InPlace,
                experts: None,
            },
            KernelRule { name: "^x$".into(), tensor: String::new(), read: AccessMode::Never, experts: None },
            KernelRule {
                name: "vec".into(),
                tensor: "_exps".into(),
                read: AccessMode::Experts,
                experts: "ids=2 row=7 stride=11 step=18 tokens=1 weights=0,3.8".parse().ok(),
            },
        ];
        assert_eq!(from_text(&to_text(&rules)), Ok(rules));
        assert_eq!(from_text(""), Ok(vec![]));
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in ["x", "x\t\tsometimes", "x\t\tstream\t\t", "x\t\tstream\tids=2", "x\t\texperts\t", "x\t\texperts"] {
            assert!(from_text(line).is_err(), "{line}");
        }
    }
}
