//! Reads what a GGUF model file says about itself: metadata and the table of tensors, never the weights.
//!
//! * [`Model::open`]: a model, whether in one file or split over several;
//! * [`read`]: the header of one file, from anything that reads and seeks;
//! * [`TensorType`]: how many bytes a tensor's type makes of how many weights.
//!
//! The file is a stranger's. Counts are checked against the file's size before anything is made of them, strings and
//! arrays are kept up to a limit and skipped beyond it, nothing nests, and no header may be longer than
//! [`LONGEST_HEADER`]. Every error names the file, the place and what to do.
//!
//! Own code because a header decides what is allocated: every count is checked against the file before memory is taken
//! for it, and split models are read as one.

mod cursor;
mod error;
mod header;
mod metadata;
mod model;
mod tensor;
mod types;
#[cfg(feature = "write")]
pub mod write;

pub use error::{Error, Problem};
pub use header::{Header, LONGEST_HEADER, read};
pub use metadata::{Metadata, Value};
pub use model::{File, Model};
pub use tensor::Tensor;
pub use types::{REMOVED, TensorType};
