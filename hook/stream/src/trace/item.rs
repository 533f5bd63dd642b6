//! What a trace is made of.

use super::clock::Base;
use crate::ring::Key;
use greenboost_cuda::abi::{CUevent, CUstream};
use std::sync::Arc;

/// How a launch came by a weight's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was there, or on its way and the stream had seen it.
    There,
    /// It was not complete yet when the launch was made.
    Late,
    /// It had to be asked for.
    Missing,
}

/// A copy that a launch reads.
#[derive(Debug)]
pub struct Read {
    pub key: Key,
    pub name: String,
    pub offset: u64,
    pub found: Found,
}

#[derive(Debug)]
pub enum What {
    Copy { key: Key, name: String, offset: u64, bytes: u64 },
    Launch { kernel: Arc<str>, reads: Vec<Read> },
    Graph,
}

/// Something between two marks of a stream.
#[derive(Debug)]
pub struct Item {
    pub base: Arc<Base>,
    pub stream: CUstream,
    /// In front of what its stream waits for, if it does.
    pub waits: Option<CUevent>,
    pub begins: CUevent,
    pub ends: CUevent,
    pub what: What,
}
