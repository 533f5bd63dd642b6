//! What a command finds in its environment of the plan that gb-launch made for it.

use super::gpu::model;
use super::{Place, run};
use std::collections::BTreeMap;
use std::process::Command;

pub type Variables = BTreeMap<String, String>;

/// A program that prints what it got of the plan.
pub const SHOW: &str = "#!/bin/sh\nenv | grep -E '^(LLAMA_ARG_|GGML_|GREENBOOST_(PLAN|STREAM|HOST_COPY_PREFETCH|RING|EXPERTS)=)' | sort\necho end\n";

pub fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What every command gets that a plan may change, whatever the plan says.
pub const STREAMING: [(&str, &str); 3] =
    [("GREENBOOST_STREAM", "on"), ("GREENBOOST_HOST_COPY_PREFETCH", "off"), ("GREENBOOST_EXPERTS", "off")];

/// What is set where nothing was planned.
pub fn only_the_profile() -> Variables {
    variables(&[&STREAMING[..], &[("LLAMA_ARG_CTX_SIZE", "8192")]].concat())
}

/// A place with a model and a llama-server that prints its environment.
pub fn place() -> (Place, String) {
    let place = Place::new();
    place.program("llama-server", SHOW);
    let model = model(&place).to_str().expect("path").to_owned();
    (place, model)
}

/// llama.cpp's variables of a command that printed its environment and nothing else, and the plan in one line.
#[track_caller]
pub fn got(mut command: Command) -> (Variables, String) {
    let (status, stdout, stderr) = run(&mut command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let lines = stdout.strip_suffix("end\n").expect("its output and no other").lines();
    let lines = lines.map(|line| line.split_once('=').expect("its output and no other"));
    let lines: Vec<_> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut all: Variables = lines.iter().cloned().collect();
    assert_eq!(all.len(), lines.len(), "set twice: {lines:?}");
    let plan = all.remove("GREENBOOST_PLAN").unwrap_or_default();
    (all, plan)
}
