//! Memory that the chunks of a parallel region write in disjoint parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A `&mut [T]` that several threads may take different parts of.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`; `part` asks its callers to keep the parts disjoint, and then
// sharing it is like sending each thread its own part.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows the whole of it.
    pub fn new(whole: &'a mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), len: whole.len(), whole: PhantomData }
    }

    /// Elements `range`; panics when out of range.
    ///
    /// # Safety
    /// While the part is in use, no other part that overlaps it may be.
    #[allow(clippy::mut_from_ref)] // the reason for the type
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end);
        assert!(range.end <= self.len);
        // SAFETY: in range of a slice borrowed for 'a, and not aliased, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
