//! Stacks on x86_64 Linux with glibc.

mod callsite;
mod capturer;
mod elf;
mod memory;
mod modules;
mod prologue;
mod resolver;
mod signal;
mod symbols;
mod syscall;
mod tables;
mod trim;
mod unwind;

pub(crate) use self::capturer::Capturer;
pub(crate) use self::resolver::Resolver;

use crate::os;

/// Why no stack can be taken, if none can.
pub(crate) fn unsupported() -> Option<&'static str> {
    let own = os::Tid::current();
    let reads = {
        let mut byte = [0];
        os::copy_memory(std::ptr::from_ref(&own).addr() as u64, &mut byte) == 1
    };
    match (os::moment(own), os::turns(own), reads) {
        (None, ..) => Some("/proc/self/task/*/syscall cannot be read here"),
        (_, None, _) => Some("/proc/self/task/*/schedstat cannot be read here"),
        (.., false) => Some("process_vm_readv is not allowed here"),
        _ => None,
    }
}

/// Where the current thread's stack lies; zeroes if that is not known.
pub(crate) fn stack_bounds() -> [u64; 2] {
    signal::StackBounds::current().map_or([0, 0], |bounds| [bounds.low, bounds.high])
}
