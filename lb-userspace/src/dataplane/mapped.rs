//! An array map in this process's memory: a write is one store, seen by the next packet.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use anyhow::{Context, Result};
use bytemuck::Pod;

#[cfg(test)]
use super::memory::History;

/// A `BPF_F_MMAPABLE` array of `T`.
///
/// Elements are read and written volatile, each aligned 8-byte word of them in one access. The
/// kernel reads them at the same time: what must change at once must fit in one such word.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<T>,
    count: u32,
    bytes: usize,
    element: PhantomData<T>,
    #[cfg(test)]
    history: History,
}

// SAFETY: the mapping lives as long as the value, and all access is volatile word by word; who
// writes what is settled by the control loop being the only writer.
unsafe impl<T: Pod> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps an array map of `count` elements of `T`.
    pub fn new(map: impl AsFd, count: u32) -> Result<Self> {
        // Array elements are rounded up to 8 bytes, and are read and written by words.
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
        let bytes = count as usize * size_of::<T>();
        Self::map(count, bytes, libc::MAP_SHARED, map.as_fd().as_raw_fd())
    }

    /// The same without a kernel's map behind it.
    #[cfg(test)]
    pub(crate) fn anonymous(count: u32) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Self::map(count, count as usize * size_of::<T>(), flags, -1)
    }

    /// The same, for what is written before any packet reads it.
    #[cfg(test)]
    pub(crate) fn bulk(count: u32) -> Result<Self> {
        let mut mapped = Self::anonymous(count)?;
        mapped.history.is_bulk = true;
        Ok(mapped)
    }

    fn map(count: u32, bytes: usize, flags: libc::c_int, map: libc::c_int) -> Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping of a map we own; the kernel checks length and rights.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, flags, map, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot map {bytes} bytes of a BPF array"));
        }
        let start = NonNull::new(start.cast()).context("a BPF array was mapped at address 0")?;
        Ok(Self {
            start,
            count,
            bytes,
            element: PhantomData,
            #[cfg(test)]
            history: History::default(),
        })
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// An element, if there is one.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<T> {
        let from = self.at(index)?.cast::<u64>();
        let mut value = T::zeroed();
        for (i, word) in words_mut(&mut value).iter_mut().enumerate() {
            // SAFETY: within the element, and aligned, as the element is.
            *word = unsafe { from.add(i).read_volatile() };
        }
        Some(value)
    }

    /// A reference to an element, for readers that take only part of it.
    #[must_use]
    pub fn peek(&self, index: u32) -> Option<&T> {
        // SAFETY: within the mapping, which outlives the borrow; the kernel never writes the
        // arrays that are read this way, and the control loop, the only writer, runs this.
        self.at(index).map(|at| unsafe { &*at })
    }

    /// Writes an element. Out of bounds is a mistake of ours: it is refused and told.
    pub fn set(&self, index: u32, value: T) -> Result<()> {
        let at = self.at(index).with_context(|| {
            format!("element {index} is past the end of a BPF array of {}", self.count)
        })?;
        #[cfg(test)]
        self.note(index, value);
        Self::write(at, value);
        Ok(())
    }

    fn write(at: *mut T, mut value: T) {
        for (i, word) in words_mut(&mut value).iter().enumerate() {
            // SAFETY: `at` is an element of the mapping, and aligned.
            unsafe { at.cast::<u64>().add(i).write_volatile(*word) };
        }
    }

    /// Writes an element of what the program counts, of which no packet reads what was before.
    #[cfg(test)]
    pub(crate) fn store(&self, index: u32, value: T) {
        if let Some(at) = self.at(index) {
            Self::write(at, value);
        }
    }

    /// Notes what words an element had before those of a store that differ.
    #[cfg(test)]
    fn note(&self, index: u32, mut value: T) {
        let Some(mut before) = self.get(index) else { return };
        let (before, value) = (words_mut(&mut before), words_mut(&mut value));
        for (i, (old, new)) in before.iter().zip(value.iter()).enumerate() {
            if old != new {
                self.history.note(index * value.len() as u32 + i as u32, *old);
            }
        }
    }

    /// A word of an element, as it was when the store of this position was the newest.
    #[cfg(test)]
    pub(crate) fn word_at(&self, index: u32, word: u32, position: u64) -> Option<u64> {
        let words = (size_of::<T>() / 8) as u32;
        let mut value = self.get(index)?;
        let now = words_mut(&mut value).get(word as usize).copied()?;
        Some(self.history.at(index * words + word, position, now))
    }

    /// Nobody reads what was here before any more.
    #[cfg(test)]
    pub(crate) fn forget_history(&self) {
        self.history.forget();
    }

    fn at(&self, index: u32) -> Option<*mut T> {
        // SAFETY: `index < count`, so the element lies within the mapping.
        (index < self.count).then(|| unsafe { self.start.as_ptr().add(index as usize) })
    }
}

/// An element as the words it is read and written by.
fn words_mut<T: Pod>(value: &mut T) -> &mut [u64] {
    bytemuck::cast_slice_mut(std::slice::from_mut(value))
}

impl Mapped<u64> {
    /// Adds the elements `first, first + step, …` up to the end.
    #[must_use]
    pub fn sum(&self, first: u32, step: u32) -> u64 {
        (first..self.count).step_by(step as usize).filter_map(|i| self.get(i)).sum()
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
