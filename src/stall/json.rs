//! The JSON shape of a stall. It is part of the public API, and documented at [`Stall`].

use serde::{Serialize, Serializer};

use super::{Cause, Delayed, Frame, Location, Phase, Stall};

#[derive(Serialize)]
struct Shape<'a> {
    method: &'a str,
    route: &'a str,
    phase: Phase,
    duration_seconds: f64,
    cpu_seconds: f64,
    off_cpu_seconds: f64,
    run_queue_seconds: f64,
    stopped_seconds: f64,
    threshold_seconds: f64,
    in_progress: bool,
    cause: Cause,
    syscall: Option<&'a str>,
    detail: Option<&'a str>,
    worker: Option<usize>,
    in_flight: usize,
    io_starved: bool,
    rescued: bool,
    delayed: Vec<DelayedShape<'a>>,
    delay_caused_seconds: f64,
    location: Option<&'a Location>,
    frames: &'a [Frame],
    missing: Option<&'a str>,
}

#[derive(Serialize)]
struct DelayedShape<'a> {
    method: &'a str,
    route: &'a str,
    requests: u64,
    total_seconds: f64,
    longest_seconds: f64,
}

impl<'a> DelayedShape<'a> {
    fn new(delayed: &'a Delayed) -> Self {
        Self {
            method: delayed.method(),
            route: delayed.route(),
            requests: delayed.requests(),
            total_seconds: delayed.total().as_secs_f64(),
            longest_seconds: delayed.longest().as_secs_f64(),
        }
    }
}

impl Serialize for Stall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = Shape {
            method: self.method(),
            route: self.route(),
            phase: self.phase(),
            duration_seconds: self.duration().as_secs_f64(),
            cpu_seconds: self.cpu_time().as_secs_f64(),
            off_cpu_seconds: self.off_cpu_time().as_secs_f64(),
            run_queue_seconds: self.run_queue_time().as_secs_f64(),
            stopped_seconds: self.stopped_time().as_secs_f64(),
            threshold_seconds: self.threshold().as_secs_f64(),
            in_progress: self.is_in_progress(),
            cause: self.cause(),
            syscall: self.syscall(),
            detail: self.detail(),
            worker: self.worker(),
            in_flight: self.in_flight(),
            io_starved: self.is_io_starved(),
            rescued: self.is_rescued(),
            delayed: self.delayed().iter().map(DelayedShape::new).collect(),
            delay_caused_seconds: self.delay_caused().as_secs_f64(),
            location: self.location(),
            frames: self.frames(),
            missing: self.missing(),
        };
        shape.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CaptureFailure, Missing};
    use super::*;

    #[test]
    fn the_shape_is_the_documented_one() {
        let location = Some(Location { file: "src/billing.rs".into(), line: 87 });
        let frame = Frame {
            function: "invoices".into(),
            location,
            is_application: true,
            ..Frame::default()
        };
        let missing = Missing::Capture(CaptureFailure::NoLines);
        let stall = Stall { missing: Some(missing), ..Stall::for_tests([frame]) };
        let expected = serde_json::json!({
            "method": "GET",
            "route": "/report",
            "phase": "handler",
            "duration_seconds": 0.2124,
            "cpu_seconds": 0.0004,
            "off_cpu_seconds": 0.212,
            "run_queue_seconds": 0.0,
            "stopped_seconds": 0.0,
            "threshold_seconds": 0.025,
            "in_progress": false,
            "cause": "unknown",
            "syscall": null,
            "detail": null,
            "worker": 1,
            "in_flight": 37,
            "io_starved": true,
            "rescued": true,
            "delayed": [
                {
                    "method": "GET",
                    "route": "/users/{id}",
                    "requests": 9,
                    "total_seconds": 1.5,
                    "longest_seconds": 0.205,
                },
                {
                    "method": "GET",
                    "route": "/health",
                    "requests": 5,
                    "total_seconds": 0.4,
                    "longest_seconds": 0.18,
                },
            ],
            "delay_caused_seconds": 1.9,
            "location": { "file": "src/billing.rs", "line": 87 },
            "frames": [{
                "function": "invoices",
                "location": { "file": "src/billing.rs", "line": 87 },
                "address": null,
                "is_application": true,
            }],
            "missing": missing.as_str(),
        });
        assert_eq!(serde_json::to_value(stall).unwrap(), expected);
    }
}
