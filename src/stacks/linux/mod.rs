//! Stacks on x86_64 Linux with glibc.

mod cfi;
mod elf;
mod exports;
mod interrupted_syscall;
mod memory;
mod missing;
mod modules;
mod names;
mod origin;
mod paths;
mod program;
mod prologue;
mod refusal;
mod return_address;
mod sampler;
mod signal;
mod symbol;
mod symbolizer;
mod symbols;
#[cfg(all(test, not(tower_stall_loom)))]
mod test_symbols;
mod thread_role;
mod tokio_frame;
mod trim;
mod unwind;

pub(crate) use self::sampler::StackSampler;
pub(crate) use self::symbolizer::Symbolizer;

use crate::os::{self, Tid};

/// Returns why no stack can be captured in this process, if none can.
pub(crate) fn unsupported() -> Option<&'static str> {
    let tid = Tid::current();
    let can_read_memory = {
        let mut byte = [0];
        os::read_process_memory(std::ptr::from_ref(&tid).addr() as u64, &mut byte) == 1
    };
    if os::thread_state(tid).is_none() {
        Some("no stack: /proc/self/task/*/syscall is not readable")
    } else if os::sched_stat(tid).is_none() {
        Some("no stack: /proc/self/task/*/schedstat is not readable")
    } else if !can_read_memory {
        Some("no stack: process_vm_readv is not permitted")
    } else {
        None
    }
}
