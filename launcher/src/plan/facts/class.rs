//! What a tensor is for, from its name.

use serde::Serialize;

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Attention, and what stands in its place in other architectures (state space, linear attention, convolution).
    Attention,
    /// Norms, biases of them, and other small vectors.
    Norm,
    /// Feed-forward networks that every token goes through, shared experts too.
    Ffn,
    /// Experts, of which a token goes through some.
    Experts,
    /// What chooses the experts.
    Router,
    /// The input embedding.
    Embedding,
    /// The output matrix.
    Output,
    /// Not computed with in text.
    Other,
}

impl Class {
    /// All classes.
    pub const ALL: &'static [Self] = &[
        Self::Attention,
        Self::Norm,
        Self::Ffn,
        Self::Experts,
        Self::Router,
        Self::Embedding,
        Self::Output,
        Self::Other,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Norm => "norms",
            Self::Ffn => "feed-forward",
            Self::Experts => "experts",
            Self::Router => "routers",
            Self::Embedding => "embedding",
            Self::Output => "output",
            Self::Other => "not used for text",
        }
    }

    /// Computed with by every token, within a layer.
    pub fn is_dense(self) -> bool {
        matches!(self, Self::Attention | Self::Norm | Self::Ffn | Self::Router)
    }

    /// The class of a tensor, and its layer.
    pub fn of(name: &str) -> (Self, Option<u64>) {
        if let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            return (Self::in_layer(rest), layer.parse().ok());
        }
        let class =
            if name.contains("token_embd") || name.starts_with("position_embd") || name.starts_with("token_types") {
                Self::Embedding
            } else if matches!(name, "output.weight" | "output.bias") {
                Self::Output
            } else if name.contains("_norm") && !name.starts_with("v.") && !name.starts_with("mm.") {
                Self::Norm
            } else {
                Self::Other
            };
        (class, None)
    }

    fn in_layer(name: &str) -> Self {
        let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        if name.contains("nextn") {
            Self::Other
        } else if name.ends_with("_exps") {
            Self::Experts
        } else if name.starts_with("ffn_gate_inp") || name.starts_with("exp_probs") {
            Self::Router
        } else if name.contains("norm") {
            Self::Norm
        } else if name.starts_with("ffn_") {
            Self::Ffn
        } else {
            Self::Attention
        }
    }
}
