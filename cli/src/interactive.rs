//! The chat: turns and commands from a terminal, or one input a line from a pipe.
//!
//! The conversation is sent whole every turn; the engine finds its beginning in the cache. Only
//! the model's text goes to stdout.

use std::io::{self, IsTerminal};

use host::engine::{Engine, FinishReason, Request};

use crate::chat::{self, Message};
use crate::commands::{Command, HELP, Input, Lines, parse};
use host::program::chain;

use crate::error::CliError;
use crate::generate::{SecondPress, generate};
use crate::interrupt;
use crate::output;
use crate::readline::{Line, Reader};
use crate::run::note_full_context;
use crate::settings::Settings;

/// Chats until `/exit` or the end of the input.
///
/// # Errors
/// When the terminal or stdout fails; what concerns one turn is reported and the chat goes on.
pub(crate) fn interactive(engine: &Engine, settings: Settings) -> Result<(), CliError> {
    if engine.tokenizer().is_none() {
        return Err(CliError::BadArgument(
            "--interactive: the model has no vocabulary to chat with".to_owned(),
        ));
    }
    let mut reader = Reader::open()?;
    let mut chat = Chat { engine, settings, messages: Vec::new() };
    let terminal = io::stdin().is_terminal();
    // A press that comes late, when the answer has just ended, must not end the chat.
    let _guard = terminal.then(interrupt::ignored);
    if terminal {
        note!("{}: /help lists the commands, Ctrl-D ends", engine.info().description);
    }
    let mut lines = Lines::default();
    loop {
        let input = match reader.line(lines.is_open())? {
            Line::Text(line) => lines.push(&line),
            Line::Interrupted => {
                if !lines.is_open() {
                    note!("Ctrl-D or /exit ends; Ctrl-C stops an answer");
                }
                lines.clear();
                None
            }
            Line::End => match lines.finish() {
                Some(rest) => Some(rest),
                None => return Ok(()),
            },
        };
        let Some(input) = input else { continue };
        reader.remember(&input);
        match chat.take(&input) {
            Ok(Next::Continue) => {}
            Ok(Next::Exit) => return Ok(()),
            Err(error @ (CliError::BrokenPipe | CliError::Io { .. })) => return Err(error),
            Err(error) => note!("imp-cli: {}", chain(&error)),
        }
    }
}

/// Whether the chat goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Exit,
}

struct Chat<'a> {
    engine: &'a Engine,
    settings: Settings,
    messages: Vec<Message>,
}

impl Chat<'_> {
    fn take(&mut self, input: &str) -> Result<Next, CliError> {
        match parse(input).map_err(CliError::BadArgument)? {
            None => {}
            Some(Input::Turn(text)) => {
                self.messages.push(Message::user(text));
                self.answer()?;
            }
            Some(Input::Command(Command::Exit)) => return Ok(Next::Exit),
            Some(Input::Command(command)) => self.run(command)?,
        }
        Ok(Next::Continue)
    }

    fn run(&mut self, command: Command) -> Result<(), CliError> {
        match command {
            Command::Help => note!("{}", HELP.trim_end()),
            Command::Clear => self.messages.clear(),
            Command::Regen => return self.regenerate(),
            Command::Save(path) => {
                chat::save(&path, &self.messages)?;
                note!("{} messages written to {}", self.messages.len(), path.display());
            }
            Command::Load(path) => {
                self.messages = chat::load(&path)?;
                note!("{} messages read from {}", self.messages.len(), path.display());
            }
            Command::Image => {
                let message = "/image is not supported yet: this build has no vision encoder";
                return Err(CliError::Unsupported(message.to_owned()));
            }
            Command::List => note!("{}", self.settings.list().trim_end()),
            Command::Set(key, value) => {
                self.settings.set(&key, &value).map_err(CliError::BadArgument)?
            }
            Command::Exit => {} // ends the chat in `take`
        }
        Ok(())
    }

    /// Answers the last turn of the user again; when that fails, the old answer stays.
    fn regenerate(&mut self) -> Result<(), CliError> {
        let Some(last) = self.messages.iter().rposition(|message| message.role == "user") else {
            return Err(CliError::BadArgument("/regen: there is no turn to answer yet".to_owned()));
        };
        let before = self.messages.clone();
        self.messages.truncate(last + 1);
        let answered = self.answer();
        if self.messages.len() <= last + 1 {
            self.messages = before;
        }
        answered
    }

    /// Answers the conversation, whose last message is the user's. Without an answer that message
    /// is taken back, so that the conversation is what it was.
    fn answer(&mut self) -> Result<(), CliError> {
        let answered = self.generate();
        match &answered {
            Ok(text) if !text.is_empty() => self.messages.push(Message::assistant(text.clone())),
            _ => {
                self.messages.pop();
            }
        }
        answered.map(|_| ())
    }

    fn generate(&self) -> Result<String, CliError> {
        let prompt = chat::prompt_tokens(self.engine, &self.messages)?;
        let prompt_len = prompt.len();
        let request = Request {
            prompt,
            max_tokens: self.settings.max_tokens,
            sampling: self.settings.sampling.clone(),
            stop: self.settings.stop.clone(),
            logprobs: None,
            ignore_eos: false,
            ..Request::default()
        };
        let mut shown = false;
        let mut on_text = |text: &str| {
            shown = true;
            output::show(text)
        };
        let answer = generate(self.engine, request, SecondPress::Ignored, &mut on_text);
        if shown || answer.is_ok() {
            output::show_line("")?;
        }
        let answer = answer?;
        note!("[{}]", output::timings_line(&answer));
        note_full_context(self.engine, prompt_len, &answer, &self.settings);
        match answer.reason {
            FinishReason::Cancelled if answer.text.is_empty() => {
                note!("stopped before the answer began; your turn was taken back");
            }
            FinishReason::Cancelled => {
                note!("stopped; what was said stays in the conversation")
            }
            _ if answer.text.is_empty() => {
                note!("the answer is empty; your turn was taken back")
            }
            _ => {}
        }
        Ok(answer.text)
    }
}
