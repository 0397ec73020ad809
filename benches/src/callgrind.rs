//! Instruction counts by callgrind. They are reproducible where nothing but the request runs.
//!
//! Callgrind does not see the vDSO, where the OS clock is read, and counts the few instructions
//! around a system call instead. `single_step` includes the vDSO.

use std::process::Command;
use std::task::Context;

use crate::Result;
use crate::benchmark::Benchmark;
use crate::executor;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::Workload;

const REQUESTS: usize = 200;
const WARM_UP: usize = 300;

/// Returns the instructions per request.
pub fn count(variant: Variant, workload: Workload) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg("--toggle-collect=*benchmark::Benchmark::run").arg(std::env::current_exe()?);
    let (variant, workload) = (serde_json::to_string(&variant)?, serde_json::to_string(&workload)?);
    command.args(["child-callgrind", &variant, &workload, &REQUESTS.to_string()]);
    // The environment is on the stack: its size would shift every frame.
    let output = command.env_clear().output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : "));
    let (_, instructions) = collected.ok_or_else(|| stderr.to_string())?;
    Ok(instructions.trim().replace(',', "").parse::<f64>()? / REQUESTS as f64)
}

/// Runs in the child process, under callgrind or another profiler.
pub fn child(variant: &str, workload: &str, requests: usize) {
    let variant = serde_json::from_str(variant).expect("a variant");
    let workload = serde_json::from_str(workload).expect("a workload");
    let recorders = Recorders::install();
    let mut benchmark = Benchmark::new(variant, workload, &recorders);
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    benchmark.warm_up(WARM_UP, &mut cx);
    for _ in 0..requests {
        let request = benchmark.prepare();
        benchmark.run(request, &mut cx);
    }
}
