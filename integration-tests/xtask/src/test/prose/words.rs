//! The words: what is not written, what is written instead, and why.
//!
//! The first part is a table of terms: of two words for a thing, the field's own. The second is plain English
//! that an engineer reads once. A pattern is a regular expression on the text of a paragraph, in whatever case; where
//! a word also has an honest use, the pattern takes in what stands beside it and `except` lets that pass.

/// What is not written.
pub struct Word {
    /// What finds it.
    pub pattern: &'static str,
    /// What of that is all right; empty for nothing.
    pub except: &'static str,
    /// What is written instead.
    pub say: &'static str,
    /// The reason.
    pub why: &'static str,
}

const fn word(pattern: &'static str, say: &'static str, why: &'static str) -> Word {
    Word { pattern, except: "", say, why }
}

const fn unless(pattern: &'static str, except: &'static str, say: &'static str, why: &'static str) -> Word {
    Word { pattern, except, say, why }
}

/// All of them.
pub const WORDS: &[Word] = &[
    // How a model is run.
    word(
        r"\bways? (of running|to run|a model (is run|runs)|the model (is run|runs))\b",
        "strategy",
        "the field's word for it",
    ),
    word(
        r"\b(run|runs|ran|running) (it|them|a model|the model|any model)?,? ?(in )?(this|that|some|which) way\b",
        "strategy",
        "the field's word for it",
    ),
    word(
        r"\b(the|these|those|all|all the|other|several|few|three|four|five|six|possible) ways\b",
        "strategies",
        "the field's word for it",
    ),
    word(r"\bways? (of reading|to read)\b", "access mode", "the field's word for it"),
    // Where memory is.
    unless(
        r"\bhomes?( folder| directory)?\b",
        r"(folder|directory)$",
        "residency",
        "the field's word for where bytes are",
    ),
    word(r"\blate (backing|fills?|homes?|chunks?)\b", "deferred backing", "late says that something was missed"),
    word(
        r"\bsettl(e|es|ed|ing)\b",
        "materialise; of a question, decide",
        "the field's word for making what was deferred",
    ),
    word(r"\b(make|makes|made|making) up for\b", "materialise", "the field's word for making what was deferred"),
    word(r"\b(make|makes|made|making) room\b", "evict, eviction", "the field's word for it"),
    word(
        r"\b(whose turn|their turns?|turns of (chunks|allocations|eviction))\b",
        "eviction order",
        "the field's word for it",
    ),
    word(r"\bclaim(s|ed|ing)?\b", "admission; of a statement, say", "the field's word for being let in to a budget"),
    word(r"\bwish(es)?\b", "placement hint; of a user, option", "the field's word for it"),
    word(r"\bstretch(es)?\b", "extent", "the field's word for a range of memory"),
    word(r"\bseams?\b", "boundary", "the field's word for it"),
    word(r"\b(cuts?|cutting)\b", "split; of text, shorten", "the field's word for it"),
    // Copies of weights.
    unless(r"\b(pcie )?lanes?\b", r"^pcie", "copy queue", "the field's word for it"),
    unless(
        r"\b(staging |expert |server |server's |parallel |request |pcie )?slots?\b",
        r"^(staging|expert|server|parallel|request|pcie)",
        "staging slot (of the ring), expert slot (of a layer), original (of an intercepted function)",
        "slot alone may be any of them",
    ),
    word(
        r"\b((recorded|learned|learnt|launch|reading) order|order of (launches|reads|reading|uses|kernels))\b",
        "access history",
        "the field's word for what was read before",
    ),
    word(r"\b(choice|choices) (by|of) (measurement|measuring|kernels?)\b", "autotune", "the field's word for it"),
    word(r"\bassist(s|ed|ing|ance)?\b", "host-copy prefetch", "says what is done"),
    // The program's own records.
    word(r"\bnotebooks?\b", "probe cache", "says what is kept"),
    unless(r"\b(systemd |system |system's )?journals?\b", r"^system", "logger", "says what it is"),
    word(r"\btall(y|ies)\b", "call counters", "says what is counted"),
    word(r"\bplant(s|ed|ing)?\b", "failpoint (set a failpoint, inject a fault)", "the field's word for it"),
    word(r"\b(a|the|its|trace) sinks?\b", "trace writer", "says what it does"),
    word(r"\brigs?\b", "machine", "the common word"),
    word(r"\b(the|its|their|our) means (of|to|for)\b", "context", "means is a verb in the next sentence"),
    // Plain English.
    word(
        r"\bbehind\b",
        "after (of time and order), or who does it",
        "behind is a place; nothing here stands behind anything",
    ),
    unless(
        r"\bso (many|much|few|often)\b( that| as)?",
        r"(that|as)$",
        "this many, or the number itself",
        "so many waits for a 'that'",
    ),
    unless(
        r"\b(there )?(is|are|was|were) no\b( longer| more than| matter)?",
        r"^there|(longer|than|matter)$",
        "has no, is not a, is gone",
        "who is, is not nobody; of things that ended, say that they did",
    ),
];
