//! What Linux tells of a thread under `/proc`. The paths are short, so that std's file functions do not allocate for them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::{Asleep, Call, Moment, Tid, Turns};

/// What a thread of this process does now. `None` when it has ended, or where the kernel does not tell.
pub(crate) fn moment(thread: Tid) -> Option<Moment> {
    with_file(thread, "syscall", parse_moment)
}

/// The scheduler's account of a thread of this process.
pub(crate) fn turns(thread: Tid) -> Option<Turns> {
    with_file(thread, "schedstat", parse_turns)
}

/// How long the CPU quota of this process's control group has kept it off the cores, read from time to time.
#[derive(Debug)]
pub(crate) struct Quota {
    stat: Option<File>,
}

// === impl Call ===

impl Call {
    pub(crate) fn name(self) -> Option<&'static str> {
        let number = usize::try_from(self.0).ok()?;
        syscalls::Sysno::new(number).map(|call| call.name())
    }

    /// Whether the first argument is a file descriptor.
    pub(crate) fn takes_descriptor(self) -> bool {
        const TAKING: [libc::c_long; 19] = [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_connect,
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_flock,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
            libc::SYS_fallocate,
        ];
        TAKING.contains(&libc::c_long::from(self.0))
    }
}

// === impl Quota ===

impl Quota {
    /// Looks the control group up, which allocates.
    pub(crate) fn of_this_process() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = groups.lines().filter_map(stat_files).flatten();
        Self { stat: files.filter_map(|file| File::open(file).ok()).find(|file| throttled(file).is_some()) }
    }

    /// The sum up to now. Zero without a quota.
    pub(crate) fn throttled(&self) -> Duration {
        self.stat.as_ref().and_then(throttled).unwrap_or_default()
    }
}

/// Where a line of `/proc/self/cgroup`, `id:controllers:path`, has the CPU's account: of the second version, or of the first.
fn stat_files(line: &str) -> Option<[String; 2]> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let mount = match controllers {
        "" => "/sys/fs/cgroup",
        _ if controllers.split(',').any(|controller| controller == "cpu") => "/sys/fs/cgroup/cpu",
        _ => return None,
    };
    // Inside a container the path may be the host's: then its own group is at the root.
    Some([format!("{mount}{path}/cpu.stat"), format!("{mount}/cpu.stat")])
}

fn throttled(file: &File) -> Option<Duration> {
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

fn with_file<T>(thread: Tid, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut path = [0; 64];
    let mut rest = &mut path[..];
    write!(rest, "/proc/self/task/{}/{name}", thread.0).ok()?;
    let left = rest.len();
    let length = path.len() - left;
    let mut text = [0; 256];
    let length = File::open(std::str::from_utf8(&path[..length]).ok()?).ok()?.read(&mut text).ok()?;
    parse(std::str::from_utf8(&text[..length]).ok()?)
}

/// `running`, or `number arguments… sp pc`, or `-1 sp pc`.
fn parse_moment(text: &str) -> Option<Moment> {
    if text.starts_with("running") {
        return Some(Moment::Running);
    }
    let mut words = text.split_ascii_whitespace();
    let call = Call(words.next()?.parse().ok()?);
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let argument = hex(words.clone().next()?)?;
    let mut last = words.rev();
    let (pc, sp) = (hex(last.next()?)?, hex(last.next()?)?);
    Some(Moment::Asleep(Asleep { call, argument, sp, pc }))
}

/// `nanoseconds on a core, nanoseconds in the queue, turns`.
fn parse_turns(text: &str) -> Option<Turns> {
    let mut words = text.split_ascii_whitespace().skip(1).map(str::parse);
    let (waited, turns) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(Turns { waited: Duration::from_nanos(waited), turns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_a_moment() {
        assert_eq!(parse_moment("running\n"), Some(Moment::Running));
        let asleep = "230 0x1 0x0 0x7ffd 0x0 0x0 0x0 0x7ffa59d6fb60 0x7ffa59e582ad\n";
        let expected = Asleep { call: Call(230), argument: 1, sp: 0x7ffa_59d6_fb60, pc: 0x7ffa_59e5_82ad };
        assert_eq!(parse_moment(asleep), Some(Moment::Asleep(expected)));
        let fault = Asleep { call: Call(-1), argument: 0x10, sp: 0x10, pc: 0x20 };
        assert_eq!(parse_moment("-1 0x10 0x20\n"), Some(Moment::Asleep(fault)));
        assert_eq!(parse_moment(""), None);
        assert_eq!(parse_moment("12"), None);
    }

    #[test]
    fn the_scheduler_s_account() {
        let expected = Turns { waited: Duration::from_nanos(65_257), turns: 7 };
        assert_eq!(parse_turns("291344 65257 7\n"), Some(expected));
        assert_eq!(parse_turns("291344"), None);
    }

    #[test]
    fn both_versions_of_a_quota_s_account() {
        let second = "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500\n";
        assert_eq!(parse_throttled(second), Some(Duration::from_micros(1_500)));
        assert_eq!(parse_throttled("nr_periods 0\nthrottled_time 42\n"), Some(Duration::from_nanos(42)));
        assert_eq!(parse_throttled("usage_usec 5\n"), None);
        assert_eq!(stat_files("0::/app.slice").unwrap()[0], "/sys/fs/cgroup/app.slice/cpu.stat");
        assert_eq!(stat_files("3:cpu,cpuacct:/x").unwrap()[0], "/sys/fs/cgroup/cpu/x/cpu.stat");
        assert_eq!(stat_files("4:memory:/x"), None);
    }

    #[test]
    fn a_sleeper_is_asleep_in_its_call() {
        let (tell, told) = std::sync::mpsc::channel();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(Tid::current()).unwrap();
            held.recv().unwrap_err();
        });
        let sleeper = told.recv().unwrap();
        let asleep = loop {
            if let Some(Moment::Asleep(asleep)) = moment(sleeper) {
                break asleep;
            }
        };
        assert_eq!(asleep.call.name(), Some("futex"));
        assert!(!asleep.call.takes_descriptor());
        // Who asks about itself is asleep in the very call that asks.
        let own = moment(Tid::current());
        assert!(matches!(own, Some(Moment::Asleep(asleep)) if asleep.call.name() == Some("read")), "{own:?}");
        assert!(turns(sleeper).unwrap().turns >= 1);
        let before = super::super::own_cpu_time().unwrap();
        assert!(super::super::cpu_time(Tid::current()).unwrap() >= before);
        drop(hold);
        thread.join().unwrap();
        assert_eq!(moment(sleeper), None, "a thread that has ended does nothing");
    }
}
