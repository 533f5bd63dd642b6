//! Settings that are one of a few words, or some of them.

use crate::value;
use serde::{Deserialize, Deserializer};

/// What `cuMemGetInfo` and NVML say is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportFree {
    /// VRAM left in the budget plus RAM left in the budget, also when that exceeds the total.
    #[default]
    Extended,
    /// The same, never more than the reported total.
    Clamped,
    /// VRAM left in the budget alone.
    Vram,
}

/// What `cuMemGetInfo`, `cuDeviceTotalMem` and NVML say the device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportTotal {
    /// What the driver says. Programs derive other choices from it (Ollama: the context length).
    #[default]
    Physical,
    /// The VRAM budget, where it is smaller than what the driver says.
    Budget,
}

/// Whether memory may be placed outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spill {
    /// RAM takes what VRAM cannot hold.
    #[default]
    Allow,
    /// Out of VRAM is out of memory.
    Never,
}

/// Whether weights outside VRAM are copied into VRAM ahead of the kernels that read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stream {
    /// They are read in place.
    #[default]
    Off,
    /// They are copied.
    On,
}

/// Whether a mixture of experts has the experts that are used most in VRAM, chosen while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpertCache {
    /// Experts are where placement puts them, as other weights.
    #[default]
    Off,
    /// All are in RAM, and VRAM that is left has copies of those that are used most.
    On,
}

/// Whose model is planned for: whoever reads llama.cpp's variables when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlanFor {
    /// Nobody's.
    #[default]
    Never,
    /// The command's: gb-launch sees its model and sets the variables.
    Command,
    /// Those of the llama-servers it starts: only they know their models, so the hook asks there.
    Runners,
}

/// How a model is run. `greenboost plan` shows what each would bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Everything in VRAM.
    Vram,
    /// One address over VRAM and RAM; weights outside VRAM are streamed.
    Extend,
    /// The same, and weights outside VRAM are read in place.
    ExtendInPlace,
    /// llama.cpp's own: the CPU computes with what is outside.
    Offload,
    /// The same, and the copies that llama.cpp makes for its prompts are prefetched.
    HostCopyPrefetch,
    /// The CPU computes with a part of what is outside, while the rest is streamed.
    Combined,
    /// As extend, and of a mixture of experts those that are used most are in VRAM.
    Experts,
}

/// Whether the copies that a framework makes of weights it keeps in host memory are served from VRAM, where they were
/// prefetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostCopyPrefetch {
    /// They are made as the program asks.
    #[default]
    Off,
    /// Those that come again are served.
    On,
}

/// Whether weights outside VRAM stay in the page cache of their file, where they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageCache {
    /// They are copied to RAM.
    #[default]
    Off,
    /// They are read where the kernel keeps the file.
    On,
}

/// Gives an enum its written names, once, for the environment, profiles and messages alike.
macro_rules! written {
    ($type:ident { $($variant:ident = $text:literal $(| $alias:literal)*),+ $(,)? }) => {
        impl $type {
            /// The allowed spellings.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// How this value is written.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of a spelling, if it is one, or of one that it had before.
            pub fn from_name(text: &str) -> Option<Self> {
                match text { $($text $(| $alias)* => Some(Self::$variant),)+ _ => None }
            }
        }

        /// For command lines: the error says what is allowed.
        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::from_name(text).ok_or_else(|| format!("allowed are {}", Self::NAMES.join(", ")))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let allowed = format!("allowed are {}", Self::NAMES.join(", "));
                $crate::value::read(from, &allowed, |value| match value {
                    $crate::value::Scalar::Text(text) => text.parse(),
                    _ => Err(allowed.clone()),
                })
            }
        }
    };
}
pub(crate) use written;

written!(ReportFree { Extended = "extended", Clamped = "clamped", Vram = "vram" });
written!(ReportTotal { Physical = "physical", Budget = "budget" });
written!(HostCopyPrefetch { Off = "off", On = "on" });
written!(Strategy {
    Vram = "vram",
    Extend = "extend",
    ExtendInPlace = "extend-in-place",
    Offload = "offload",
    HostCopyPrefetch = "host-copy-prefetch" | "assist",
    Combined = "combined",
    Experts = "experts",
});
written!(ExpertCache { Off = "off", On = "on" });
written!(PageCache { Off = "off", On = "on" });
written!(Stream { Off = "off", On = "on" });
written!(PlanFor { Never = "never", Command = "command", Runners = "runners" });
written!(Spill { Allow = "allow", Never = "never" });

/// Which interception layers may be used. Each is tried and tested at start; a layer that cannot work on
/// this machine is left out and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Inline hooks on `dlsym` and `cuGetProcAddress`.
    pub inline: bool,
    /// GOT/PLT entries of every loaded object.
    pub got: bool,
    /// Plain LD_PRELOAD interposition.
    pub preload: bool,
    /// Inline hooks on the bodies of the driver's functions, for calls whose address was taken before any
    /// other layer stood. Off by default: the other layers together miss none of the known programs.
    pub bodies: bool,
}

impl Default for Layers {
    fn default() -> Self {
        Self { inline: true, got: true, preload: true, bodies: false }
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let allowed = "allowed are inline, got, preload, bodies, none";
        value::text(from, |names| Self::from_names(names).ok_or_else(|| allowed.to_owned()))
    }
}

impl Layers {
    /// No layer at all.
    pub const NONE: Self = Self { inline: false, got: false, preload: false, bodies: false };

    /// Reads a comma-separated list; `None` when a name is unknown.
    pub fn from_names(text: &str) -> Option<Self> {
        let mut layers = Self::NONE;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "inline" => layers.inline = true,
                "got" => layers.got = true,
                "preload" => layers.preload = true,
                "bodies" => layers.bodies = true,
                "none" => {}
                _ => return None,
            }
        }
        Some(layers)
    }

    /// The comma-separated list that [`Layers::from_names`] reads.
    pub fn names(self) -> String {
        let all = [(self.inline, "inline"), (self.got, "got"), (self.preload, "preload"), (self.bodies, "bodies")];
        let on: Vec<_> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if on.is_empty() { "none".to_owned() } else { on.join(",") }
    }
}
