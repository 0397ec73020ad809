//! Child processes, for tests that count threads or install a recorder.

use std::process::Command;

const CHILD: &str = "TOWER_STALL_TEST_CHILD";

/// Runs the body of the calling test in a child process.
///
/// The child is this test binary again, which runs only the calling test. Its name is the path of
/// the function that `body` is defined in.
#[track_caller]
#[allow(clippy::print_stdout)]
pub(crate) fn in_own_process<F: FnOnce()>(body: F) {
    if is_child() {
        return body();
    }
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = path.split_once("::").unwrap();
    let output = child_command(test).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    // A name that no test has would pass, too.
    assert!(stdout.contains("test result: ok. 1 passed"), "{test} did not run: {stdout}");
    // Some tests print what they have measured.
    print!("{stdout}");
}

/// Returns whether this is the child process of a test.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Returns the command that runs one test of this binary in a child process.
pub(crate) fn child_command(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1");
    command
}
