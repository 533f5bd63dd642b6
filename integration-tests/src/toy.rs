//! Toy models, made once per shape and kept beside the fixtures.

use crate::artefacts::artefacts;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// A model with the answer that no GPU had a hand in.
#[derive(Debug, Clone)]
pub struct Toy {
    /// The file.
    pub path: PathBuf,
    /// What `toy-llm -m FILE -n N` must print, computed on the CPU.
    pub answer: String,
}

impl Toy {
    /// The file, as an argument.
    pub fn file(&self) -> &str {
        self.path.to_str().expect("a UTF-8 path")
    }
}

/// A model of about `size`, with the expected answer of `tokens` tokens.
///
/// # Panics
/// When it cannot be made.
pub fn toy(size: &str, tokens: u32) -> Toy {
    static MADE: OnceLock<Mutex<HashMap<(String, u32), Toy>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    made.entry((size.to_owned(), tokens)).or_insert_with(|| make(size, tokens)).clone()
}

fn make(size: &str, tokens: u32) -> Toy {
    let artefacts = artefacts();
    let program = artefacts.program("toy-llm");
    let path = artefacts.fixtures.join(format!("toy-{size}-{}.gguf", std::process::id()));
    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).output().expect("toy-llm");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let final_path = artefacts.fixtures.join(format!("toy-{size}.gguf"));
    // Made anew in each test process, since what makes it may have changed; renamed into place, since others may have
    // the old one mapped.
    run(&["make", "--out", path.to_str().expect("UTF-8"), "--size", size]);
    std::fs::rename(&path, &final_path).expect("renaming the model");
    let answer = run(&["--cpu", "-m", final_path.to_str().expect("UTF-8"), "-n", &tokens.to_string()]);
    Toy { path: final_path, answer }
}
