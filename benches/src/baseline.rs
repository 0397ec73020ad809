//! Guards the instructions of a request and of a poll against the baseline in `baseline.txt`.

use std::fs;
use std::path::PathBuf;

use crate::Result;
use crate::callgrind;
use crate::variants::Variant;
use crate::workload::{WAITS, Workload};

const NAMES: [&str; 2] = ["request", "poll"];
/// How far a count may exceed the baseline.
const TOLERANCE: f64 = 0.03;

/// Fails if a count exceeds its baseline by more than the tolerance.
pub fn check() -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path)?;
    let counts = overhead()?;
    println!("instructions over `identity`: {}", lines(counts).join(", "));
    for (name, count) in NAMES.iter().zip(counts) {
        let entry = text.lines().find_map(|line| line.strip_prefix(name));
        let path = path.display();
        let baseline = entry.ok_or_else(|| format!("{path} has no entry `{name}`"))?;
        let baseline: f64 = baseline.trim().parse()?;
        if count > baseline * (1.0 + TOLERANCE) {
            return Err(format!(
                "{count:.0} instructions per {name} exceed the baseline of {baseline:.0} by more \
                 than {:.0} % (see {path})",
                TOLERANCE * 100.0
            )
            .into());
        }
    }
    Ok(())
}

/// Writes the current counts to the baseline.
pub fn update() -> Result<()> {
    let text = fs::read_to_string(path())?;
    let comment: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let lines = lines(overhead()?);
    fs::write(path(), format!("{}\n{}\n", comment.join("\n"), lines.join("\n")))?;
    Ok(())
}

/// Returns the instructions over `identity` of a ready request and of each further poll.
fn overhead() -> Result<[f64; 2]> {
    let over_identity = |workload| -> Result<f64> {
        let count = callgrind::count(Variant::TowerStall, workload)?;
        Ok(count - callgrind::count(Variant::Identity, workload)?)
    };
    let (ready, waits) = (over_identity(Workload::Ready)?, over_identity(Workload::Waits)?);
    Ok([ready, (waits - ready) / WAITS as f64])
}

fn lines(counts: [f64; 2]) -> Vec<String> {
    NAMES.iter().zip(counts).map(|(name, count)| format!("{name} {count:.0}")).collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("baseline.txt")
}
