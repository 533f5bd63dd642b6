//! How a kernel that multiplies with chosen experts has its parameters, as a rule of a profile says it:
//!
//! ```text
//! ids=2 row=7 stride=11 step=18 tokens=grid.z weights=0,3.8 beside=3.0,3.16
//! ```
//!
//! Parameters are counted from 0; `3.8` is the pointer 8 bytes into parameter 3. A kernel of this kind computes the address of
//! an expert as `weights + id * stride`, and that of what lies beside them as `beside + id * its own stride`.

use std::fmt;
use std::str::FromStr;

/// A pointer among a kernel's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// The parameter's number.
    pub param: usize,
    /// Bytes into it.
    pub offset: usize,
}

/// Where a launch says for how many tokens it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// One, always.
    One,
    /// The grid's third dimension.
    GridZ,
    /// The block's second dimension.
    BlockY,
}

/// See the module. The number of experts used by a token is the grid's second dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertLayout {
    /// The parameter that points to the experts' numbers, 32 bits each.
    pub ids: usize,
    /// The parameter with the elements from row to row of a tensor, 32 bits.
    pub row: usize,
    /// The parameter with the elements from expert to expert, 32 bits.
    pub stride: usize,
    /// The parameter with the distance between two tokens' numbers, 32 bits.
    pub step: usize,
    /// For how many tokens a launch is.
    pub tokens: Tokens,
    /// Pointers to tensors that have one part for each expert.
    pub weights: Vec<Pointer>,
    /// Pointers to what else is indexed by an expert's number: biases and scales. Null where a launch has none.
    pub beside: Vec<Pointer>,
}

/// Parameters and pointers in one rule at the most.
const MOST: usize = 64;

impl Tokens {
    const NAMES: [(Self, &str); 3] = [(Self::One, "1"), (Self::GridZ, "grid.z"), (Self::BlockY, "block.y")];
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.param)?;
        if self.offset > 0 { write!(f, ".{}", self.offset) } else { Ok(()) }
    }
}

impl fmt::Display for ExpertLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |pointers: &[Pointer]| pointers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let tokens = Tokens::NAMES.iter().find(|(tokens, _)| *tokens == self.tokens).map_or("", |(_, name)| name);
        let Self { ids, row, stride, step, .. } = self;
        write!(f, "ids={ids} row={row} stride={stride} step={step} tokens={tokens} weights={}", list(&self.weights))?;
        if self.beside.is_empty() { Ok(()) } else { write!(f, " beside={}", list(&self.beside)) }
    }
}

impl FromStr for ExpertLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text
            .split_whitespace()
            .map(|word| word.split_once('=').ok_or_else(|| format!("'{word}' is not NAME=VALUE")))
            .collect::<Result<_, _>>()?;
        const KNOWN: [&str; 7] = ["ids", "row", "stride", "step", "tokens", "weights", "beside"];
        if let Some((name, _)) = words.iter().find(|(name, _)| !KNOWN.contains(name)) {
            return Err(format!("'{name}' is unknown; known are {}", KNOWN.join(", ")));
        }
        let value = |name: &str| words.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let needed = |name: &str| value(name).ok_or_else(|| format!("it has no {name}="));
        let number = |name: &str| needed(name).and_then(param);
        let pointers = |text: &str| text.split(',').map(pointer).collect::<Result<Vec<_>, _>>();
        let tokens = needed("tokens")?;
        let tokens = Tokens::NAMES
            .iter()
            .find(|(_, name)| *name == tokens)
            .map(|(tokens, _)| *tokens)
            .ok_or_else(|| format!("tokens={tokens}: allowed are 1, grid.z, block.y"))?;
        let (weights, beside) = (pointers(needed("weights")?)?, value("beside").map_or(Ok(Vec::new()), pointers)?);
        if weights.len() + beside.len() > MOST {
            return Err(format!("it has more than {MOST} pointers"));
        }
        let (ids, row) = (number("ids")?, number("row")?);
        Ok(Self { ids, row, stride: number("stride")?, step: number("step")?, tokens, weights, beside })
    }
}

fn param(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number < MOST).ok_or_else(|| format!("'{text}' is no parameter's number"))
}

fn pointer(text: &str) -> Result<Pointer, String> {
    let (number, offset) = text.split_once('.').unwrap_or((text, "0"));
    let offset = offset.parse().ok().filter(|offset: &usize| offset.is_multiple_of(8) && *offset < 4096);
    Ok(Pointer { param: param(number)?, offset: offset.ok_or_else(|| format!("'{text}' is no pointer's place"))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "ids=2 row=7 stride=11 step=18 tokens=1 weights=0,3.8 beside=3,3.16",
            "ids=2 row=8 stride=11 step=15 tokens=block.y weights=0",
        ] {
            let layout: ExpertLayout = text.parse().expect("a layout");
            assert_eq!(layout.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| text.parse::<ExpertLayout>().expect_err(text);
        let whole = "ids=2 row=7 stride=11 step=18 tokens=1 weights=0";
        assert!(wrong("").contains("tokens"));
        assert!(wrong(&whole.replace("ids=2", "ids=x")).contains("'x'"));
        assert!(wrong(&whole.replace("tokens=1", "tokens=2")).contains("grid.z"));
        assert!(wrong(&whole.replace("weights=0", "weights=0.4")).contains("0.4"));
        assert!(wrong(&format!("{whole} more=1")).contains("more"));
        assert!(wrong(&whole.replace("stride=11", "stride=64")).contains("64"));
    }
}
