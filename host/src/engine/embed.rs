//! Embeddings: one vector of a text, pooled from the hidden states of its tokens.
//!
//! A hidden state is the residual stream behind the last layer, through the final norm: what the
//! matrix of the logits is multiplied with. Its rows are read from the step that computes the logits of
//! the same positions; norm and pooling are done here, in f64.

use std::fmt;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::RequestError;
use super::command::Slot;
use crate::checkpoint::{Checkpoint, CheckpointError, Metadata};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token's (`cls`).
    First,
    /// The last token's.
    Last,
    /// The model's files want another, by this name: it gives no embeddings here.
    Other(&'static str),
}

impl Pooling {
    /// What a model's files say: `<arch>.pooling_type` of a GGUF header, `1_Pooling/config.json` of a
    /// directory as sentence-transformers write it. The last token where they say nothing, as for
    /// every decoder of vLLM: it alone has seen the whole text.
    ///
    /// # Errors
    /// A value of another type.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        match checkpoint.metadata() {
            Metadata::Gguf(metadata) => {
                let architecture = metadata.str("general.architecture")?.unwrap_or_default();
                let key = format!("{architecture}.pooling_type");
                Ok(metadata.u32(&key)?.map_or(Self::Last, Self::from_gguf))
            }
            Metadata::HuggingFace(metadata) => {
                Ok(Self::from_modes(&metadata.other("1_Pooling/config.json")?))
            }
        }
    }

    /// As llama.cpp numbers them.
    fn from_gguf(number: u32) -> Self {
        match number {
            0 => Self::Other("none"),
            1 => Self::Mean,
            2 => Self::First,
            3 => Self::Last,
            4 => Self::Other("rank"),
            _ => Self::Other("unknown"),
        }
    }

    fn from_modes(config: &Map<String, Value>) -> Self {
        const MODES: [(&str, Pooling); 6] = [
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_cls_token", Pooling::First),
            ("pooling_mode_lasttoken", Pooling::Last),
            ("pooling_mode_max_tokens", Pooling::Other("max")),
            ("pooling_mode_mean_sqrt_len_tokens", Pooling::Other("mean_sqrt_len")),
            ("pooling_mode_weightedmean_tokens", Pooling::Other("weightedmean")),
        ];
        let on = |name: &str| config.get(name).and_then(Value::as_bool) == Some(true);
        let mut chosen = MODES.into_iter().filter(|(name, _)| on(name)).map(|(_, pooling)| pooling);
        match (chosen.next(), chosen.next()) {
            (None, _) => Self::Last,
            (Some(one), None) => one,
            (Some(_), Some(_)) => Self::Other("several at once"),
        }
    }

    /// The first position whose hidden state is wanted of so many tokens, and how many tokens are
    /// computed: a token sees none that follow.
    pub(super) fn wanted(self, tokens: usize) -> (usize, usize) {
        match self {
            Self::Mean => (0, tokens),
            Self::First => (0, 1),
            Self::Last | Self::Other(_) => (tokens - 1, tokens),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::First => "cls",
            Self::Last => "last",
            Self::Other(name) => name,
        })
    }
}

/// What a text became.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Its vector [hidden_size], of length 1.
    pub vector: Vec<f32>,
    /// Tokens found in the prefix cache.
    pub cached: usize,
}

/// An embedding in progress.
pub(super) struct Embedding {
    /// Of the hidden states seen.
    sum: Vec<f64>,
    cached: usize,
    reply: oneshot::Sender<Result<Embedded, RequestError>>,
    slot: Slot,
}

/// The vector of a text that was submitted. Dropping it cancels.
#[derive(Debug)]
pub struct EmbeddingHandle(oneshot::Receiver<Result<Embedded, RequestError>>);

impl Embedding {
    /// One of vectors of `hidden_size`, and who waits for it.
    pub fn new(hidden_size: usize, slot: Slot) -> (Self, EmbeddingHandle) {
        let (reply, answer) = oneshot::channel();
        (Self { sum: vec![0.0; hidden_size], cached: 0, reply, slot }, EmbeddingHandle(answer))
    }

    /// Whether nobody wants it any more.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Before the first step, which finds `cached` tokens computed.
    pub fn begin(&mut self, cached: usize) {
        self.cached = cached;
    }

    /// Adds hidden states, `[rows · hidden_size]`, of positions from `first` on.
    pub fn see(&mut self, first: usize, hidden: &[f64]) -> Result<(), RequestError> {
        for (position, row) in (first..).zip(hidden.chunks_exact(self.sum.len())) {
            if row.iter().any(|v| !v.is_finite()) {
                return Err(RequestError::NonFiniteLogits { tokens: position });
            }
            self.sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        }
        Ok(())
    }

    /// Gives the vector of length 1, or says why there is none.
    pub fn end(self, result: Result<(), RequestError>) {
        // Makes room for another request before this one is known to be over.
        drop(self.slot);
        let embedded = result.map(|()| Embedded { vector: unit(&self.sum), cached: self.cached });
        let _ = self.reply.send(embedded); // nobody waits: nobody is told
    }
}

/// Of length 1, in the same direction; zeros stay.
fn unit(vector: &[f64]) -> Vec<f32> {
    let largest = vector.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
    let scale = if largest > 0.0 { largest } else { 1.0 }; // squares neither overflow nor vanish
    let length = vector.iter().map(|v| (v / scale).powi(2)).sum::<f64>().sqrt();
    let length = if length > 0.0 { length } else { 1.0 };
    vector.iter().map(|v| (v / scale / length) as f32).collect()
}

impl EmbeddingHandle {
    /// Waits for the vector.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn recv(self) -> Result<Embedded, RequestError> {
        self.0.await.unwrap_or_else(|_| Err(gone()))
    }
    /// The same from a thread that may wait.
    ///
    /// # Errors
    /// As of [`EmbeddingHandle::recv`].
    ///
    /// # Panics
    /// Inside an asynchronous context.
    pub fn blocking_recv(self) -> Result<Embedded, RequestError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> RequestError {
    RequestError::EngineEnded("its thread is gone".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::checkpoint::{Bytes, GgufWriter, Value as Key};

    fn of_gguf(pooling: Option<Key>) -> Result<Pooling, CheckpointError> {
        let mut file = GgufWriter::new();
        file.key("general.architecture", Key::string("qwen3"));
        if let Some(pooling) = pooling {
            file.key("qwen3.pooling_type", pooling);
        }
        let mut bytes = vec![];
        file.write(&mut bytes, |_, _| Ok(())).unwrap();
        Pooling::of(&Checkpoint::from_gguf(Path::new("m"), Bytes::owned(bytes)).unwrap())
    }

    #[test]
    fn gguf_headers_name_a_pooling() {
        assert_eq!(of_gguf(None).unwrap(), Pooling::Last);
        let names = ["none", "mean", "cls", "last", "rank", "unknown"];
        for (number, name) in (0..).zip(names) {
            assert_eq!(of_gguf(Some(Key::U32(number))).unwrap().to_string(), name);
        }
        assert!(of_gguf(Some(Key::string("mean"))).is_err());
    }

    #[test]
    fn sentence_transformers_name_a_pooling() {
        let of = |config: Value| Pooling::from_modes(config.as_object().unwrap());
        assert_eq!(of(json!({})), Pooling::Last);
        let last = json!({"word_embedding_dimension": 1024, "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true,
            "include_prompt": true});
        assert_eq!(of(last), Pooling::Last);
        assert_eq!(of(json!({"pooling_mode_mean_tokens": true})), Pooling::Mean);
        assert_eq!(of(json!({"pooling_mode_cls_token": true})), Pooling::First);
        assert_eq!(of(json!({"pooling_mode_max_tokens": true})), Pooling::Other("max"));
        let both = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
        assert!(matches!(of(both), Pooling::Other(_)));
    }

    #[test]
    fn vectors_have_length_1_whatever_their_size() {
        for scale in [1e-200, 1.0, 1e200] {
            assert_eq!(unit(&[3.0 * scale, -4.0 * scale]), [0.6, -0.8]);
        }
        assert_eq!(unit(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
