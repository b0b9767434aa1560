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

#[cfg(test)]
mod tests {
    use super::*;

    /// Spelled out from the specification, field by field.
    #[test]
    fn the_file_is_what_the_specification_says() {
        let mut writer = GgufWriter::new();
        writer.key("general.alignment", Value::U32(64)).key("ok", Value::bools(&[true, false]));
        assert_eq!(writer.tensor("w", Format::F32, &[1, 3]).unwrap(), 0);
        assert_eq!(writer.tensor("q", Format::Q8_0, &[32]).unwrap(), 1);
        let mut file = Vec::new();
        let data = [vec![0xa0; 12], vec![0xa1; 34]];
        writer.write(&mut file, |number, out| out.write_all(&data[number])).unwrap();

        let mut expected: Vec<u8> = b"GGUF\x03\0\0\0".to_vec();
        expected.extend(2u64.to_le_bytes()); // tensors
        expected.extend(2u64.to_le_bytes()); // keys
        expected.extend(b"\x11\0\0\0\0\0\0\0general.alignment\x04\0\0\0\x40\0\0\0");
        expected.extend(b"\x02\0\0\0\0\0\0\0ok\x09\0\0\0\x07\0\0\0\x02\0\0\0\0\0\0\0\x01\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0w\x02\0\0\0"); // innermost dimension first
        expected.extend(3u64.to_le_bytes());
        expected.extend(1u64.to_le_bytes());
        expected.extend(b"\0\0\0\0\0\0\0\0\0\0\0\0"); // F32 at 0
        expected.extend(b"\x01\0\0\0\0\0\0\0q\x01\0\0\0");
        expected.extend(32u64.to_le_bytes());
        expected.extend(b"\x08\0\0\0\x40\0\0\0\0\0\0\0"); // Q8_0 at 64
        expected.resize(expected.len().next_multiple_of(64), 0);
        expected.extend([0xa0; 12]);
        expected.extend([0; 52]);
        expected.extend([0xa1; 34]);
        expected.extend([0; 30]);
        assert_eq!(file, expected);
    }

    #[test]
    fn tensors_and_data_that_do_not_fit_are_errors() {
        let mut writer = GgufWriter::new();
        let error = writer.tensor("t", Format::Q8_0, &[4, 31]).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor \"t\" has rows of 31 weights, expected a multiple of 32 for Q8_0"
        );
        assert!(writer.tensor("t", Format::F32, &[usize::MAX, 2]).is_err());

        writer.tensor("t", Format::F32, &[2]).unwrap();
        for (len, fits) in [(7, false), (8, true), (9, false)] {
            let data = |_, out: &mut dyn Write| out.write_all(&vec![0; len]);
            let result = writer.write(&mut Vec::new(), data);
            assert_eq!(result.is_ok(), fits, "{len} bytes: {result:?}");
        }
    }
}
