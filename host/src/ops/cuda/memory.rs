//! What a GPU holds: activations, operands in their forms, weights in planes, key-value pages.

use std::sync::Arc;

use cuda_std::{Global, GlobalMut};
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::matrix::Matrix;
use gpu_kernels::kernels::operand::{
    OperandIn, OperandOut, SCALE_LEN, SUM_LEN, half_stride, plane_stride,
};
use gpu_kernels::kernels::step::KvView;

use super::arena::Piece;
use crate::cuda::{CudaError, DeviceBuffer, PinnedBuffer, Stream};
use crate::kv::{PAGE_SIZE, PageMove, PagePlace};
use crate::ops::{HeadShape, KvDtype, KvLayer, KvSpec, WeightUse};

/// Rows up to which products read integers or F32, a weight once; beyond, halves by the matrix
/// instructions.
pub const FEW_ROWS: usize = 4;

/// F32 activations.
#[derive(Debug)]
pub struct DeviceTensor {
    pub buffer: DeviceBuffer,
}

impl DeviceTensor {
    pub fn view(&self) -> Global<f32> {
        self.buffer.view(0)
    }
    pub fn view_mut(&self) -> GlobalMut<f32> {
        self.buffer.view_mut(0)
    }
}

/// Formats of the weights that a backend was given, each once.
#[derive(Clone, Debug, Default)]
pub struct WeightFormats {
    /// Of those that tokens are looked up in.
    pub embedded: Vec<Format>,
    /// Of those that products read.
    pub multiplied: Vec<Format>,
}

impl WeightFormats {
    /// Takes in a matrix.
    pub fn add(&mut self, format: Format, usage: WeightUse) {
        let (embedded, multiplied) = match usage {
            WeightUse::Embedding => (true, false),
            WeightUse::Products => (false, true),
            WeightUse::Both => (true, true),
        };
        for (formats, used) in [(&mut self.embedded, embedded), (&mut self.multiplied, multiplied)]
        {
            if used && !formats.contains(&format) {
                formats.push(format);
            }
        }
    }
}

/// Kinds of weights that products read, which decide the forms of their inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightKinds {
    /// In blocks.
    pub quantized: bool,
    /// F16 or BF16.
    pub half: bool,
    /// F32.
    pub float: bool,
}

impl WeightKinds {
    /// The kinds of these formats.
    pub fn of(formats: &[Format]) -> Self {
        let mut kinds = Self::default();
        for format in formats {
            match format {
                Format::F32 => kinds.float = true,
                Format::F16 | Format::BF16 => kinds.half = true,
                _ => kinds.quantized = true,
            }
        }
        kinds
    }
}

/// The forms of an operand that a step of some size writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    pub float: bool,
    pub planes: bool,
    pub half: bool,
}

/// Which products a backend takes, and so which forms of their inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// F32 activations and plain products.
    pub exact: bool,
    /// The same for any number of rows.
    pub deterministic: bool,
}

impl Precision {
    /// Whether `rows` rows are multiplied without matrix instructions.
    pub fn is_few(self, rows: usize) -> bool {
        rows <= FEW_ROWS && !self.deterministic
    }
}

impl Forms {
    /// What products with weights of these kinds read of `rows` rows.
    pub fn of(kinds: WeightKinds, precision: Precision, rows: usize) -> Self {
        if precision.exact {
            Self { float: true, ..Self::default() }
        } else if precision.is_few(rows) {
            let float = kinds.half || kinds.float;
            Self { float, planes: kinds.quantized, half: false }
        } else {
            let half = kinds.quantized || kinds.half;
            Self { float: kinds.float, planes: false, half }
        }
    }
}

/// Where each form of an operand starts in its buffer.
#[derive(Debug)]
pub struct DeviceOperand {
    buffer: DeviceBuffer,
    float: usize,
    high: usize,
    low: usize,
    scale: usize,
    sums: usize,
    half: usize,
    row_scale: usize,
    kinds: WeightKinds,
    precision: Precision,
}

impl DeviceOperand {
    /// Room for `capacity` rows of `cols`, in the forms that steps of at most so many rows write.
    /// `alloc` makes the buffer.
    pub fn new<E>(
        capacity: usize,
        cols: usize,
        kinds: WeightKinds,
        precision: Precision,
        alloc: impl FnOnce(usize) -> Result<DeviceBuffer, E>,
    ) -> Result<Self, E> {
        let few = Forms::of(kinds, precision, capacity.min(FEW_ROWS));
        let many = Forms::of(kinds, precision, capacity);
        let rows = |few_form: bool, many_form: bool| match (many_form, few_form) {
            (true, _) => capacity,
            (false, true) => capacity.min(FEW_ROWS),
            (false, false) => 0,
        };
        let mut next = 0usize;
        let mut take = |bytes: usize| {
            let start = next;
            next += bytes.next_multiple_of(256);
            start
        };
        let plane = plane_stride(cols as u32) as usize;
        let integers = rows(few.planes, many.planes);
        let halves = rows(few.half, many.half);
        let (float, high) = (take(4 * cols * rows(few.float, many.float)), take(plane * integers));
        let low = take(plane * integers);
        let scale = take(4 * plane / SCALE_LEN * integers);
        let sums = take(4 * plane / SUM_LEN * integers);
        let half = take(2 * half_stride(cols as u32) as usize * halves);
        let row_scale = take(4 * halves);
        let buffer = alloc(next)?;
        Ok(Self { buffer, float, high, low, scale, sums, half, row_scale, kinds, precision })
    }

    /// The forms that `rows` rows have.
    pub fn forms(&self, rows: usize) -> Forms {
        Forms::of(self.kinds, self.precision, rows)
    }

    /// For the kernel that writes `rows` rows.
    pub fn output(&self, rows: usize) -> OperandOut {
        let forms = self.forms(rows);
        let mut out = OperandOut::NONE;
        if forms.float {
            out.float = self.buffer.view_mut(self.float);
        }
        if forms.planes {
            out.high = self.buffer.view_mut(self.high);
            out.low = self.buffer.view_mut(self.low);
            out.scale = self.buffer.view_mut(self.scale);
            out.sums = self.buffer.view_mut(self.sums);
        }
        if forms.half {
            out.half = self.buffer.view_mut(self.half);
            out.row_scale = self.buffer.view_mut(self.row_scale);
        }
        out
    }

    /// For products that read `rows` rows.
    pub fn input(&self, rows: usize) -> OperandIn {
        let out = self.output(rows);
        OperandIn {
            float: out.float.read(),
            high: out.high.read(),
            low: out.low.read(),
            scale: out.scale.read(),
            sums: out.sums.read(),
            half: out.half.read(),
            row_scale: out.row_scale.read(),
        }
    }
}

/// A weight matrix in the arena.
#[derive(Debug)]
pub struct DeviceWeight {
    pub matrix: Matrix,
    /// What its weights are multiplied by to become halves.
    pub scale: f32,
    /// Holds the planes.
    pub _planes: Piece,
}

/// A vector of parameters in the arena.
#[derive(Debug)]
pub struct DeviceVector {
    pub values: Piece,
}

/// The parameter that a missing vector is.
pub fn optional(vector: Option<&Arc<DeviceVector>>) -> Global<f32> {
    vector.map_or(Global::null(), |v| v.values.view())
}

/// Keys and values of some layers.
#[derive(Debug)]
pub struct DeviceKv {
    pub dtype: KvDtype,
    layers: Vec<(KvLayer, DeviceBuffer, DeviceBuffer)>,
    /// The slots of each group.
    slots: Vec<PinnedBuffer>,
    /// How many of each.
    host_slots: usize,
}

impl DeviceKv {
    /// The pages of `spec`; `alloc` and `alloc_host` make the buffers.
    pub fn new<E>(
        spec: &KvSpec,
        alloc: impl Fn(usize) -> Result<DeviceBuffer, E>,
        alloc_host: impl Fn(usize) -> Result<PinnedBuffer, E>,
    ) -> Result<Self, E> {
        let layer = |layer: &KvLayer| {
            let bytes = spec.pages[layer.group] * page_bytes(layer.heads, spec.dtype);
            Ok((*layer, alloc(bytes)?, alloc(bytes)?))
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_, E>>()?;
        let slot_bytes = |group: usize| -> usize {
            let own = spec.layers.iter().filter(|layer| layer.group == group);
            own.map(|layer| 2 * page_bytes(layer.heads, spec.dtype)).sum()
        };
        let host_slots = spec.host_slots;
        let slots = (0..spec.pages.len()).map(|group| alloc_host(host_slots * slot_bytes(group)));
        let slots = slots.collect::<Result<_, E>>()?;
        Ok(Self { dtype: spec.dtype, layers, slots, host_slots })
    }

    /// Index of a layer's group of pages.
    pub fn group(&self, layer: usize) -> usize {
        self.layers[layer].0.group
    }

    /// Copies pages in all layers of their group: one, or a run of those that go on behind each other.
    pub fn copy(&mut self, stream: &Stream, run: &[PageMove]) -> Result<(), CudaError> {
        let PageMove { group, from, to } = run[0];
        let Self { dtype, layers, slots, host_slots } = self;
        let slots = &mut slots[group];
        // The slots of a layer's keys, then of its values, layer after layer.
        let mut start = 0;
        for (layer, k, v) in layers.iter().filter(|(layer, ..)| layer.group == group) {
            let page = page_bytes(layer.heads, *dtype);
            let bytes = run.len() * page;
            for buffer in [k, v] {
                let at = |number: u32| number as usize * page;
                let slot = |slot: u32| start + at(slot)..start + at(slot) + bytes;
                match (from, to) {
                    (PagePlace::Pool(from), PagePlace::Pool(to)) => {
                        stream.copy(buffer, at(from), buffer, at(to), bytes)?;
                    }
                    (PagePlace::Pool(from), PagePlace::Host(to)) => {
                        stream.download(buffer, at(from), slots, slot(to))?;
                    }
                    (PagePlace::Host(from), PagePlace::Pool(to)) => {
                        stream.upload(slots, slot(from), buffer, at(to))?;
                    }
                    (PagePlace::Host(_), PagePlace::Host(_)) => {
                        panic!("one end of a move is in the pool")
                    }
                }
                start += *host_slots * page;
            }
        }
        Ok(())
    }

    /// One layer, as kernels see it.
    pub fn view(&self, layer: usize) -> KvView {
        let (KvLayer { heads, .. }, k, v) = &self.layers[layer];
        KvView {
            k: k.view_mut(0),
            v: v.view_mut(0),
            kv_heads: heads.heads as u32,
            head_dim: heads.head_dim as u32,
        }
    }
}

/// Bytes of a page of a layer's keys, or values.
fn page_bytes(heads: HeadShape, dtype: KvDtype) -> usize {
    PAGE_SIZE * heads.width() * dtype.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deterministic_products_read_the_same_of_any_rows() {
        let kinds = WeightKinds { quantized: true, half: true, float: true };
        let many = Forms { float: true, planes: false, half: true };
        let precision = Precision { deterministic: true, ..Precision::default() };
        for rows in [1, FEW_ROWS, FEW_ROWS + 1, 2048] {
            assert_eq!(Forms::of(kinds, precision, rows), many);
        }
        let few = Forms::of(kinds, Precision::default(), FEW_ROWS);
        assert_eq!(few, Forms { float: true, planes: true, half: false });
        assert_eq!(Forms::of(kinds, Precision::default(), FEW_ROWS + 1), many);
    }

    #[test]
    fn an_embedding_asks_for_no_form_of_an_operand() {
        let mut formats = WeightFormats::default();
        formats.add(Format::BF16, WeightUse::Embedding);
        for format in [Format::Q4_K, Format::Q6_K, Format::Q4_K] {
            formats.add(format, WeightUse::Products);
        }
        assert_eq!(formats.embedded, [Format::BF16]);
        assert_eq!(formats.multiplied, [Format::Q4_K, Format::Q6_K]);
        let quantized = WeightKinds { quantized: true, ..WeightKinds::default() };
        assert_eq!(WeightKinds::of(&formats.multiplied), quantized);
        formats.add(Format::BF16, WeightUse::Both);
        assert_eq!(WeightKinds::of(&formats.multiplied), WeightKinds { half: true, ..quantized });
        assert_eq!(formats.embedded, [Format::BF16]);
    }

    /// Of each buffer of keys and values its bytes.
    fn contents(stream: &Stream, kv: &DeviceKv) -> Vec<Vec<u8>> {
        let buffers = kv.layers.iter().flat_map(|(_, k, v)| [k, v]);
        let read = |buffer: &DeviceBuffer| {
            let mut bytes = vec![0; buffer.len()];
            stream.read(buffer, 0, &mut bytes).unwrap();
            bytes
        };
        buffers.map(read).collect()
    }

    /// On a GPU; without one it says that it was skipped.
    #[test]
    fn pages_move_in_all_layers_of_their_group() {
        let driver = match crate::cuda::Driver::load() {
            Ok(driver) => driver,
            Err(error) => return println!("pages_move_in_all_layers: skipped, {error}"),
        };
        let device = driver.device(0).unwrap().clone();
        let context = crate::cuda::Context::open(device, driver.version()).unwrap();
        let stream = context.stream().unwrap();
        let heads = |heads| HeadShape { heads, head_dim: 8 };
        let layer = |n, group| KvLayer { heads: heads(n), group };
        let layers = vec![layer(2, 0), layer(1, 1), layer(3, 0)];
        let (dtype, pages) = (KvDtype::F16, vec![4, 3]);
        let spec = KvSpec { layers, q_heads: 2, pages, host_slots: 3, dtype };
        let host = |bytes| context.alloc_pinned(bytes);
        let mut kv = DeviceKv::new(&spec, |bytes| context.alloc(bytes), host).unwrap();
        for (i, buffer) in kv.layers.iter().flat_map(|(_, k, v)| [k, v]).enumerate() {
            let bytes: Vec<u8> =
                (0..buffer.len()).map(|at| (at * 7 + at / 256 + i) as u8).collect();
            stream.write(buffer, 0, &bytes).unwrap();
        }
        let mut expected = contents(&stream, &kv);
        let mut slots = vec![vec![vec![]; 3]; expected.len()];
        use PagePlace::{Host, Pool};
        let moves = [
            (0, Pool(3), Host(1)),
            (1, Pool(2), Host(1)),
            (0, Pool(1), Pool(3)),
            (0, Pool(0), Host(0)),
            (0, Pool(1), Host(1)), // goes on
            (0, Pool(2), Host(2)), // goes on
            (0, Host(1), Pool(0)),
            (0, Host(2), Pool(1)), // goes on
            (1, Host(1), Pool(0)),
            (0, Host(0), Pool(2)),
        ]
        .map(|(group, from, to)| PageMove { group, from, to });
        let runs: Vec<_> = moves.chunk_by(PageMove::goes_on).collect();
        assert_eq!(runs.len(), 7);
        runs.iter().for_each(|run| kv.copy(&stream, run).unwrap());
        for PageMove { group, from, to } in moves {
            for (i, (bytes, slots)) in expected.iter_mut().zip(&mut slots).enumerate() {
                let KvLayer { heads, group: own } = spec.layers[i / 2];
                if own != group {
                    continue;
                }
                let len = 16 * heads.width() * 2;
                let page = |page: u32| page as usize * len..(page as usize + 1) * len;
                let moved = match from {
                    Pool(from) => bytes[page(from)].to_vec(),
                    Host(slot) => slots[slot as usize].clone(),
                };
                match to {
                    Pool(to) => bytes[page(to)].copy_from_slice(&moved),
                    Host(slot) => slots[slot as usize] = moved,
                }
            }
        }
        assert!(contents(&stream, &kv) == expected);
    }
}
