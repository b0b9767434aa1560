//! `--log-requests`: a JSON line a request, written by a thread of its own so that no answer waits
//! for a disk. What cannot be written is lost; the first time that is said, and so is the end of
//! it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde_json::Value;

use crate::error::ServerError;
use crate::limits::LOG_LINES;

/// The way to the log.
#[derive(Clone, Debug)]
pub struct RequestLog(SyncSender<Value>);

impl RequestLog {
    /// Opens the file for appending and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened, or the thread not be started.
    pub fn open(path: &Path) -> Result<Self, ServerError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| ServerError::Log { path: path.into(), source })?;
        let (sender, receiver) = sync_channel(LOG_LINES);
        std::thread::Builder::new()
            .name("request log".to_owned())
            .spawn(move || write_all(Writer::new(file), &receiver))
            .map_err(|source| ServerError::System { what: "the request log", source })?;
        Ok(Self(sender))
    }

    /// Hands over a line.
    pub fn write(&self, line: Value) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(line) {
            tracing::warn!("the disk of --log-requests is too slow: a line is lost");
        }
    }
}

fn write_all(mut writer: Writer<File>, lines: &Receiver<Value>) {
    for line in lines {
        writer.write(&line);
    }
}

/// Writes lines, and says when that begins and ends to fail.
struct Writer<W> {
    out: W,
    /// Lines lost since the last one that was written.
    lost: u64,
}

impl<W: Write> Writer<W> {
    fn new(out: W) -> Self {
        Self { out, lost: 0 }
    }

    fn write(&mut self, line: &Value) {
        match self.try_write(line) {
            Ok(()) if self.lost > 0 => {
                tracing::warn!("--log-requests can be written again; {} lines are lost", self.lost);
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    tracing::error!("--log-requests cannot be written: {error}; answers go on");
                }
                self.lost += 1;
            }
        }
    }

    fn try_write(&mut self, line: &Value) -> io::Result<()> {
        // a failed line may be there in part
        let start = if self.lost > 0 { "\n" } else { "" };
        self.out.write_all(format!("{start}{line}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Takes `room` bytes, then is full until it gets more.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.extend_from_slice(&bytes[..n]);
            self.room -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_after_a_full_disk_are_whole() {
        let mut writer = Writer::new(Disk { written: vec![], room: 12 });
        writer.write(&json!({"a": 1}));
        writer.write(&json!({"a": 2}));
        assert_eq!(writer.lost, 1);
        writer.out.room = 100;
        writer.write(&json!({"a": 3}));
        assert_eq!(writer.lost, 0);
        let text = String::from_utf8(writer.out.written).unwrap();
        let whole: Vec<&str> =
            text.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).collect();
        assert_eq!(whole, ["{\"a\":1}", "{\"a\":3}"]);
    }
}
