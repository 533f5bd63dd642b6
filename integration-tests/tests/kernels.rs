//! The PTX text that goes to real GPUs.

use integration_tests::artefacts::workspace;
use std::fs;

fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of one entry, from its line to the closing brace.
fn entry<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.find(&format!(".visible .entry {name}(")).unwrap_or_else(|| panic!("no {name}"));
    let length = text[start..].find("\n}").unwrap_or_else(|| panic!("{name} has no end"));
    &text[start..start + length]
}

#[test]
fn the_probe_is_the_same_kernel_everywhere() {
    let all = read("integration-tests/kernels/toy.ptx");
    let probe = entry(&all, "gb_probe");
    assert_eq!(entry(&read("hook/contract/src/probe.ptx"), "gb_probe"), probe);
}

#[test]
fn the_kernels_run_on_any_gpu_since_volta() {
    for file in ["integration-tests/kernels/toy.ptx", "hook/contract/src/probe.ptx"] {
        let text = read(file);
        for line in [".version 7.0", ".target sm_70", ".address_size 64"] {
            assert!(text.lines().any(|found| found == line), "{file} has no line {line}");
        }
    }
}

#[test]
fn floating_point_is_rounded_once_per_operation() {
    // A fused multiply-add would give other bits than the simulated GPU and the CPU.
    let text = read("integration-tests/kernels/toy.ptx");
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim();
        assert!(!code.starts_with("fma"), "line {number}: {code}");
        for operation in ["mul", "add", "sub", "div"] {
            let float = code.starts_with(operation) && code.contains(".f32");
            assert!(!float || code.starts_with(&format!("{operation}.rn.f32")), "line {number}: {code}");
        }
        assert!(!code.contains(".ftz"), "line {number}: {code}");
    }
}
