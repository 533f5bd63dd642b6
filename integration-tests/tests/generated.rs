//! Models that `gpu/make_gguf.py` generates, in llama.cpp's own libraries: small ones of every architecture load and run, and
//! routing is as skewed as was asked for.
#![cfg(target_arch = "x86_64")]

use integration_tests::{World, artefacts};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Decoded after the prompt.
const TOKENS: &str = "256";

/// What a run of a model says.
struct Run {
    tokens: Vec<u32>,
    layers: Vec<Layer>,
}

/// What is said of a layer with experts.
struct Layer {
    /// How often each expert was asked for, most used first.
    counts: Vec<u64>,
    /// Tokens that asked for others than the token before.
    changed: u64,
}

impl Layer {
    /// Of all reads, those of the most used experts, this many.
    fn share(&self, most: usize) -> f64 {
        self.counts.iter().take(most).sum::<u64>() as f64 / self.counts.iter().sum::<u64>() as f64
    }
}

/// Generates a model with these options. None, said aloud, where there is no numpy and need not be.
fn generate(world: &World, options: &[&str]) -> Option<PathBuf> {
    let Some(python) = artefacts::python_with_numpy() else {
        assert!(env::var_os(artefacts::CI).is_none(), "no Python has numpy: cargo xtask test --only packages");
        eprintln!("SKIPPED: no Python has numpy");
        return None;
    };
    let file = world.file("model.gguf");
    let script = artefacts::workspace().join("integration-tests/gpu/make_gguf.py");
    let made = Command::new(python).arg(script).arg(&file).args(options).output().expect("Python starts");
    assert!(made.status.success(), "{options:?}: {}", String::from_utf8_lossy(&made.stderr));
    Some(file)
}

fn run(world: &World, libraries: &Path, file: &Path) -> Run {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let outcome = world.run_with("llama-experts", &[&text(libraries), &text(file), TOKENS]).ok();
    let lines = |word: &'static str| outcome.stdout.lines().filter_map(move |line| line.strip_prefix(word));
    let numbers = |line: &str| line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let tokens: Vec<u64> = numbers(lines("tokens").next().unwrap_or_else(|| panic!("{}", outcome.report())));
    let changed = lines("changed").map(|line| numbers(line)[1]);
    let layer = |(line, changed): (&str, u64)| {
        let mut counts: Vec<u64> = numbers(line);
        // The number of the layer.
        counts.remove(0);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        Layer { counts, changed }
    };
    Run {
        tokens: tokens.into_iter().map(|token| token as u32).collect(),
        layers: lines("layer").zip(changed).map(layer).collect(),
    }
}

/// A small model of experts: its options, how many it has, and how many layers.
const MIXTURES: [(&[&str], usize, usize); 3] = [
    (&["--preset", "moe-tiny", "--quant", "Q4_K_M"], 64, 4),
    (&["--preset", "gptoss-tiny"], 32, 4),
    (&["--preset", "qwen35moe-tiny", "--quant", "Q8_0"], 256, 4),
];

#[test]
fn small_models_of_every_architecture_run_in_llama_cpp() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let mixtral = "--arch mixtral --layers 2 --dim 256 --ffn 256 --experts 8 --experts-used 2";
    let mixtral: Vec<_> = mixtral.split(' ').collect();
    let dense =
        [&["--preset", "tiny"][..], &["--preset", "qwen3-tiny", "--quant", "Q8_0"]].map(|options| (options, 0, 0));
    for (options, _, layers) in MIXTURES.into_iter().chain(dense).chain([(&mixtral[..], 8, 2)]) {
        let world = World::new();
        let Some(file) = generate(&world, options) else { return };
        let Run { mut tokens, layers: counted } = run(&world, &libraries, &file);
        tokens.sort_unstable();
        tokens.dedup();
        assert!(tokens.len() > 10, "{options:?}: {} tokens differ", tokens.len());
        assert_eq!(counted.len(), layers, "{options:?}");
    }
}

#[test]
fn the_most_used_experts_get_the_share_of_reads_that_was_asked_for() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let cases = MIXTURES.map(|case| (case, 0.76)).into_iter().chain([(MIXTURES[0], 0.6)]);
    for ((options, experts, layers), skew) in cases {
        let world = World::new();
        let asked = skew.to_string();
        let Some(file) = generate(&world, &[options, &["--skew", &asked][..]].concat()) else { return };
        let counted = run(&world, &libraries, &file).layers;
        assert_eq!(counted.len(), layers, "{options:?}");
        let mean = |of: &dyn Fn(&Layer) -> f64| counted.iter().map(of).sum::<f64>() / counted.len() as f64;
        let (quarter, half) = (mean(&|layer| layer.share(experts / 4)), mean(&|layer| layer.share(experts / 2)));
        let case = format!("{options:?}, {skew}: {quarter:.3} in a quarter, {half:.3} in half");
        eprintln!("{case}");
        assert!((quarter - skew).abs() < 0.04, "{case}");
        assert!(skew < 0.76 || (0.92..0.97).contains(&half), "{case}");
        assert!(counted.iter().all(|layer| layer.changed > 240), "{case}: tokens ask for the same experts");
    }
}

#[test]
fn a_models_bytes_do_not_depend_on_who_writes_them() {
    let bytes = |jobs: &str, seed: &str| {
        let world = World::new();
        let options = ["--preset", "gptoss-tiny", "--skew", "0.76", "--jobs", jobs, "--seed", seed];
        generate(&world, &options).map(|file| std::fs::read(file).expect("the model"))
    };
    let Some(one) = bytes("1", "1") else { return };
    assert!(Some(&one) == bytes("3", "1").as_ref(), "another number of jobs");
    assert!(Some(&one) != bytes("1", "2").as_ref(), "another seed");
}
