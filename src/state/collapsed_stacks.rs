//! The time of stalls by stack, in the format that flame-graph tools read:
//! `route;outer;inner milliseconds`.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::stack_samples::{StackSample, weighted};
use crate::os::Clock;
use crate::stall::Frame;

/// Milliseconds by stack.
#[derive(Clone, Debug, Default)]
pub(crate) struct CollapsedStacks(HashMap<String, f64>);

impl CollapsedStacks {
    /// The number of distinct stacks; the time of further ones is added to one line per route.
    const MAX_STACKS: usize = 4096;

    /// Adds the samples of one poll that lasted for `ticks`.
    pub(crate) fn add_all(
        &mut self,
        method: &str,
        route: &str,
        samples: &[StackSample],
        ticks: u64,
        clock: &Clock,
    ) {
        for (sample, ticks) in weighted(samples, ticks) {
            self.add(method, route, &sample.frames, clock.duration(ticks).as_secs_f64() * 1e3);
        }
    }

    fn add(&mut self, method: &str, route: &str, frames: &[Frame], millis: f64) {
        let stack = line(method, route, frames);
        let is_known = self.0.contains_key(&stack);
        let stack = if is_known || self.0.len() < Self::MAX_STACKS {
            stack
        } else {
            format!("{};(more)", line(method, route, &[]))
        };
        *self.0.entry(stack).or_default() += millis;
    }

    /// Returns the lines, sorted by stack.
    pub(crate) fn text(&self) -> String {
        let mut stacks: Vec<_> = self.0.iter().collect();
        stacks.sort_by_key(|(stack, _)| *stack);
        stacks.into_iter().fold(String::new(), |mut text, (stack, millis)| {
            let _ = writeln!(text, "{stack} {:.0}", millis.ceil());
            text
        })
    }
}

fn line(method: &str, route: &str, frames: &[Frame]) -> String {
    let mut line = escape(&format!("{method} {route}"));
    for frame in frames.iter().rev() {
        line.push(';');
        line.push_str(&escape(&frame.to_string()));
    }
    line
}

/// Replaces what would end a frame, a semicolon, or the stack, a line break.
fn escape(text: &str) -> String {
    text.replace([';', '\n', '\r'], ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str) -> Frame {
        Frame { function: function.into(), is_application: true, ..Frame::default() }
    }

    #[test]
    fn equal_stacks_share_a_line_that_starts_with_the_outermost_call() {
        let mut collapsed = CollapsedStacks::default();
        let frames = [frame("sleep"), frame("report")];
        collapsed.add("GET", "/report", &frames, 20.0);
        collapsed.add("GET", "/report", &frames, 30.5);
        collapsed.add("GET", "/a", &[frame("f<[u8; 4]>")], 1.0);
        assert_eq!(collapsed.text(), "GET /a;f<[u8, 4]> 1\nGET /report;report;sleep 51\n");
    }

    #[test]
    fn the_number_of_stacks_is_bounded() {
        let mut collapsed = CollapsedStacks::default();
        for number in 0..10_000 {
            collapsed.add("GET", "/report", &[frame(&number.to_string())], 1.0);
        }
        assert_eq!(collapsed.0.len(), CollapsedStacks::MAX_STACKS + 1);
        assert!(collapsed.text().contains("GET /report;(more) 5904\n"));
    }
}
