//! A single prompt: text streamed to stdout, or one JSON object.

use std::io::Read;
use std::path::Path;

use host::engine::{Engine, FinishReason, Request};

use crate::chat::{self, Message};
use crate::error::CliError;
use crate::generate::{Answer, SecondPress, generate};
use crate::mode::PromptSource;
use crate::output;
use crate::settings::Settings;

/// What to print of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Print {
    /// Its text, as it comes.
    Text,
    /// One object, with log-probabilities of this many tokens a step if any.
    Json { logprobs: Option<usize> },
}

/// Answers one prompt.
///
/// # Errors
/// Bad prompts, request failures; `Cancelled` after Ctrl-C, when what was generated is printed.
pub(crate) fn run(
    engine: &Engine,
    source: &PromptSource,
    settings: &Settings,
    print: Print,
) -> Result<(), CliError> {
    let prompt = prompt_tokens(engine, source)?;
    let logprobs = match print {
        Print::Json { logprobs } => logprobs,
        Print::Text => None,
    };
    if let Some(top) = logprobs.filter(|top| *top > engine.info().vocab_size) {
        let message =
            format!("--logprobs {top}: the vocabulary has {} tokens", engine.info().vocab_size);
        return Err(CliError::BadArgument(message));
    }
    let request = Request {
        prompt: prompt.clone(),
        max_tokens: settings.max_tokens,
        sampling: settings.sampling.clone(),
        stop: settings.stop.clone(),
        logprobs,
        ignore_eos: false,
        ..Request::default()
    };
    let stream = print == Print::Text;
    let mut on_text = |text: &str| if stream { output::show(text) } else { Ok(()) };
    let answer = generate(engine, request, SecondPress::EndsProgram, &mut on_text)?;
    match print {
        Print::Json { .. } => output::show_json(&output::answer_json(&prompt, &answer))?,
        Print::Text if engine.tokenizer().is_none() => {
            output::show_line(&ids_line(&answer.tokens))?
        }
        Print::Text => output::show_line("")?,
    }
    note!("{}", output::timings_line(&answer));
    note_full_context(engine, prompt.len(), &answer, settings);
    match answer.reason {
        FinishReason::Cancelled => Err(CliError::Cancelled),
        _ => Ok(()),
    }
}

/// Says when the context, not `max_tokens`, cut the answer off.
pub(crate) fn note_full_context(
    engine: &Engine,
    prompt: usize,
    answer: &Answer,
    settings: &Settings,
) {
    if answer.reason == FinishReason::Length && answer.tokens.len() < settings.max_tokens {
        note!(
            "imp-cli: the answer was cut off: {prompt} prompt tokens and {} generated ones fill the \
             context of {} (see --max-seq-len)",
            answer.tokens.len(),
            engine.info().max_seq_len,
        );
    }
}

/// Without a vocabulary an answer is its ids.
fn ids_line(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn prompt_tokens(engine: &Engine, source: &PromptSource) -> Result<Vec<u32>, CliError> {
    let text = match source {
        PromptSource::Tokens(ids) => return check_ids(ids, engine.info().vocab_size),
        PromptSource::Text(text) => text.clone(),
        PromptSource::File(path) => read_text("--prompt-file", path)?,
    };
    chat::prompt_tokens(engine, &[Message::user(text)])
}

fn check_ids(ids: &[u32], vocab_size: usize) -> Result<Vec<u32>, CliError> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(CliError::BadArgument(format!(
            "--prompt-tokens: {id} is not in the vocabulary of {vocab_size} tokens"
        ))),
        None => Ok(ids.to_vec()),
    }
}

/// The UTF-8 text of a file named by `flag`; `-` is stdin.
///
/// # Errors
/// `File` when it cannot be read, `BadArgument` with the place when it is not UTF-8.
pub(crate) fn read_text(flag: &'static str, path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| CliError::file(flag, path, source))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::BadArgument(format!("{flag} {} is not UTF-8 (byte {at})", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_the_vocabulary_are_refused() {
        assert_eq!(check_ids(&[0, 9], 10).unwrap(), [0, 9]);
        let error = check_ids(&[0, 10], 10).unwrap_err();
        assert_eq!(error.code(), 1);
        assert!(error.to_string().contains("10 is not in the vocabulary of 10"), "{error}");
    }

    #[test]
    fn prompt_files_must_exist_and_be_utf8() {
        let dir = std::env::temp_dir().join(format!("imp-cli-run-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let missing = read_text("--prompt-file", &dir.join("missing")).unwrap_err();
        assert_eq!(missing.code(), 4);
        std::fs::write(dir.join("latin1"), b"caf\xe9").unwrap();
        let latin1 = read_text("--prompt-file", &dir.join("latin1")).unwrap_err();
        assert_eq!(latin1.code(), 1);
        assert!(latin1.to_string().contains("byte 3"), "{latin1}");
        std::fs::write(dir.join("utf8"), "café\n").unwrap();
        assert_eq!(read_text("--prompt-file", &dir.join("utf8")).unwrap(), "café\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
