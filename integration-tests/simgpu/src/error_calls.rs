//! The driver's functions on its own error codes.

use crate::edge::{Out, Text, driver};
use crate::errors::{Error, describe};

driver! {
    [any] "cuGetErrorName" 6000 cuGetErrorName(_call, error: u32, name: Out<Text>) {
        name.opt(describe(error).map_or(Text::NULL, |(name, _)| Text::of(name)));
        describe(error).map(drop).ok_or(Error::INVALID_VALUE)
    }

    [any] "cuGetErrorString" 6000 cuGetErrorString(_call, error: u32, text: Out<Text>) {
        text.opt(describe(error).map_or(Text::NULL, |(_, text)| Text::of(text)));
        describe(error).map(drop).ok_or(Error::INVALID_VALUE)
    }
}
