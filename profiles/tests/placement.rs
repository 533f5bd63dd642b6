//! The shipped rules of placement, on every name that llama.cpp gives to a tensor.

use greenboost_contract::place::{DEFAULT_PRIORITY, PlaceRule};
use greenboost_profiles::{Profiles, pattern};

const TENSORS: &str = include_str!("tensors.txt");

/// A rule: what tells its tensors, and their priority.
type Rule = (regex::bytes::Regex, u8);

/// Of small tensors that every token reads, and of those that are read by row.
const SMALL: u8 = 95;
/// See [`SMALL`].
const ROWS: u8 = 5;

/// Each name with the priority that it has to have.
fn tensors() -> Vec<(&'static str, u8)> {
    let mut priority = 0;
    let mut tensors = Vec::new();
    for line in TENSORS.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("= ") {
            Some(group) => priority = group.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"),
            None => tensors.extend(line.split_whitespace().map(|name| (name, priority))),
        }
    }
    tensors
}

fn rules(profile: &str) -> Vec<Rule> {
    let profiles = Profiles::load(&[]).expect("the shipped profiles are valid");
    let rules = &profiles.find_by_name(profile).expect(profile).settings.place;
    rules
        .iter()
        .map(|PlaceRule { tensor, priority, .. }| (pattern::compile(tensor).expect("a pattern"), *priority))
        .collect()
}

fn priority(rules: &[Rule], tensor: &str) -> Option<u8> {
    rules.iter().find(|(tensors, _)| tensors.is_match(tensor.as_bytes())).map(|(_, priority)| *priority)
}

#[test]
fn every_tensor_of_llama_cpp_has_a_rule_and_the_right_one() {
    let tensors = tensors();
    assert!(tensors.len() > 260 && tensors.iter().all(|(_, priority)| *priority != DEFAULT_PRIORITY));
    for profile in ["llama-server", "llama-tools", "ollama", "rpc-server"] {
        let rules = rules(profile);
        let mut wrong = Vec::new();
        for (name, expected) in &tensors {
            // In the first layer and in one of three digits.
            for layer in ["0", "127"] {
                let tensor = name.replace('N', layer);
                // What belongs to a tensor and is small stays, also where the tensor goes.
                let small = if *expected == ROWS { ROWS } else { SMALL };
                for (kind, expected) in
                    [("weight", *expected), ("bias", small), ("scale", small), ("input_scale", small)]
                {
                    let found = priority(&rules, &format!("{tensor}.{kind}"));
                    if found != Some(expected) {
                        wrong.push(format!("{tensor}.{kind}: {found:?}, not {expected}"));
                    }
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new(), "{profile}");
    }
}

#[test]
fn what_is_read_by_row_leaves_vram_before_experts_and_they_before_all_else() {
    let rules = rules("llama-server");
    let of = |tensor: &str| priority(&rules, tensor).expect("a rule");
    let (rows, experts) = (of("per_layer_token_embd.weight"), of("blk.3.ffn_up_exps.weight"));
    assert!(rows < experts);
    let others = tensors().into_iter().map(|(_, priority)| priority).filter(|priority| *priority > experts);
    assert!(others.clone().min() > Some(experts) && others.max() == Some(95));
    // Names of Ollama's converter, which are llama.cpp's of another time.
    assert_eq!((of("blk.0.attn_out.weight"), of("blk.0.attn_sinks")), (90, 95));
}
