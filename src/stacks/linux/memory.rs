//! Reads memory of this process through the kernel: if a library has just been unloaded, there is
//! less to read, but no fault.

use std::ops::Range;

use object::pod::bytes_of_slice_mut;

use crate::os;

/// Reads the `N` bytes at an address.
pub(super) fn array<const N: usize>(address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (os::read_process_memory(address, &mut bytes) == N).then_some(bytes)
}

/// Copies all bytes of a range.
pub(super) fn copy(range: Range<u64>) -> Option<Vec<u8>> {
    let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    let mut bytes = vec![0; len];
    (os::read_process_memory(range.start, &mut bytes) == len).then_some(bytes)
}

/// Copies `len` bytes, a multiple of eight, to memory that is aligned for words.
pub(super) fn words(start: u64, len: usize) -> Option<Vec<u64>> {
    let mut words = vec![0; len / size_of::<u64>()];
    (os::read_process_memory(start, bytes_of_slice_mut(&mut words)) == len).then_some(words)
}
