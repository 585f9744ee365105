//! Anonymous memory straight from the kernel: page-aligned, zeroed on first touch, given back on drop.

use std::io;
use std::ptr::NonNull;

/// Pages are at least so large.
const PAGE_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: needed because buffers in a mapping cross threads. A mapping is plain memory with one owner; who may touch
// which byte is settled by the types that hand it out.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared mapping only yields its address and length.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(len: usize) -> io::Result<Mapping> {
        // SAFETY: needed for page-aligned memory whose pages appear on first touch. A fresh private anonymous mapping
        // aliases nothing; failure is handled.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ptr = NonNull::new(ptr.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { ptr, len })
    }

    /// Asks for huge pages: fewer pieces for the disk's request, faster to register. Only a wish.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: the whole of a live mapping; the advice changes no contents.
        unsafe { libc::madvise(self.ptr.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// Makes every page appear now. One at a time, as the kernel lets other threads map memory in between. For who has handed out no
    /// part of it yet.
    pub fn touch(&self) {
        for at in (0..self.len).step_by(PAGE_BYTES) {
            // SAFETY: needed to touch memory that no reference may cover yet. `at` lies in the mapping, and nobody reads
            // or writes it meanwhile, as the caller has handed out no part.
            unsafe { self.ptr.as_ptr().add(at).write_volatile(0) };
        }
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, whole, once. It fails only for bad arguments.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}
