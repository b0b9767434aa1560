//! The progress bar of loading, on stderr; nothing when that is not a terminal.

use host::engine::LoadProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bytes, tensor name and time left.
pub(crate) struct LoadBar(ProgressBar);

impl LoadBar {
    /// An empty bar; indicatif hides it by itself when stderr is not a terminal.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{bar:24} {bytes}/{total_bytes} {eta} {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
        Self(bar)
    }
}

impl LoadProgress for LoadBar {
    fn tensor(&mut self, tensor: &str, done: u64, total: u64) {
        if self.0.is_hidden() {
            return; // a message a tensor costs more than the tensor when weights stay mapped
        }
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
        self.0.set_message(tensor.to_owned());
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
