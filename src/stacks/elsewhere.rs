//! Systems on which no stack is taken.

use std::io;

use super::{Capture, Captures, Outcome, Purpose, Resolved, Target};
use crate::cells::Subject;

#[derive(Debug)]
pub(crate) struct Capturer;

#[derive(Debug)]
pub(crate) struct Resolver;

/// Why no stack is taken in this build.
pub(crate) fn unsupported() -> Option<&'static str> {
    if cfg!(feature = "stacks") {
        Some("stacks are taken on x86_64 Linux with glibc only")
    } else {
        Some("tower-stall was built without its feature `stacks`")
    }
}

pub(crate) fn stack_bounds() -> [u64; 2] {
    [0, 0]
}

impl Capturer {
    pub(crate) fn new(_: bool) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn capture(&mut self, captures: &Captures, _: Purpose, _: &Target, _: impl Fn(Subject) -> bool) -> bool {
        captures.count(Outcome::Unsupported);
        true
    }

    pub(crate) fn collect(&mut self, _: &Captures, _: impl Fn(Subject) -> bool) -> bool {
        false
    }
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn resolve(&mut self, _: &Capture) -> Option<Resolved> {
        None
    }
}
