//! A summary of what the layer reported.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tower_stall::Stall;

use super::expectation::POOL_DELAY;
use super::experiment::Outcome;

/// Displays what the layer reported, with stalls of the same kind added up.
#[derive(Debug)]
pub struct Reported<'a>(pub &'a Outcome);

impl Reported<'_> {
    fn parts(&self) -> Vec<String> {
        let Outcome { stalls, handed_off, pool_delay, rescues, .. } = self.0;
        let mut kinds = BTreeMap::<String, Vec<&Stall>>::new();
        for stall in stalls {
            kinds.entry(kind(stall)).or_default().push(stall);
        }
        let stalls = kinds.iter().map(|(kind, stalls)| format!("{kind}: {}", sum(stalls)));
        let pool_delay = (*pool_delay >= POOL_DELAY)
            .then(|| format!("blocking-pool delay {:.2} s", pool_delay.as_secs_f64()));
        let counts = [
            (*handed_off > 0).then(|| count(*handed_off, "poll handed off", "polls handed off")),
            pool_delay,
            (*rescues > 0).then(|| count(*rescues, "rescue", "rescues")),
        ];
        stalls.chain(counts.into_iter().flatten()).collect()
    }
}

impl fmt::Display for Reported<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts();
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

fn kind(stall: &Stall) -> String {
    let mut text = format!("{} {} {}", stall.method(), stall.route(), stall.cause().as_str());
    if let Some(syscall) = stall.syscall() {
        text += &format!(" in {syscall}");
    }
    if let Some(detail) = stall.detail() {
        text += &format!(" ({detail})");
    }
    if let Some(location) = stall.location() {
        let file = location.file().rsplit('/').next().unwrap_or_default();
        text += &format!(" at {file}:{}", location.line());
    }
    if stall.is_in_progress() {
        text += ", in progress";
    }
    text
}

fn sum(stalls: &[&Stall]) -> String {
    let total: Duration = stalls.iter().map(|stall| stall.duration()).sum();
    let starved = stalls.iter().filter(|stall| stall.is_io_starved()).count();
    let number = count(stalls.len() as u64, "stall", "stalls");
    let mut text = format!("{number}, {:.2} s", total.as_secs_f64());
    if starved > 0 {
        text += &format!(", I/O driver starved in {starved}");
    }
    text
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
