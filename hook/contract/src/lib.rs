//! What the injected hook and the programs around it agree on.
//!
//! * [`choices`]: the words that some settings are made of;
//! * [`engine`]: which inline engine a hook library is built with;
//! * [`settings`]: everything the launcher tells the hook, as environment variables, in one struct;
//! * [`size`]: how a SIZE is written, in options, profiles and output;
//! * [`value`]: single values as serde reads them;
//! * [`experts`]: how kernels that multiply with chosen experts have their parameters;
//! * [`escape`]: text of others before it is shown;
//! * [`place`]: rules that say where a model's tensors should be;
//! * [`kernel`]: rules that say how kernels read weights outside VRAM;
//! * [`loader`]: programs that are started by their loader;
//! * [`planner`]: how a plan for a model is asked for, and how the answer is written;
//! * [`planned`]: what such an answer may set;
//! * [`probe`]: the kernel by which hook and doctor judge memory;
//! * [`ram`]: how much system RAM may still be taken;
//! * [`vram`]: how much VRAM a program may take;
//! * [`record`]: the status record a hooked process publishes and `greenboost status` reads.
//!
//! Nothing here talks to CUDA, prints, or depends on how a profile is written.

pub mod cache;
pub mod choices;
pub mod counts;
pub mod engine;
pub mod escape;
pub mod experts;
pub mod kernel;
pub mod loader;
pub mod place;
pub mod planned;
pub mod planner;
pub mod probe;
pub mod ram;
pub mod record;
pub mod settings;
pub mod size;
pub mod value;
pub mod vram;

pub use choices::{
    ExpertCache, HostCopyPrefetch, Layers, PageCache, PlanFor, ReportFree, ReportTotal, Spill, Strategy, Stream,
};
pub use escape::escaped;
pub use settings::Settings;
pub use size::{format_size, parse_size};
