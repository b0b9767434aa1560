//! What can be wrong with a grammar.

/// Why an answer cannot be constrained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// It is larger than what is compiled.
    #[error("the {what} is {found}, at most {limit} works")]
    Limit {
        /// What is counted, and in which unit.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It cannot be compiled.
    #[error("the {what} cannot be compiled: {reason}")]
    Invalid {
        /// Which kind of grammar.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The choice names a tool that is not there, or there are none.
    #[error("tool_choice: {0}")]
    Tools(String),
    /// The vocabulary is not one that text can be constrained in.
    #[error("the model's vocabulary cannot be constrained: {0}")]
    Vocabulary(String),
    /// It became too complex while the answer was made.
    #[error("the answer cannot be constrained any further: {0}")]
    Failed(String),
}

impl ConstraintError {
    pub(super) fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), Self> {
        if found > limit { Err(Self::Limit { what, found, limit }) } else { Ok(()) }
    }
}
