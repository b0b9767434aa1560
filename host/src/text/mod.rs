//! Text in and out: tokenizer, streaming detokenisation, stop strings, chat templates.

pub mod literal;
pub mod stop;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use literal::Literals;
pub use stop::StopMatcher;
pub use stream::DetokenStream;
pub use template::{ChatInput, ChatTemplate, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
