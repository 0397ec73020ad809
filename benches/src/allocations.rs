//! A global allocator that counts the allocations of each thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system allocator with counters.
pub struct CountingAllocator;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Returns the number of allocations of this thread so far, and their bytes.
pub fn totals() -> (u64, u64) {
    (COUNT.get(), BYTES.get())
}

/// Returns the bytes that this thread has allocated less those that it has freed.
pub fn live_bytes() -> i64 {
    LIVE_BYTES.get()
}

fn count(bytes: usize) {
    // Fails while the thread is exiting and its counters have been destroyed.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    let _ = BYTES.try_with(|sum| sum.set(sum.get() + bytes as u64));
    add_live(bytes as i64);
}

fn add_live(bytes: i64) {
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: Every call is forwarded to the system allocator. Counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: The caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        add_live(-(layout.size() as i64));
        // SAFETY: The caller upholds the contract of `GlobalAlloc::realloc`, and `memory` was
        // allocated by `System`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add_live(-(layout.size() as i64));
        // SAFETY: The caller upholds the contract of `GlobalAlloc::dealloc`, and `memory` was
        // allocated by `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}
