//! A stall as text: on one line with `{}`, as a report of several lines with `{:#}`.

use std::fmt;
use std::time::Duration;

use super::{Cause, Delayed, Frame, Phase, Stall};

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { self.write_report(f) } else { self.write_line(f) }
    }
}

impl Stall {
    fn write_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Headline(self), CauseText(self))?;
        if let Some(location) = self.location() {
            write!(f, " at {location}")?;
        } else if let Some(frame) = self.library_frame() {
            write!(f, " in a library: {frame}")?;
        }
        if self.is_mixed() {
            write!(f, "; {}", SplitText(self))?;
        }
        write!(f, "; {}", Others { stall: self, max_routes: 1 })?;
        match self.driver_text() {
            Some(driver) => write!(f, "; {driver}"),
            None => Ok(()),
        }
    }

    fn write_report(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  cause: {}", Headline(self), CauseText(self))?;
        if self.is_mixed() {
            write!(f, "; {}", SplitText(self))?;
        }
        if let Some(location) = self.location() {
            write!(f, "\n  at: {location}")?;
        } else if let Some(frame) = self.library_frame() {
            write!(f, "\n  in a library: {frame}")?;
        }
        write!(f, "\n  {}", Others { stall: self, max_routes: 5 })?;
        for text in self.driver_text().into_iter().chain(self.missing()) {
            write!(f, "\n  {text}")?;
        }
        self.frames.iter().try_for_each(|frame| write!(f, "\n    {frame}"))
    }

    /// Returns whether the split says more than the cause does: at least a tenth of the time was
    /// spent in another way.
    fn is_mixed(&self) -> bool {
        let main = match self.cause {
            Cause::Cpu => self.split.cpu,
            Cause::Blocked | Cause::Unknown => self.split.off_cpu,
            Cause::Preempted => self.split.run_queue,
            Cause::Paused => self.split.stopped,
        };
        main < self.duration * 9 / 10
    }

    /// Returns the outermost call of a library, if only libraries are on the stack.
    fn library_frame(&self) -> Option<&Frame> {
        let is_complete = self.missing.is_none() && self.location().is_none();
        let frames = is_complete.then(|| self.frames.iter());
        frames?.rfind(|frame| frame.location.is_some())
    }

    fn driver_text(&self) -> Option<&'static str> {
        match (self.io_starved, self.rescued) {
            (true, true) => {
                Some("the runtime's I/O driver was starved until the watchdog woke another worker")
            }
            (true, false) => Some("the runtime's I/O driver was starved"),
            (false, _) => None,
        }
    }
}

/// Which route stalled which thread, and for how long.
struct Headline<'a>(&'a Stall);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stall = self.0;
        write!(f, "{} {}", stall.method, stall.route)?;
        if stall.phase == Phase::Body {
            f.write_str(" (body)")?;
        }
        f.write_str(if stall.in_progress { " has been stalling " } else { " stalled " })?;
        match stall.worker {
            Some(worker) => write!(f, "worker {worker}")?,
            None => f.write_str("its thread")?,
        }
        write!(f, " for {} (threshold {})", Millis(stall.duration), Millis(stall.threshold))
    }
}

/// The cause, with the system call and the detail, if they are known.
struct CauseText<'a>(&'a Stall);

impl fmt::Display for CauseText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.cause.as_str())?;
        if let Some(syscall) = self.0.syscall {
            write!(f, " in `{syscall}`")?;
        }
        match &self.0.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

/// Where the time went: the parts of at least a hundredth, largest first.
struct SplitText<'a>(&'a Stall);

impl fmt::Display for SplitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TEXTS: [&str; 4] = ["on-CPU", "off-CPU", "in the run queue", "stopped"];
        let mut parts: Vec<_> = self.0.split.parts().into_iter().zip(TEXTS).collect();
        parts.retain(|(part, _)| *part >= self.0.duration / 100);
        parts.sort_by_key(|(part, _)| std::cmp::Reverse(*part));
        for (i, (part, text)) in parts.into_iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} {text}", Millis(part))?;
        }
        Ok(())
    }
}

/// The other requests: those that are known to have been delayed, or else the number in flight.
struct Others<'a> {
    stall: &'a Stall,
    /// How many of the delayed routes are named.
    max_routes: usize,
}

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delayed = self.stall.delayed();
        if delayed.is_empty() {
            return match self.stall.in_flight {
                0 => f.write_str("no other request was in flight"),
                1 => f.write_str("1 other request was in flight"),
                n => write!(f, "{n} other requests were in flight"),
            };
        }
        let requests: u64 = delayed.iter().map(Delayed::requests).sum();
        let plural = if requests == 1 { "" } else { "s" };
        let total = Elapsed(self.stall.delay_caused());
        write!(f, "delayed {requests} request{plural} by {total} in total")?;
        for (index, of_route) in delayed.iter().take(self.max_routes).enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            let Delayed { method, route, requests, longest, .. } = of_route;
            write!(f, "{separator}{method} {route} {requests} (worst {})", Elapsed(*longest))?;
        }
        match delayed.len().saturating_sub(self.max_routes) {
            0 => Ok(()),
            1 => f.write_str(", and 1 other route"),
            n => write!(f, ", and {n} other routes"),
        }
    }
}

/// Seconds with one digit, or milliseconds if it is less than one.
struct Elapsed(Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            duration if duration < Duration::from_secs(1) => Millis(duration).fmt(f),
            duration => write!(f, "{:.1} s", duration.as_secs_f64()),
        }
    }
}

/// Milliseconds with as many digits as a reader needs.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        let digits = if millis < 10.0 { 1 } else { 0 };
        write!(f, "{millis:.digits$} ms")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{CaptureFailure, Location, Missing, TimeSplit};
    use super::*;

    fn frame(function: &str, location: Option<(&str, u32)>, is_application: bool) -> Frame {
        let location = location.map(|(file, line)| Location { file: file.into(), line });
        Frame { function: function.into(), location, is_application, ..Frame::default() }
    }

    /// Creates the stall of the documentation.
    fn documented() -> Stall {
        Stall {
            cause: Cause::Blocked,
            syscall: Some("recvfrom"),
            detail: Some("socket to 10.0.0.7:5432".into()),
            ..Stall::for_tests([
                frame("recv", None, false),
                frame("std::net::tcp::TcpStream::read", Some(("std/src/net/tcp.rs", 681)), false),
                frame("app::billing::invoices", Some(("src/billing.rs", 87)), true),
            ])
        }
    }

    /// Returns the text between the first two markers of a file.
    fn block<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
        let (_, rest) = text.split_once(begin).unwrap();
        rest.split_once(end).unwrap().0
    }

    #[test]
    fn the_documented_report_is_what_is_displayed() {
        let report = format!("{:#}", documented());
        for document in [
            include_str!("../../README.md"),
            include_str!("../docs/front_report.md"),
            include_str!("../docs/reports.md"),
        ] {
            assert_eq!(block(document, "<!-- report -->\n```text\n", "\n```"), report);
        }
    }

    #[test]
    fn a_line_names_route_duration_cause_and_location() {
        let expected = "GET /report stalled worker 1 for 212 ms (threshold 25 ms): blocked in \
                        `recvfrom` (socket to 10.0.0.7:5432) at src/billing.rs:87; delayed \
                        14 requests by 1.9 s in total: GET /users/{id} 9 (worst 205 ms), and 1 \
                        other route; the runtime's I/O driver was starved until the watchdog woke \
                        another worker";
        assert_eq!(documented().to_string(), expected);
        let guide = include_str!("../docs/reports.md");
        assert_eq!(block(guide, "<!-- line -->\n```text\n", "\n```"), expected);
    }

    #[test]
    fn the_split_is_displayed_if_it_says_more_than_the_cause() {
        let millis = Duration::from_millis;
        let stall = |cpu, off_cpu, run_queue, stopped| {
            let (cpu, off_cpu) = (millis(cpu), millis(off_cpu));
            let (run_queue, stopped) = (millis(run_queue), millis(stopped));
            let split = TimeSplit { cpu, off_cpu, run_queue, stopped };
            let duration = split.own() + split.host();
            let detail = Some("throttled by the control group's CPU quota".into());
            Stall { cause: Cause::Cpu, syscall: None, detail, duration, split, ..documented() }
        };
        let throttled = stall(220, 0, 780, 0);
        let documented =
            block(include_str!("../docs/reports.md"), "<!-- split -->\n```text\n", "\n```");
        let report = format!("{throttled:#}");
        assert!(report.starts_with(&format!("{documented}\n")), "{report}");
        let text =
            "CPU quota) at src/billing.rs:87; 780 ms in the run queue, 220 ms on-CPU; delayed";
        assert!(throttled.to_string().contains(text), "{throttled}");
        let stopped = stall(400, 0, 0, 5_000).to_string();
        assert!(stopped.contains("; 5000 ms stopped, 400 ms on-CPU; "), "{stopped}");
        let text = "; 500 ms stopped, 300 ms off-CPU, 200 ms on-CPU\n";
        assert!(format!("{:#}", stall(200, 300, 5, 500)).contains(text));
        assert!(!stall(950, 50, 0, 0).to_string().contains("on-CPU"));
    }

    #[test]
    fn a_library_that_is_alone_on_the_stack_is_named() {
        let stall = Stall {
            cause: Cause::Cpu,
            in_flight: 1,
            delayed: Arc::default(),
            ..Stall::for_tests([
                frame("BrotliEncoder::compress", Some(("brotli-8.0.0/src/enc.rs", 7)), false),
                frame("poll_frame", Some(("tower-http-0.7.1/src/compression/body.rs", 87)), false),
                frame("(cut off)", None, false),
            ])
        };
        let library = "poll_frame at tower-http-0.7.1/src/compression/body.rs:87";
        assert_eq!(stall.location(), None);
        let line = format!("cpu in a library: {library}; ");
        assert!(stall.to_string().contains(&line), "{stall}");
        assert!(format!("{stall:#}").contains(&format!("\n  in a library: {library}\n")));
        let stripped = Missing::Capture(CaptureFailure::NoLines);
        let stall = Stall { missing: Some(stripped), ..stall };
        assert!(!stall.to_string().contains("library"), "{stall}");
    }

    #[test]
    fn a_stall_in_progress_off_the_workers_says_so() {
        let stall = Stall {
            in_progress: true,
            io_starved: false,
            in_flight: 0,
            delayed: Arc::default(),
            worker: None,
            phase: Phase::Body,
            missing: Some(Missing::Capture(CaptureFailure::Running)),
            frames: Arc::from([]),
            ..documented()
        };
        let expected = "GET /report (body) has been stalling its thread for 212 ms \
                        (threshold 25 ms)\n  \
                        cause: blocked in `recvfrom` (socket to 10.0.0.7:5432)\n  \
                        no other request was in flight\n  \
                        no stack: the thread was running; enable `stack_signals(true)` to sample \
                        running threads";
        assert_eq!(format!("{stall:#}"), expected);
    }
}
