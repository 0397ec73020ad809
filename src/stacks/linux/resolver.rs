//! The reporter's part: from a copy to frames with names and lines.

use super::symbols::Symbols;
use super::trim;
use super::unwind::{End, Unwinder};
use crate::stacks::{Capture, Resolved};

pub(crate) struct Resolver {
    unwinder: Unwinder,
    symbols: Symbols,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self { unwinder: Unwinder::new(), symbols: Symbols::new() }
    }

    /// `None` where the copy makes no sense.
    pub(crate) fn resolve(&mut self, capture: &Capture) -> Option<Resolved> {
        let trace = self.unwinder.unwind(&capture.raw);
        if trace.end == End::Torn {
            return None;
        }
        let mut symbols = Vec::new();
        for call in &trace.calls {
            let module = self.unwinder.module_of(call.address);
            symbols.extend_from_slice(self.symbols.resolve(call.address, module));
        }
        Some(Resolved {
            handed_off: trim::is_inside_block_in_place(&symbols),
            is_on_worker: trim::is_on_worker(&symbols),
            lacks_lines: trim::lacks_lines(&symbols),
            frames: trim::trim(&symbols),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cells::Subject;
    use crate::os::{self, Moment, Tid};
    use crate::stacks::linux::Capturer;
    use crate::stacks::{Captures, Purpose, Target};

    /// The process's memory that is in use, in KiB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn what_a_stack_costs() {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mark = 0_u8;
            tell.send((Tid::current(), std::ptr::from_ref(std::hint::black_box(&mark)).addr() as u64)).unwrap();
            thread::sleep(Duration::from_secs(3_600));
        });
        let (thread, mark) = told.recv().unwrap();
        thread::sleep(Duration::from_millis(20));
        let (captures, mut capturer) = (Captures::new(true), Capturer::new(false).unwrap());
        let purpose = Purpose { of: Subject { lane: 0, start: 0 }, age: 0, mark };
        let before = resident();
        let mut resolver = Resolver::new();
        for round in ["first", "second", "third", "later", "later"] {
            let began = Instant::now();
            let (turns, moment) = (os::turns(thread).unwrap(), os::moment(thread).unwrap());
            let cpu = os::cpu_time(thread).unwrap();
            let looked = began.elapsed();
            assert_ne!(moment, Moment::Running);
            let target = Target { thread, bounds: [0, 0], moment, turns };
            let began = Instant::now();
            assert!(capturer.capture(&captures, purpose, &target, |_| true));
            let copied = began.elapsed();
            let capture = captures.next().unwrap();
            let began = Instant::now();
            let unwound = Unwinder::new().unwind(&capture.raw).calls.len();
            let (first_unwind, began) = (began.elapsed(), Instant::now());
            let resolved = resolver.resolve(&capture).unwrap();
            let took = began.elapsed();
            captures.give_back(capture.raw);
            println!(
                "{round}: look {looked:?}, copy {copied:?}, unwinding {unwound} calls without known modules \
                 {first_unwind:?}, unwinding and naming {took:?}, {} frames; {} KiB more than before; the thread ran {:?}",
                resolved.frames.len(),
                resident() - before,
                os::cpu_time(thread).unwrap() - cpu,
            );
        }
    }
}
