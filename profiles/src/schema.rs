//! The keys a profile may have, as data: what is refused, and what a refusal lists as allowed, come from here.

/// Keys outside any table; the tables are among them.
pub const TOP: &[&str] = &[
    "name",
    "description",
    "inherits",
    "priority",
    "match",
    "processes",
    "memory",
    "report",
    "place",
    "kernel",
    "plan",
    "environment",
];

/// Keys of `[match]`: at least one is needed, all that are given must match.
pub const MATCH: &[&str] = &["executable", "arguments"];

/// Keys of `[processes]`.
pub const PROCESSES: &[&str] = &["include", "exclude"];

/// Keys of `[memory]`.
pub const MEMORY: &[&str] = &[
    "threshold",
    "chunk",
    "vram_reserve",
    "backings",
    "spill",
    "stream",
    "ring",
    "assist",
    "page_cache",
    "upload_threads",
];

/// Keys of `[report]`.
pub const REPORT: &[&str] = &["free", "total"];

/// Keys of `[[place]]`; `tensor` is needed.
pub const PLACE: &[&str] = &["tensor", "layers", "at_least", "tier", "priority"];

/// Keys of `[[kernel]]`; `name` and `read` are needed.
pub const KERNEL: &[&str] = &["name", "tensor", "read"];

/// Keys of a variable in `[environment]` that is written as a table.
pub const VARIABLE: &[&str] = &["value", "unless", "unless_planned"];

/// Variables that only the launcher sets; the last ones change how every program is loaded.
pub const RESERVED_VARIABLES: &[&str] = &["GREENBOOST_", "LD_"];
