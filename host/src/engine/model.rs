//! What the engine needs of a model and of a vocabulary: seams that let it be tested without
//! either.

use std::ops::Range;
use std::sync::Arc;

use crate::layers::Decoder;
use crate::ops::{Batch, OpsError, SampleRequest, Sampled};
use crate::text::{DetokenStream, Tokenizer};

/// A forward pass over paged sequences.
pub(super) trait Model: Send {
    /// Runs a batch. What comes of it is asked for afterwards, and may report its errors.
    fn forward(&mut self, batch: &Batch) -> Result<(), OpsError>;
    /// Some rows of the last batch's logits: `out` becomes [rows, vocab_size].
    fn read_logits(&mut self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), OpsError>;
    /// Hidden states of some rows of the last batch whose logits were wanted: `out` becomes
    /// [rows, hidden_size].
    fn read_hidden(&mut self, rows: Range<usize>, out: &mut Vec<f64>) -> Result<(), OpsError>;
    /// Whether [`Model::sample`] may be called.
    fn samples(&self) -> bool {
        false
    }
    /// Chooses the token after each row of the last batch whose logits were wanted, at most one
    /// for each sequence that may run.
    fn sample(
        &mut self,
        _requests: &[SampleRequest],
        _out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        panic!("the model chooses no tokens")
    }
    /// What makes all further results doubtful, such as a model file cut while mapped. Asked
    /// before results are shown.
    fn fault(&self) -> Option<String> {
        None
    }
}

/// Token ids → text.
pub(super) trait Vocabulary: Send + Sync {
    /// The text of one answer, from its beginning, with these control tokens in it.
    fn stream(&self, shown: &[u32]) -> Box<dyn TextStream>;
    /// Tokens that end an answer.
    fn end_of_generation(&self) -> &[u32];
    /// The tokens of plain text; what is wrong with it otherwise.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;
}

/// Text that completes token by token.
pub(super) trait TextStream: Send {
    /// Text that `id` completes.
    fn push(&mut self, id: u32) -> String;
    /// What is left at the end.
    fn finish(&mut self) -> String;
}

/// A model's own tokenizer.
pub(super) struct OwnVocabulary {
    tokenizer: Arc<Tokenizer>,
}

impl OwnVocabulary {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer }
    }
}

impl Vocabulary for OwnVocabulary {
    fn stream(&self, shown: &[u32]) -> Box<dyn TextStream> {
        let (tokenizer, stream) = (self.tokenizer.clone(), DetokenStream::showing(shown.to_vec()));
        Box::new(OwnStream { tokenizer, stream })
    }
    fn end_of_generation(&self) -> &[u32] {
        self.tokenizer.end_of_generation()
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text, false, false).map_err(|error| error.to_string())
    }
}

struct OwnStream {
    tokenizer: Arc<Tokenizer>,
    stream: DetokenStream,
}

impl TextStream for OwnStream {
    fn push(&mut self, id: u32) -> String {
        self.stream.push(&self.tokenizer, id)
    }
    fn finish(&mut self) -> String {
        self.stream.finish()
    }
}

/// A decoder with the files its weights are mapped from.
pub(super) struct MappedDecoder {
    pub decoder: Decoder,
    pub checkpoint: crate::checkpoint::Checkpoint,
}

impl Model for MappedDecoder {
    fn forward(&mut self, batch: &Batch) -> Result<(), OpsError> {
        self.decoder.forward(batch)
    }
    fn read_logits(&mut self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), OpsError> {
        self.decoder.read_logits(rows, out)
    }
    fn read_hidden(&mut self, rows: Range<usize>, out: &mut Vec<f64>) -> Result<(), OpsError> {
        self.decoder.read_hidden(rows, out)
    }
    fn samples(&self) -> bool {
        self.decoder.samples()
    }
    fn sample(
        &mut self,
        requests: &[SampleRequest],
        out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        self.decoder.sample(requests, out)
    }
    fn fault(&self) -> Option<String> {
        self.checkpoint.check_intact().err().map(|error| error.to_string())
    }
}
