//! A position in an untrusted file: every read is checked against the bytes left.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::{Bytes, CheckpointError};

/// Reads little-endian values in order. The name of what is read is only formatted on failure.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    file: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, file: &'a Bytes) -> Self {
        Self { path, file, at: 0 }
    }
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }
    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }
    /// The part of the file that `range` covers, shared.
    pub(super) fn share(&self, range: Range<usize>) -> Bytes {
        self.file.slice(range)
    }
    pub(super) fn bytes_left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    /// Fails unless `needs` bytes are left for `what`.
    pub(super) fn expect(
        &self,
        needs: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<(), CheckpointError> {
        if needs <= self.bytes_left() {
            return Ok(());
        }
        Err(CheckpointError::Truncated {
            path: self.path.into(),
            what: what.to_string(),
            at: self.at as u64,
            needs,
            left: self.bytes_left(),
        })
    }

    /// The next `len` bytes, as a range of the file.
    pub(super) fn range(
        &mut self,
        len: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<Range<usize>, CheckpointError> {
        self.expect(len, what)?;
        let start = self.at;
        self.at += len as usize; // at most the bytes left, so at most a usize
        Ok(start..self.at)
    }
    /// The next `len` bytes.
    pub(super) fn take(
        &mut self,
        len: u64,
        what: fmt::Arguments<'_>,
    ) -> Result<&'a [u8], CheckpointError> {
        let range = self.range(len, what)?;
        Ok(&self.file[range])
    }
    pub(super) fn u32(&mut self, what: fmt::Arguments<'_>) -> Result<u32, CheckpointError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("took four bytes")))
    }
    pub(super) fn u64(&mut self, what: fmt::Arguments<'_>) -> Result<u64, CheckpointError> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("took eight bytes")))
    }
    /// A length-prefixed string, as a range of the file.
    pub(super) fn string(
        &mut self,
        what: fmt::Arguments<'_>,
    ) -> Result<Range<usize>, CheckpointError> {
        let len = self.u64(what)?;
        self.range(len, what)
    }
}
