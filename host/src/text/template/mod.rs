//! Chat templates: the model's own Jinja, or a built-in one.
//!
//! [`ChatTemplate`] is compiled once and rendered for every conversation. It behaves like the
//! sandboxed environment that `transformers` renders chat templates in: blocks trimmed, Python's
//! string methods and way of printing values, `raise_exception`, `strftime_now`, its `tojson`.
//!
//! A template comes with the model, so it is as untrusted as the rest of the file. Its size, work,
//! recursion, nesting and output are bounded (see [`limits`]), and it reaches nothing of the host:
//! no files, no other templates, no environment. Message content is data, never template source.

mod builtin;
mod functions;
mod input;
pub mod limits;
mod markup;
mod methods;
mod prepare;
mod python;
mod strftime;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use limits::{
    OUTPUT_BYTES, OUTPUT_PER_INPUT_BYTE, RENDER_FUEL, VALUE_DEPTH, on_deep_stack, render_fuel,
    render_stack_bytes,
};

pub use builtin::BUILTIN_NAMES;

/// Name of the one template in an environment.
const NAME: &str = "chat";

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The source is not Jinja.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The template refused the conversation (`raise_exception`); the message is its own.
    #[error("the chat template refuses this conversation: {message} (line {line})")]
    Refused {
        /// Line of the template, from 1.
        line: usize,
        /// The template's own words.
        message: String,
    },
    /// An operation of the template failed, such as a look-up in something undefined.
    #[error("chat template, line {line}: {reason}")]
    Failed {
        /// Line of the template, from 1.
        line: usize,
        /// What failed.
        reason: String,
    },
    /// The template, or what it does, is larger than allowed.
    #[error("chat template{}: {limit}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Limit {
        /// Line of the template, from 1, where there is one.
        line: Option<usize>,
        /// The limit that was reached.
        limit: TemplateLimit,
    },
    /// A variable of `extra` would replace one that the conversation itself sets.
    #[error("chat template variable {name:?} is set by the conversation and cannot be passed")]
    Reserved {
        /// Name of the variable.
        name: String,
    },
    /// The template engine itself failed.
    #[error("chat template engine: {reason}")]
    Engine {
        /// What happened.
        reason: String,
    },
}

/// A bound on what a template may be or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateLimit {
    /// Size of the source.
    #[error("the source is {found} bytes long, the limit is {limit}")]
    SourceBytes {
        /// Its size.
        found: usize,
        /// The most allowed.
        limit: usize,
    },
    /// Tokens in one `{{ }}` or `{% %}`.
    #[error("one tag is longer than the limit of {limit} tokens")]
    TagTokens {
        /// The most allowed.
        limit: usize,
    },
    /// Number of `elif` in the whole template.
    #[error("more `elif` than the limit of {limit}")]
    Branches {
        /// The most allowed.
        limit: usize,
    },
    /// Nesting of the source's own blocks and brackets.
    #[error("blocks or brackets are nested deeper than the engine's limit")]
    SourceDepth,
    /// Work of one rendering.
    #[error("rendering stopped at its limit of {fuel} steps (an endless loop, or huge data?)")]
    Fuel {
        /// The steps allowed for this conversation.
        fuel: u64,
    },
    /// Nesting of macro calls and recursive loops.
    #[error("macros or loops call themselves deeper than the recursion limit")]
    Recursion,
    /// Size of the rendered prompt.
    #[error("the prompt exceeds the limit of {limit} bytes for this conversation")]
    OutputBytes {
        /// The most allowed for this conversation.
        limit: usize,
    },
    /// Size of a list, mapping or tuple that the template writes out.
    #[error("a list or mapping holds more than the limit of {limit} values, all levels counted")]
    ValueItems {
        /// The most allowed for this conversation.
        limit: usize,
    },
    /// Nesting of lists and mappings, in the conversation or in what the template builds.
    #[error("lists or mappings are nested deeper than the limit of {limit}")]
    ValueDepth {
        /// The most allowed.
        limit: usize,
    },
}

/// A compiled chat template.
///
/// Cheap to render many times and from many threads at once.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// What a template is rendered from.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// OpenAI-style messages.
    pub messages: Vec<Value>,
    /// OpenAI-style tools; without any the template sees `tools` as none, as `transformers` does.
    pub tools: Option<Vec<Value>>,
    /// Ends with the head of an assistant turn.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub extra: Map<String, Value>,
    /// Seconds since the epoch, local time, for `strftime_now`.
    pub now: i64,
}

impl ChatTemplate {
    /// Compiles Jinja source. `bos` and `eos` are the spellings given to the template.
    ///
    /// # Errors
    /// `Syntax` with the line and what is wrong with it, or the `Limit` that the source exceeds.
    pub fn from_source(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let prepared = prepare::prepare(source, &syntax()?)?;
        let environment = on_deep_stack(limits::COMPILE_STACK_BYTES, || {
            let mut environment = Environment::empty();
            functions::install(&mut environment);
            functions::measure_values(&mut environment, 0); // known now, replaced when rendering
            environment.set_syntax(syntax()?);
            environment.set_recursion_limit(limits::RECURSION);
            environment.set_debug(false);
            environment.set_fuel(Some(RENDER_FUEL));
            environment
                .add_template_owned(NAME, prepared)
                .map_err(|error| explain(&error, RENDER_FUEL))?;
            Ok(environment)
        })?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// One of [`BUILTIN_NAMES`], the names of `--chat-template` but `auto` and `none`; `None` when
    /// unknown.
    pub fn builtin(name: &str, bos: &str, eos: &str) -> Option<Self> {
        let source = builtin::source(name)?;
        Some(Self::from_source(source, bos, eos).expect("built-in templates compile"))
    }

    /// The source it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt text. It starts with BOS where the template writes it.
    ///
    /// # Errors
    /// `Refused` with the template's own message, `Failed` where an operation fails, the `Limit`
    /// that it ran into, or `Reserved` when `input.extra` names a variable of the conversation.
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        let input::Size { bytes: input_bytes, items: input_items } = input::size(input)?;
        let fuel = render_fuel(input_bytes);
        let limit = OUTPUT_BYTES.saturating_add(OUTPUT_PER_INPUT_BYTE.saturating_mul(input_bytes));
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        functions::measure_values(&mut environment, input_items);
        on_deep_stack(render_stack_bytes(fuel), || {
            let context = input::context(input, &self.bos, &self.eos)?;
            let template = environment.get_template(NAME).map_err(|e| explain(&e, fuel))?;
            let mut output = BoundedOutput { bytes: Vec::new(), limit, exceeded: false };
            let rendered = template.render_captured_to(context, &mut output).map(drop);
            if output.exceeded {
                let line = rendered.err().and_then(|error| error.line());
                return Err(limit_at(line, TemplateLimit::OutputBytes { limit }));
            }
            rendered.map_err(|error| explain(&error, fuel))?;
            String::from_utf8(output.bytes)
                .map_err(|error| TemplateError::Engine { reason: error.to_string() })
        })
    }
}

/// The delimiters of Jinja, blocks trimmed as `transformers` sets them.
fn syntax() -> Result<SyntaxConfig, TemplateError> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| TemplateError::Engine { reason: error.to_string() })
}

fn limit_at(line: Option<usize>, limit: TemplateLimit) -> TemplateError {
    TemplateError::Limit { line, limit }
}

/// What the engine reports, in our terms. A refusal or limit may lie below wrapping errors.
fn explain(error: &minijinja::Error, fuel: u64) -> TemplateError {
    let line = error.line();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(functions::Refusal(message)) = current.downcast_ref() {
            return TemplateError::Refused { line: line.unwrap_or(0), message: message.clone() };
        }
        if let Some(limit) = current.downcast_ref::<TemplateLimit>() {
            return limit_at(line, *limit);
        }
        if let Some(error) = current.downcast_ref::<minijinja::Error>()
            && let Some(limit) = engine_limit(error, fuel)
        {
            return limit_at(error.line().or(line), limit);
        }
        cause = current.source();
    }
    let detail = error.detail().unwrap_or_default();
    let reason = match (error.kind(), detail) {
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, detail) if !detail.is_empty() => {
            detail.to_owned()
        }
        (kind, "") => kind.to_string(),
        (kind, detail) => format!("{kind}: {detail}"),
    };
    let line = line.unwrap_or(0);
    match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => TemplateError::Syntax { line, reason },
        _ => TemplateError::Failed { line, reason },
    }
}

/// The limits that the engine itself enforces have no error kind of their own but fuel.
fn engine_limit(error: &minijinja::Error, fuel: u64) -> Option<TemplateLimit> {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => Some(TemplateLimit::Fuel { fuel }),
        (_, Some("recursion limit exceeded")) => Some(TemplateLimit::Recursion),
        (_, Some("template exceeds maximum recursion limits")) => Some(TemplateLimit::SourceDepth),
        _ => None,
    }
}

/// The error of a value nested too deep, in the engine's type.
fn too_deep() -> minijinja::Error {
    let limit = TemplateLimit::ValueDepth { limit: VALUE_DEPTH };
    minijinja::Error::new(ErrorKind::InvalidOperation, limit.to_string()).with_source(limit)
}

/// Takes the rendered bytes up to a limit.
struct BoundedOutput {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("the rendered prompt is too large"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
