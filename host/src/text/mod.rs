//! Text in and out: tokenizer, streaming detokenisation, stop strings, chat templates, and what
//! an answer means.

pub mod literal;
pub mod output;
pub mod stop;
pub mod stream;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokenizer;

pub use literal::Literals;
pub use output::{OutputParser, OutputSettings, Piece, ReasoningFormat, ThinkMarkers, ToolFormat};
pub use stop::StopMatcher;
pub use stream::DetokenStream;
pub use template::{ChatInput, ChatTemplate, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
