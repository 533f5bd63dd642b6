//! What is known of the ggml that is listened to.

use super::accessors::{self, Accessors};
use super::answers::Answers;
use greenboost_intercept::slot::Function;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Whether an object that calls a function was seen.
pub fn is_caught(function: Function) -> bool {
    !function.slot().original().is_null()
}

/// Whether both functions are caught without which nothing is known.
fn caught() -> (bool, bool) {
    (is_caught(Function::ggml_backend_tensor_alloc), is_caught(Function::ggml_backend_buffer_set_usage))
}

/// What is known of the ggml that is listened to.
#[derive(Default)]
pub struct Listener {
    /// Looked up once ggml is known to be there; `None` where it lacks one that is needed.
    accessors: OnceLock<Option<Accessors>>,
    /// What was answered for tensors that are to have a file's pages.
    answers: Answers,
    /// The file that gets the list of tensors at the program's end, if any.
    pub tensors_file: OnceLock<PathBuf>,
}

impl Listener {
    /// Nothing has been heard.
    pub const fn new() -> Self {
        Self { accessors: OnceLock::new(), answers: Answers::new(), tensors_file: OnceLock::new() }
    }

    /// The accessors, if the library exports all that are needed.
    pub fn accessors(&self) -> Option<&Accessors> {
        self.accessors.get_or_init(accessors::find).as_ref()
    }

    /// Whether this process's allocations will be explained by ggml: both calls are caught and all accessors are there.
    /// An allocation may then wait for its explanation before it gets its chunks.
    pub fn explains(&self) -> bool {
        caught() == (true, true) && self.accessors().is_some()
    }

    /// Why tensors are known, or not: for the status record and doctor.
    pub fn reason(&self) -> &'static str {
        match caught() {
            (true, true) if self.accessors().is_some() => "by tensor",
            (true, true) => "by allocation: this ggml lacks an accessor",
            (false, false) => "by allocation: no calls of ggml's libraries are seen",
            _ => "by allocation: not all calls of ggml's libraries are seen",
        }
    }

    /// What was answered for tensors.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Bytes, at least, that files will have of the tensors that were counted since this was last asked.
    pub fn expected_in_files(&self) -> u64 {
        self.answers.expected()
    }
}
