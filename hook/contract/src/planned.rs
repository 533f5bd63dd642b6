//! What a plan may set beside llama.cpp's own variables: a few settings of ours, and one switch of ggml's. Nothing else is
//! believed of an answer, whoever wrote it: a variable can change how a program is loaded.

use crate::Settings;
use crate::choices::{ExpertCache, HostCopyPrefetch, Stream};
use crate::settings::{EXPERTS, HOST_COPY_PREFETCH, PLANNED, RING, STREAM};
use crate::size::parse_size;

/// What llama.cpp's variables begin with, each of which stands for one of its options.
pub const PREFIX: &str = "LLAMA_ARG_";
/// ggml launches kernels one by one when this is set, to whatever. Copies can then run ahead of a graph that has not been
/// launched yet.
pub const DISABLE_GRAPHS: &str = "GGML_CUDA_DISABLE_GRAPHS";

/// Whether an answer may say this.
pub fn is_allowed(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX) || (name, value) == (DISABLE_GRAPHS, "1") || Settings::default().take(name, value)
}

impl Settings {
    /// Takes over what of a plan's variables are settings, and returns the others. What the user fixed stays.
    pub fn adopt(&mut self, variables: Vec<(String, String)>) -> Vec<(String, String)> {
        let (ours, others): (Vec<_>, Vec<_>) =
            variables.into_iter().partition(|(name, _)| PLANNED.contains(&name.as_str()));
        for (name, value) in ours {
            if !self.is_fixed(&name) {
                self.take(&name, &value);
            }
        }
        others
    }

    /// Whether the user said what this setting is, so that no plan may change it.
    pub fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|fixed| fixed == name)
    }

    /// Takes over one variable; whether it is one of these settings, and has a value that can be used.
    fn take(&mut self, name: &str, value: &str) -> bool {
        match name {
            STREAM => Stream::from_name(value).map(|stream| self.stream = stream).is_some(),
            HOST_COPY_PREFETCH => {
                HostCopyPrefetch::from_name(value).map(|assist| self.host_copy_prefetch = assist).is_some()
            }
            EXPERTS => ExpertCache::from_name(value).map(|experts| self.experts = experts).is_some(),
            RING => parse_size(value).map(|bytes| self.ring = Some(bytes)).is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_are_taken_over_unless_fixed_and_the_rest_comes_back() {
        let plan = owned(&[(STREAM, "on"), ("LLAMA_ARG_UBATCH", "512"), (HOST_COPY_PREFETCH, "on"), (RING, "64MiB")]);
        let mut open = Settings::default();
        assert_eq!(open.adopt(plan.clone()), owned(&[("LLAMA_ARG_UBATCH", "512")]));
        assert_eq!(
            (open.stream, open.host_copy_prefetch, open.ring),
            (Stream::On, HostCopyPrefetch::On, Some(64 << 20))
        );
        let mut fixed = Settings { fixed: vec![STREAM.to_owned(), RING.to_owned()], ..Settings::default() };
        assert_eq!(fixed.adopt(plan).len(), 1);
        assert_eq!((fixed.stream, fixed.host_copy_prefetch, fixed.ring), (Stream::Off, HostCopyPrefetch::On, None));
    }

    #[test]
    fn a_plan_changes_these_settings_and_no_others() {
        for (name, value) in [
            (STREAM, "off"),
            (HOST_COPY_PREFETCH, "on"),
            (RING, "1GiB"),
            (EXPERTS, "on"),
            (DISABLE_GRAPHS, "1"),
            ("LLAMA_ARG_X", ""),
        ] {
            assert!(is_allowed(name, value), "{name}={value}");
        }
        for (name, value) in [
            (STREAM, "perhaps"),
            (RING, "much"),
            (DISABLE_GRAPHS, "/lib/x.so"),
            ("GGML_CUDA_DISABLE_GRAPHS2", "1"),
            ("GREENBOOST_LOG", "/etc/passwd"),
            ("GREENBOOST_VRAM", "1GiB"),
            ("LD_PRELOAD", "x"),
            ("PATH", "x"),
        ] {
            assert!(!is_allowed(name, value), "{name}={value}");
        }
    }
}
