//! Platforms on which no stack is captured.

use std::io;

use super::{
    Capture, CaptureFailure, CapturePool, CaptureRequest, CaptureResult, SymbolizedStack,
    TargetThread,
};
use crate::shard::PollId;

#[derive(Debug)]
pub(crate) struct StackSampler;

#[derive(Debug)]
pub(crate) struct Symbolizer;

/// Returns why no stack is captured in this build.
pub(crate) fn unsupported(_: bool) -> Option<&'static str> {
    if cfg!(feature = "stacks") {
        Some("no stack: stacks are captured only on x86_64 and aarch64 Linux with glibc")
    } else {
        Some("no stack: tower-stall was built without the feature `stacks`")
    }
}

impl StackSampler {
    pub(crate) fn new(_: bool) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn capture(
        &mut self,
        _: &CapturePool,
        _: CaptureRequest,
        _: &TargetThread,
        _: impl Fn(PollId) -> bool,
    ) -> Option<CaptureResult> {
        Some(Err(CaptureFailure::Unsupported))
    }

    pub(crate) fn refusal(&self) -> CaptureFailure {
        CaptureFailure::Unsupported
    }

    pub(crate) fn collect(
        &mut self,
        _: &CapturePool,
        _: impl Fn(PollId) -> bool,
    ) -> Option<(PollId, CaptureResult)> {
        None
    }
}

impl Symbolizer {
    pub(crate) fn new(_: u64) -> Self {
        Self
    }

    pub(crate) fn symbolize(&mut self, _: &Capture) -> Result<SymbolizedStack, CaptureFailure> {
        Err(CaptureFailure::Unsupported)
    }
}
