//! Instructions, counted by callgrind: they repeat, to the last one where nothing but the request runs.
//!
//! What callgrind does not see is the vDSO, where the OS clock is read: there it counts the few instructions around a system call
//! instead. `steps` sees it, and the tables have both.

use std::process::Command;

use crate::load::{FRAMES, WAITS, Work};
use crate::page::{self, Result, Table};
use crate::steps;
use crate::variants::Variant;

const REQUESTS: usize = 200;

/// Instructions of one request, as callgrind counts them.
pub fn count(variant: Variant, work: Work) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg("--toggle-collect=*subject::Subject::run").arg(std::env::current_exe()?);
    command.args(["child-loop", &serde_json::to_string(&variant)?, &serde_json::to_string(&work)?]);
    // The same environment for everybody, as it moves the stack.
    let output = command.arg(REQUESTS.to_string()).env_clear().output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")).ok_or_else(|| told.to_string())?;
    Ok(collected.1.trim().replace(',', "").parse::<f64>()? / REQUESTS as f64)
}

/// What tower-stall costs over `identity`: one request, and each further poll.
pub fn own() -> Result<[f64; 2]> {
    let over = |work| -> Result<f64> { Ok(count(Variant::TowerStall, work)? - count(Variant::Identity, work)?) };
    let (ready, waits) = (over(Work::Ready)?, over(Work::Waits)?);
    Ok([ready, (waits - ready) / WAITS as f64])
}

pub fn part() -> Result<()> {
    let columns = [
        "",
        "ready",
        "over `identity`",
        "each further poll, over `identity`",
        "each frame of a stream, over `identity`",
        "vDSO counted: ready, over `identity`",
        "vDSO counted: each further poll",
    ];
    let mut table = Table::new(&columns);
    let seen = |variant| -> Result<[f64; 5]> {
        let [ready, waits, stream] = [Work::Ready, Work::Waits, Work::Stream].map(|work| count(variant, work));
        let stepped = [Work::Ready, Work::Waits].map(|work| steps::count(variant, work) as f64);
        Ok([ready?, waits?, stream?, stepped[0], stepped[1]])
    };
    let base = seen(Variant::Identity)?;
    for variant in Variant::ALL {
        let own = seen(variant)?;
        let over: Vec<f64> = own.iter().zip(base).map(|(own, base)| own - base).collect();
        let each = |all: f64, one: f64, times: usize| format!("{:+.0}", (all - one) / times as f64);
        table.row(&[
            variant.name().to_owned(),
            format!("{:.0}", own[0]),
            format!("{:+.0}", over[0]),
            each(over[1], over[0], WAITS),
            each(over[2], over[0], FRAMES - 1),
            format!("{:+.0}", over[3]),
            each(over[4], over[3], WAITS),
        ]);
    }
    page::write("instructions", &table.to_string())
}

/// Fails where tower-stall has come to cost 3 % more than is on record.
pub fn guard(renew: bool) -> Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("record.txt");
    let now = own()?;
    let names = ["request", "poll"];
    let told: Vec<_> = names.iter().zip(now).map(|(name, now)| format!("{name} {now:.0}")).collect();
    let page = std::fs::read_to_string(&path)?;
    let comment: Vec<_> = page.lines().filter(|line| line.starts_with('#')).collect();
    if renew {
        std::fs::write(&path, format!("{}\n{}\n", comment.join("\n"), told.join("\n")))?;
        return Ok(());
    }
    println!("instructions over `identity`: {}", told.join(", "));
    for (name, now) in names.iter().zip(now) {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).ok_or("the record is incomplete")?;
        let then: f64 = line.trim().parse()?;
        if now > then * 1.03 {
            return Err(format!(
                "a {name} costs {now:.0} instructions; on record are {then:.0}, see {}",
                path.display()
            )
            .into());
        }
    }
    Ok(())
}
