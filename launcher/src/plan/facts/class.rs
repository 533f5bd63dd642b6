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
        // Models of two parts have both in the first of these layers.
        let in_part = ["enc.", "dec."].iter().find_map(|part| name.strip_prefix(part)).unwrap_or(name);
        if let Some((layer, rest)) = in_part.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            return (Self::in_layer(rest), layer.parse().ok());
        }
        let row = OUTSIDE_LAYERS.iter().find(|(start, ..)| name.starts_with(start));
        row.map_or((Self::Other, None), |(_, class, layer)| (*class, *layer))
    }

    fn in_layer(name: &str) -> Self {
        let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        // Older files have each expert as a tensor of its own: ffn_up.7
        let is_one_expert = name.rsplit_once('.').is_some_and(|(stem, last)| {
            stem.starts_with("ffn_") && !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
        });
        if name.contains("nextn") {
            Self::Other
        } else if name.contains("norm") {
            Self::Norm
        } else if name.ends_with("exps") || is_one_expert {
            Self::Experts
        } else if name.starts_with("ffn_gate_inp")
            || name.starts_with("ffn_gate_tid2eid")
            || name.starts_with("exp_probs")
        {
            Self::Router
        } else if name.starts_with("ffn") {
            Self::Ffn
        } else {
            Self::Attention
        }
    }
}

/// What names outside of layers begin with, the first that fits. llama.cpp has some of them with its first layer.
const OUTSIDE_LAYERS: &[(&str, Class, Option<u64>)] = &[
    // Of the model's input, except that one norm of the output has such a name.
    ("token_embd_norm", Class::Norm, None),
    ("token_embd", Class::Embedding, None),
    ("per_layer_token_embd", Class::Embedding, None),
    ("position_embd", Class::Embedding, None),
    ("token_types", Class::Embedding, None),
    ("hrm.", Class::Embedding, None),
    ("output_norm", Class::Norm, None),
    ("output", Class::Output, None),
    ("cls", Class::Output, None),
    ("dense_", Class::Output, None),
    ("altup_", Class::Output, None),
    ("rope_", Class::Norm, Some(0)),
    ("per_layer_proj_norm", Class::Norm, Some(0)),
    ("per_layer_model_proj", Class::Ffn, Some(0)),
    ("enc.output_norm", Class::Norm, None),
    ("dec.output_norm", Class::Norm, None),
];
