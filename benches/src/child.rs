//! Table rows that are measured in a child process.

use std::process::Command;

use crate::Result;

/// Runs this program again as `child-{name} {argument}` and returns the cells that it printed.
pub fn row(name: &str, argument: usize) -> Result<Vec<String>> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args([&format!("child-{name}"), &argument.to_string()]).output()?;
    let stdout = String::from_utf8(output.stdout)?;
    let no_row = || format!("{name} {argument}: {}", String::from_utf8_lossy(&output.stderr));
    let row = stdout.lines().find_map(|line| line.strip_prefix("ROW ")).ok_or_else(no_row)?;
    Ok(row.split('\t').map(str::to_owned).collect())
}

/// Prints the cells that [`row`] returns in the parent process.
pub fn print_row(cells: &[String]) {
    println!("ROW {}", cells.join("\t"));
}
