//! Layers written for the comparison.

pub mod from_fn;
pub mod minimal;
pub mod poll_timing;
pub mod wrap_body;
