//! What llama.cpp (v0.5.0) decides by an architecture's name because no key of the file says it. All else comes from the
//! metadata, so that a new member of a family is right without a row here.

/// Which layers of an architecture see a window of the context, where the file names its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Every how many layers one sees the whole context, where the file has no pattern; 0: none does.
    pub period: u64,
    /// Whether that is the first of them; else the last.
    pub dense_first: bool,
    /// The size where the file names none.
    pub unnamed: Option<u64>,
    /// The size whatever the file says, unless that is 0.
    pub always: Option<u64>,
    /// The only number of layers with which windows are used.
    pub layers: Option<u64>,
}

/// What is special about an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// As llama.cpp calls it.
    pub name: &'static str,
    /// Windows, where llama.cpp uses them: there are files with a window's size that it does not.
    pub windows: Option<Windows>,
    /// What else is special.
    pub special: Special,
}

/// What only few architectures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Nothing.
    None,
    /// An encoder, or a model of diffusion: it keeps nothing.
    NoCache,
    /// The first layers, this many, have caches, and later ones use theirs.
    OwnCaches(u64),
    /// Blocks for speculation have caches, though the model itself does not use them.
    SpeculativeCaches,
    /// Linear attention that no key describes: a square of a head's width for each head, in all layers but one of this
    /// many.
    Linear(u64),
    /// A layer with a feed-forward network has nothing else. Blocks for speculation have caches.
    OneKindALayer,
    /// One more layer, with one head, decides about adapters.
    RouterLayer,
}

const fn plain(name: &'static str) -> Architecture {
    Architecture { name, windows: None, special: Special::None }
}

const fn special(name: &'static str, special: Special) -> Architecture {
    Architecture { name, windows: None, special }
}

/// With windows whose size the file names, where it names one.
const fn windowed(name: &'static str, period: u64) -> Architecture {
    let windows = Windows { period, dense_first: false, unnamed: None, always: None, layers: None };
    Architecture { name, windows: Some(windows), special: Special::None }
}

/// A change to the windows of an architecture.
macro_rules! with {
    ($row:expr, $($field:ident: $value:expr),*) => {
        Architecture { windows: match $row.windows {
            Some(windows) => Some(Windows { $($field: $value,)* ..windows }),
            None => None,
        }, ..$row }
    };
}

/// The architectures that are not like all others.
const SPECIAL: &[Architecture] = &[
    windowed("afmoe", 4),
    windowed("cohere2", 4),
    with!(windowed("cohere2moe", 4), dense_first: true),
    Architecture { special: Special::SpeculativeCaches, ..windowed("deepseek4", 0) },
    windowed("dflash", 1),
    windowed("dots3note", 1),
    with!(windowed("exaone-moe", 4), unnamed: Some(128)),
    with!(windowed("exaone4", 4), unnamed: Some(4096), layers: Some(64)),
    with!(windowed("gemma2", 2), unnamed: Some(4096)),
    windowed("gemma3", 6),
    Architecture { special: Special::OwnCaches(20), ..windowed("gemma3n", 5) },
    windowed("gemma4", 1),
    windowed("gemma4-assistant", 1),
    windowed("gpt-oss", 2),
    windowed("granite_swa", 1),
    with!(windowed("laguna", 4), dense_first: true),
    windowed("lfm2", 0),
    with!(windowed("llama4", 4), unnamed: Some(8192), always: Some(8192)),
    windowed("maple", 1),
    windowed("mellum", 4),
    windowed("mimo2", 1),
    windowed("muse-glimmer", 4),
    windowed("olmo2", 4),
    windowed("plamo3", 8),
    with!(windowed("smallthinker", 4), dense_first: true, always: Some(4096)),
    windowed("spark2_5", 1),
    windowed("step35", 1),
    special("bailingmoe3", Special::SpeculativeCaches),
    special("hy_v4", Special::SpeculativeCaches),
    special("kimi-k3", Special::SpeculativeCaches),
    special("kimi-linear", Special::SpeculativeCaches),
    special("minimax-m3", Special::SpeculativeCaches),
    special("minimax-01", Special::Linear(8)),
    special("nemotron_h", Special::OneKindALayer),
    special("nemotron_h_moe", Special::OneKindALayer),
    special("graniteswitch", Special::RouterLayer),
    special("bert", Special::NoCache),
    special("dream", Special::NoCache),
    special("eurobert", Special::NoCache),
    special("gemma-embedding", Special::NoCache),
    special("jina-bert-v2", Special::NoCache),
    special("jina-bert-v3", Special::NoCache),
    special("llada", Special::NoCache),
    special("llada-moe", Special::NoCache),
    special("modern-bert", Special::NoCache),
    special("neo-bert", Special::NoCache),
    special("nomic-bert", Special::NoCache),
    special("nomic-bert-moe", Special::NoCache),
    special("rnd1", Special::NoCache),
    special("wavtokenizer-dec", Special::NoCache),
];

/// All others that llama.cpp knows: what their files say is all there is to know.
const PLAIN: &[&str] = &[
    "apertus",
    "arcee",
    "arctic",
    "arwkv7",
    "baichuan",
    "bailingmoe",
    "bailingmoe2",
    "bitnet",
    "bloom",
    "chameleon",
    "chatglm",
    "codeshell",
    "cogvlm",
    "command-r",
    "dbrx",
    "deci",
    "deepseek",
    "deepseek2",
    "deepseek2-ocr",
    "deepseek32",
    "dots1",
    "eagle3",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone",
    "falcon",
    "falcon-h1",
    "gemma",
    "glm-dsa",
    "glm4",
    "glm4moe",
    "gpt2",
    "gptj",
    "gptneox",
    "granite",
    "granitehybrid",
    "granitemoe",
    "grok",
    "grovemoe",
    "hrm_text",
    "hunyuan-dense",
    "hunyuan-moe",
    "hunyuan_vl",
    "hy_v3",
    "internlm2",
    "jais",
    "jais2",
    "jamba",
    "lfm2moe",
    "llama",
    "llama-embed",
    "maincoder",
    "mamba",
    "mamba2",
    "minicpm",
    "minicpm3",
    "minimax-m2",
    "mistral3",
    "mistral4",
    "mpt",
    "nanbeige",
    "nemotron",
    "olmo",
    "olmoe",
    "openelm",
    "orion",
    "paddleocr",
    "pangu-embedded",
    "phi2",
    "phi3",
    "phimoe",
    "plamo",
    "plamo2",
    "plm",
    "pockettts",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen35",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "qwen3tts",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen4exp",
    "refact",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder",
    "starcoder2",
    "t5",
    "t5encoder",
    "talkie",
    "xverse",
];

/// Names that Ollama's own converter gives, and llama.cpp's for the same.
const OLLAMA: &[(&str, &str)] = &[
    ("deepseekocr", "deepseek2-ocr"),
    ("glm4moelite", "deepseek2"),
    ("gptoss", "gpt-oss"),
    ("olmo3", "olmo2"),
    ("qwen25vl", "qwen2vl"),
];

/// What is known of an architecture; `None` where llama.cpp does not know it either.
pub fn find(name: &str) -> Option<Architecture> {
    let name = OLLAMA.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, ours)| ours);
    let known = SPECIAL.iter().find(|row| row.name == name).copied();
    known.or_else(|| PLAIN.iter().find(|known| **known == name).map(|name| plain(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_architecture_is_listed_twice() {
        let mut names: Vec<_> = SPECIAL.iter().map(|row| row.name).chain(PLAIN.iter().copied()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn names_of_ollama_are_those_of_llama_cpp() {
        for (theirs, ours) in OLLAMA {
            assert_eq!(find(theirs), find(ours));
            assert!(find(ours).is_some(), "{ours}");
        }
        assert_eq!(find("something-new"), None);
    }
}
