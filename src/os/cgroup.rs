//! The CPU quota of the process's control group.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The `cpu.stat` of the control group of this process.
#[derive(Debug)]
pub(crate) struct CgroupCpuStat {
    file: Option<File>,
}

impl CgroupCpuStat {
    /// Looks up the control group. Allocates.
    pub(crate) fn of_this_process() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = groups.lines().filter_map(stat_paths).flatten();
        let mut files = files.filter_map(|path| File::open(path).ok());
        Self { file: files.find(|file| read_throttled(file).is_some()) }
    }

    /// Returns for how long the quota has kept the process off the CPU, in total. Zero without a
    /// quota.
    pub(crate) fn throttled(&self) -> Duration {
        self.file.as_ref().and_then(read_throttled).unwrap_or_default()
    }
}

/// Returns the candidates for `cpu.stat`, of cgroup v2 or v1, for a line of `/proc/self/cgroup`:
/// `id:controllers:path`.
fn stat_paths(line: &str) -> Option<[String; 2]> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let mount = match controllers {
        "" => "/sys/fs/cgroup",
        _ if controllers.split(',').any(|controller| controller == "cpu") => "/sys/fs/cgroup/cpu",
        _ => return None,
    };
    // Inside a container the path may be the host's; then the container's own group is at the root.
    Some([format!("{mount}{path}/cpu.stat"), format!("{mount}/cpu.stat")])
}

fn read_throttled(file: &File) -> Option<Duration> {
    let mut text = [0; 1024];
    let length = file.read_at(&mut text, 0).ok()?;
    parse_throttled(std::str::from_utf8(&text[..length]).ok()?)
}

fn parse_throttled(text: &str) -> Option<Duration> {
    text.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", micros) => micros.trim().parse().ok().map(Duration::from_micros),
        ("throttled_time", nanos) => nanos.trim().parse().ok().map(Duration::from_nanos),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn throttled_time_is_read_from_both_cgroup_versions() {
        let v2 = "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500\n";
        assert_eq!(parse_throttled(v2), Some(Duration::from_micros(1_500)));
        let v1 = "nr_periods 0\nthrottled_time 42\n";
        assert_eq!(parse_throttled(v1), Some(Duration::from_nanos(42)));
        assert_eq!(parse_throttled("usage_usec 5\n"), None);
    }

    #[test]
    fn stat_paths_follow_the_cgroup_version() {
        let v2 = stat_paths("0::/app.slice").unwrap();
        assert_eq!(v2[0], "/sys/fs/cgroup/app.slice/cpu.stat");
        let v1 = stat_paths("3:cpu,cpuacct:/x").unwrap();
        assert_eq!(v1[0], "/sys/fs/cgroup/cpu/x/cpu.stat");
        assert_eq!(stat_paths("4:memory:/x"), None);
    }

    proptest! {
        #[test]
        fn property_any_text_is_parsed_or_refused(text in "(.|\n)*", line in ".*") {
            let _ = (parse_throttled(&text), stat_paths(&line));
        }

        #[test]
        fn property_any_throttled_time_is_read(micros: u64, before in "[a-z_]{0,9} [0-9]{1,9}\n") {
            let text = format!("{before}throttled_usec {micros}\n");
            prop_assert_eq!(parse_throttled(&text), Some(Duration::from_micros(micros)));
        }
    }
}
