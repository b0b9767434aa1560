//! Writes GGUF files: for synthetic models and tests.

use std::io::{self, Write};

use gpu_kernels::formats::Format;

use super::gguf::{DEFAULT_ALIGNMENT, MAGIC, Value};

/// Collects keys and tensors, then writes the file in one pass; tensor data is asked for when its
/// turn comes, so that a model larger than memory can be written.
///
/// The writer writes what it is told, also what a reader refuses (a key twice, an odd
/// `general.alignment`): that is how readers are tested.
#[derive(Debug, Default)]
pub struct GgufWriter {
    keys: Vec<(String, Value)>,
    tensors: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    name: String,
    format: Format,
    shape: Vec<usize>,
    bytes: usize,
}

impl GgufWriter {
    /// A file without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key. `general.alignment`, when it is a u32, is honoured.
    pub fn key(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        self.keys.push((key.into(), value));
        self
    }

    /// Adds a tensor, `shape` outermost first. Returns its number, by which [`write`](Self::write)
    /// asks for its data.
    ///
    /// # Errors
    /// When the innermost dimension is not a whole number of the format's blocks, or the size
    /// overflows.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        format: Format,
        shape: &[usize],
    ) -> io::Result<usize> {
        let name = name.into();
        let bytes = super::Storage::Weights(format)
            .bytes(shape)
            .map_err(|problem| invalid(format!("tensor {name:?} {problem}")))?;
        self.tensors.push(Planned { name, format, shape: shape.into(), bytes });
        Ok(self.tensors.len() - 1)
    }

    /// Bytes of data that tensor `number` takes.
    pub fn tensor_bytes(&self, number: usize) -> usize {
        self.tensors[number].bytes
    }

    /// Writes the file: header, then for each tensor what `data` writes for its number.
    ///
    /// # Errors
    /// Those of `out` and `data`, and when `data` wrote more or fewer bytes than the tensor takes.
    pub fn write(
        &self,
        out: &mut dyn Write,
        mut data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let alignment = self.alignment();
        let mut header = self.header(alignment);
        header.resize(header.len().next_multiple_of(alignment), 0);
        out.write_all(&header)?;
        for (number, tensor) in self.tensors.iter().enumerate() {
            let mut counted = Counted { out, bytes: 0 };
            data(number, &mut counted)?;
            if counted.bytes != tensor.bytes {
                let (name, expected, found) = (&tensor.name, tensor.bytes, counted.bytes);
                let problem = format!("tensor {name:?} got {found} bytes, expected {expected}");
                return Err(invalid(problem));
            }
            let padding = tensor.bytes.next_multiple_of(alignment) - tensor.bytes;
            io::copy(&mut io::Read::take(io::repeat(0), padding as u64), out)?;
        }
        out.flush()
    }

    fn alignment(&self) -> usize {
        let key = self.keys.iter().find(|(key, _)| key == "general.alignment");
        match key {
            Some((_, Value::U32(alignment))) => (*alignment).max(1) as usize,
            _ => DEFAULT_ALIGNMENT as usize,
        }
    }

    /// Everything before the padding to the data.
    fn header(&self, alignment: usize) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&3u32.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            push_string(&mut out, key.as_bytes());
            out.extend_from_slice(&(value.value_type() as u32).to_le_bytes());
            push_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            push_string(&mut out, tensor.name.as_bytes());
            out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                out.extend_from_slice(&(dim as u64).to_le_bytes());
            }
            out.extend_from_slice(&tensor.format.gguf_id().to_le_bytes());
            out.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += tensor.bytes.next_multiple_of(alignment);
        }
        out
    }
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(*v as u8),
        Value::String(text) => push_string(out, text),
        Value::Array(array) => {
            out.extend_from_slice(&(array.element_type() as u32).to_le_bytes());
            out.extend_from_slice(&(array.len() as u64).to_le_bytes());
            out.extend_from_slice(array.encoded());
        }
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// Counts what passes through.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        self.bytes += written;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
