//! What the CPU takes out of a backend's handles: host memory.

use super::kv::KvStorage;
use crate::checkpoint::Bytes;
use crate::ops::{
    KvPages, KvPool, OTHER_BACKEND, Operand, OperandStorage, Storage, Tensor, Vector,
    VectorStorage, Weight, WeightStorage,
};

impl Tensor {
    /// The rows in use.
    pub(in crate::ops::cpu) fn host_rows(&self) -> &[f32] {
        let Storage::Host(values) = &self.storage else { panic!("{OTHER_BACKEND}") };
        &values[..self.rows * self.cols]
    }
    /// The rows in use.
    pub(in crate::ops::cpu) fn host_rows_mut(&mut self) -> &mut [f32] {
        let Storage::Host(values) = &mut self.storage else { panic!("{OTHER_BACKEND}") };
        &mut values[..self.rows * self.cols]
    }
}

impl Operand {
    /// The rows in use.
    pub(in crate::ops::cpu) fn host_rows(&self) -> &[f32] {
        let OperandStorage::Host(values) = &self.storage else { panic!("{OTHER_BACKEND}") };
        &values[..self.rows * self.cols]
    }
    /// The rows in use.
    pub(in crate::ops::cpu) fn host_rows_mut(&mut self) -> &mut [f32] {
        let OperandStorage::Host(values) = &mut self.storage else { panic!("{OTHER_BACKEND}") };
        &mut values[..self.rows * self.cols]
    }
}

impl Weight {
    /// All blocks, row after row.
    pub(in crate::ops::cpu) fn host_bytes(&self) -> &Bytes {
        let WeightStorage::Host(bytes) = &self.storage else { panic!("{OTHER_BACKEND}") };
        bytes
    }
}

impl Vector {
    pub(in crate::ops::cpu) fn host_values(&self) -> &[f32] {
        let VectorStorage::Host(values) = &self.storage else { panic!("{OTHER_BACKEND}") };
        values
    }
}

impl KvPool {
    pub(in crate::ops::cpu) fn host_pages(&self) -> &KvStorage {
        let KvPages::Host(pages) = &self.storage else { panic!("{OTHER_BACKEND}") };
        pages
    }
    pub(in crate::ops::cpu) fn host_pages_mut(&mut self) -> &mut KvStorage {
        let KvPages::Host(pages) = &mut self.storage else { panic!("{OTHER_BACKEND}") };
        pages
    }
}
