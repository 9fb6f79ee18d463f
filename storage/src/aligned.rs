//! A growable byte buffer whose address and capacity are multiples of the block, as O_DIRECT demands.

use crate::io::BLOCK_BYTES;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes at a block-aligned address. Growing copies; the capacity stays when it is cleared, so a reused buffer
/// allocates nothing.
pub struct AlignedBuf {
    /// Invariant: points to `capacity` initialised bytes, aligned to a block; dangling while `capacity` is 0.
    pointer: NonNull<u8>,
    /// Invariant: `len <= capacity`.
    len: usize,
    /// Invariant: a multiple of the block.
    capacity: usize,
}

// SAFETY: the buffer owns its memory alone; nothing in it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer; allocates nothing yet.
    #[must_use]
    pub const fn new() -> AlignedBuf {
        AlignedBuf { pointer: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        let mut buffer = AlignedBuf::new();
        buffer.resize(len);
        buffer
    }

    /// Appends bytes.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        let end = start.checked_add(bytes.len()).expect("a buffer is smaller than the address space");
        self.reserve_total(end);
        self.len = end;
        self[start..].copy_from_slice(bytes);
    }

    /// Sets the length; new bytes are zero.
    pub fn resize(&mut self, len: usize) {
        let old = self.len;
        self.reserve_total(len);
        self.len = len;
        if len > old {
            self[old..].fill(0);
        }
    }

    /// Cuts to `len` if that is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Pads with zeroes to the next multiple of the block.
    pub fn pad_to_block(&mut self) {
        let padded = self.len.checked_next_multiple_of(BLOCK_BYTES);
        self.resize(padded.expect("a buffer is smaller than the address space"));
    }

    /// Bytes the buffer can hold without growing.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    // Inline: records are made of many small fields, and a reused buffer hardly ever grows.
    #[inline]
    fn reserve_total(&mut self, needed: usize) {
        if needed > self.capacity {
            self.grow(needed);
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let wanted = needed.max(self.capacity.saturating_mul(2));
        // Checked, because release builds wrap: a capacity below the length would make every slice of it unsound.
        let capacity =
            wanted.checked_next_multiple_of(BLOCK_BYTES).expect("a buffer is smaller than the address space");
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, because the caller saw `needed > self.capacity >= 0`.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(raw) else { handle_alloc_error(layout) };
        // SAFETY: both ranges are valid for `len` bytes (the new one is larger than the old) and do not overlap, one
        // being fresh.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer.as_ptr(), pointer.as_ptr(), self.len) };
        self.free();
        self.pointer = pointer;
        self.capacity = capacity;
    }

    fn free(&mut self) {
        if self.capacity > 0 {
            // SAFETY: the memory was allocated by `grow` with this very layout.
            unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.capacity)) };
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("a capacity below isize::MAX, aligned to a power of two")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        self.free();
    }
}

impl Default for AlignedBuf {
    fn default() -> Self {
        AlignedBuf::new()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from the pointer are initialised (allocated zeroed) and owned by this buffer; for an
        // empty one a dangling, non-null pointer is allowed.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBuf;

    /// Release builds rounded this length up to a capacity of 0.
    #[test]
    #[should_panic(expected = "smaller than the address space")]
    fn a_length_that_can_not_be_rounded_up_is_refused() {
        drop(AlignedBuf::zeroed(usize::MAX));
    }
}
