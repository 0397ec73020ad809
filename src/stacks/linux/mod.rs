//! Stacks on Linux: on x86_64 with glibc or musl, on aarch64 with glibc.

mod arch;
mod cfi;
mod debug_file;
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
mod refusal;
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

/// Returns why no stack can be captured in this process, if none can. With `signals`, it need not be
/// known where a thread is blocked.
pub(crate) fn unsupported(signals: bool) -> Option<&'static str> {
    let tid = Tid::current();
    let can_read_memory = || {
        let mut byte = [0];
        os::read_process_memory(std::ptr::from_ref(&tid).addr() as u64, &mut byte) == 1
    };
    os::open_own_memory();
    if !can_read_memory() {
        Some("no stack: neither process_vm_readv nor /proc/self/mem is permitted")
    } else if !signals && !os::tells_where_blocked(tid) {
        Some(
            "no stack: /proc/self/task/*/syscall is not readable; `stack_signals(true)` does \
             without it",
        )
    } else {
        None
    }
}
