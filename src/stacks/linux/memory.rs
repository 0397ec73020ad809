//! Memory of this process, read through the kernel: where a library has just been unloaded there is no fault, only less
//! to read.

use std::ops::Range;

use crate::os;

/// The `N` bytes at an address.
pub(super) fn array<const N: usize>(address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (os::copy_memory(address, &mut bytes) == N).then_some(bytes)
}

/// All bytes of a range.
pub(super) fn copy(range: Range<u64>) -> Option<Vec<u8>> {
    let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    let mut bytes = vec![0; len];
    (os::copy_memory(range.start, &mut bytes) == len).then_some(bytes)
}
