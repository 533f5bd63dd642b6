//! The table of variables in the docs is the code's.

use greenboost_contract::settings::{FOR_TESTS, RENAMED, Settings};
use std::collections::BTreeSet;

#[test]
fn the_docs_name_every_variable_and_no_other() {
    let docs = include_str!("../../docs/variables.md");
    let named: BTreeSet<_> = docs.split('`').filter(|part| is_name(part)).collect();
    let ours = ["GREENBOOST_HOOK", "GREENBOOST_LAUNCHED"];
    let renamed = RENAMED.iter().map(|(before, _)| *before);
    let known = Settings::VARIABLES.iter().copied().chain(FOR_TESTS).chain(ours).chain(renamed);
    assert_eq!(named, known.collect());
}

fn is_name(text: &str) -> bool {
    let rest = text.strip_prefix("GREENBOOST_").unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}
