//! The seam between generated text and what an answer is made of.
//!
//! A [`Splitter`] takes text as it comes and gives pieces. Whatever it holds back it gives at the
//! end, and the pieces do not depend on where the text was cut. [`plain`] takes all text as
//! content; it is the only one there is.

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Thoughts of the model.
    Reasoning(String),
    /// What it says.
    Content(String),
    /// A tool call begins; calls are numbered from 0.
    ToolStart {
        /// Its number.
        index: usize,
        /// The id that the model gave it.
        id: Option<String>,
        /// The tool.
        name: String,
    },
    /// More of a tool call's arguments, as JSON text.
    ToolArguments {
        /// The call's number.
        index: usize,
        /// The text.
        fragment: String,
    },
}

/// Splits one answer.
pub trait Splitter: Send {
    /// What `text` makes certain.
    fn push(&mut self, text: &str) -> Vec<Piece>;
    /// What was held back.
    fn finish(&mut self) -> Vec<Piece>;
}

/// All text is content.
pub fn plain() -> Box<dyn Splitter> {
    struct Plain;
    impl Splitter for Plain {
        fn push(&mut self, text: &str) -> Vec<Piece> {
            if text.is_empty() { vec![] } else { vec![Piece::Content(text.to_owned())] }
        }
        fn finish(&mut self) -> Vec<Piece> {
            vec![]
        }
    }
    Box::new(Plain)
}

/// What the text of an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema(serde_json::Value),
    /// Text that a regular expression accepts.
    Regex(String),
    /// Text of a Lark grammar.
    Lark(String),
    /// Text of a GBNF grammar.
    Gbnf(String),
}

impl Constraint {
    /// What it is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::JsonObject => "a JSON object",
            Self::JsonSchema(_) => "a JSON schema",
            Self::Regex(_) => "a regular expression",
            Self::Lark(_) => "a Lark grammar",
            Self::Gbnf(_) => "a GBNF grammar",
        }
    }
}
